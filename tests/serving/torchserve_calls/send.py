"""Sends calls to a running server, whichever it is."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from satrap.protos import inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc
from torchserve_calls.answer import Answer, no_answer, rest_answer, rpc_answer
from torchserve_calls.call import Api, Call, Ready, Rest, Rpc, Scenario, name_calls

__all__ = ["Addresses", "NotReadyError", "Sender", "run_scenario"]

_SECONDS = 30.0
_STREAM_SECONDS = 10.0
_STREAM = "StreamPredictions2"
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class NotReadyError(Exception):
    """A version did not get the workers that the calls wait for."""


@dataclass(frozen=True)
class Addresses:
    """Where a server listens: `host:port` each."""

    rest: Mapping[Api, str]
    grpc_inference: str
    grpc_management: str
    key_file: Path
    """Where it keeps its tokens, if it has any."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Values for `$NAME` in calls."""


class Sender:
    """Connections to one server. A context manager."""

    def __init__(self, addresses: Addresses) -> None:
        """Only remembers; `__enter__` opens."""
        self._addresses = addresses

    def __enter__(self) -> Self:
        """Open the channels; HTTP opens a connection for each request."""
        self._channels = [
            grpc.insecure_channel(address, options=_UNLIMITED)
            for address in (self._addresses.grpc_inference, self._addresses.grpc_management)
        ]
        self._inference = inference_pb2_grpc.InferenceAPIsServiceStub(self._channels[0])
        self._management = management_pb2_grpc.ManagementAPIsServiceStub(self._channels[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channels."""
        for channel in self._channels:
            channel.close()

    def send(self, call: Call) -> Answer:
        """Send it and wait for the answer."""
        return self._rest(call) if isinstance(call, Rest) else self._rpc(call)

    def wait(self, ready: Ready) -> None:
        """Wait until the version has its workers.

        Raises:
            NotReadyError: it had not within half a minute.
        """
        deadline = time.monotonic() + _SECONDS
        fields = {"model_name": ready.model, "model_version": ready.version}
        describe = Rpc("DescribeModel", (fields,), metadata=(("authorization", "Bearer $MANAGEMENT_KEY"),))
        while time.monotonic() < deadline:
            answer = self._answer_of(self._filled(describe))
            if isinstance(answer, str):
                workers = json.loads(answer)[0]["workers"]
                if len(workers) == ready.workers and all(one["status"] == "READY" for one in workers):
                    return
            time.sleep(0.05)
        raise NotReadyError(f"{ready} did not come true: {answer}")

    def _answer_of(self, describe: Rpc) -> str | grpc.RpcError:
        try:
            request = management_pb2.DescribeModelRequest(**describe.messages[0])
            answer = self._management.DescribeModel(request, timeout=_SECONDS, metadata=describe.metadata)
        except grpc.RpcError as error:
            return error
        return str(answer.msg)

    def _rest(self, call: Rest) -> Answer:
        call = replace(
            call,
            target=self._fill(call.target),
            headers=[(name, self._fill(value)) for name, value in call.headers],
        )
        host, _, port = self._addresses.rest[call.api].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=_SECONDS)
        try:
            connection.putrequest(call.method, call.target, skip_accept_encoding=True)
            names = {name.lower() for name, _ in call.headers}
            for name, value in call.headers:
                connection.putheader(name, value)
            body = (
                call.body
                if call.body.find(b"$") < 0
                else self._fill(call.body.decode("latin-1")).encode("latin-1")
            )
            if body and not names & {"content-length", "transfer-encoding"}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return rest_answer(answer.status, answer.getheaders(), answer.read())
        except (OSError, http.client.HTTPException) as error:
            return no_answer(error)
        finally:
            connection.close()

    def _rpc(self, call: Rpc) -> Answer:
        call = self._filled(call)
        messages: list[dict[str, Any]] = []
        try:
            messages.extend(map(_fields, self._answers(call)))
        except grpc.RpcError as error:
            return rpc_answer(error.code().name, error.details() or "", messages)
        return rpc_answer("OK", "", messages)

    def _answers(self, call: Rpc) -> Any:
        streams = "Stream" in call.method
        options: dict[str, Any] = {
            "timeout": _STREAM_SECONDS if streams else _SECONDS,
            "metadata": call.metadata,
        }
        requests = [_request(call.method, message) for message in call.messages]
        stub = self._inference if hasattr(self._inference, call.method) else self._management
        method = getattr(stub, call.method)
        if call.method == _STREAM:
            return method(iter(requests), **options)
        if call.method == "StreamPredictions":
            return method(requests[0], **options)
        return [method(requests[0], **options)]

    def _filled(self, call: Rpc) -> Rpc:
        return replace(
            call,
            messages=[
                {key: self._fill(value) if isinstance(value, str) else value for key, value in one.items()}
                for one in call.messages
            ],
            metadata=[(key, self._fill(value)) for key, value in call.metadata],
        )

    def _fill(self, text: str) -> str:
        if "$" not in text:
            return text
        for name, value in {**self._addresses.places, **_keys(self._addresses.key_file)}.items():
            text = text.replace(f"${name}", value)
        return text


def run_scenario(sender: Sender, scenario: Scenario) -> dict[str, Answer]:
    """Send every call of a scenario, in order: answers by the calls' names."""
    answers: dict[str, Answer] = {}
    for name, step in name_calls(scenario.steps):
        if isinstance(step, Ready):
            sender.wait(step)
        else:
            answers[name] = sender.send(step)
    return answers


def _request(method: str, fields: Mapping[str, Any]) -> Message:
    if method == "Ping":
        from google.protobuf import empty_pb2

        return empty_pb2.Empty()
    if "Predictions" in method:
        return inference_pb2.PredictionsRequest(**fields)
    kind: type[Message] = getattr(management_pb2, f"{method}Request")
    return kind(**fields)


def _fields(message: Message) -> dict[str, Any]:
    return {one.name: _value(getattr(message, one.name)) for one, _ in message.ListFields()}


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return {name: str(inner) for name, inner in _fields(value).items()}
    return value


def _keys(key_file: Path) -> dict[str, str]:
    if not key_file.exists():
        return {}
    keys = json.loads(key_file.read_text())
    return {f"{purpose.upper()}_KEY": entry["key"] for purpose, entry in keys.items()}
