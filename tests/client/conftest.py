"""A server of TorchServe's two APIs whose answers a test chooses: real gRPC on a port that the kernel chose."""

import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from satrap.protos import inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc


@dataclass(frozen=True)
class Refusal:
    """What the server answers instead of a response."""

    status: grpc.StatusCode
    details: str


class ScriptedServer:
    """Keeps what it was asked; `answers` are given in turn, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any, dict[str, str]]] = []
        self.answers: list[str | bytes | Refusal | Callable[[grpc.ServicerContext], bytes]] = []
        self.address = ""

    @staticmethod
    def refusal(status: grpc.StatusCode, details: str) -> Refusal:
        return Refusal(status, details)

    def next(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append((method, request, dict(context.invocation_metadata())))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Refusal):
            context.abort(answer.status, answer.details)
        return answer(context) if callable(answer) else answer


class _Inference(inference_pb2_grpc.InferenceAPIsServiceServicer):
    def __init__(self, script: ScriptedServer) -> None:
        self.script = script

    def Ping(self, request: Any, context: grpc.ServicerContext) -> Any:
        return inference_pb2.TorchServeHealthResponse(health=self.script.next("Ping", request, context))

    def Predictions(self, request: Any, context: grpc.ServicerContext) -> Any:
        return inference_pb2.PredictionResponse(prediction=self.script.next("Predictions", request, context))

    def StreamPredictions(self, request: Any, context: grpc.ServicerContext) -> Any:
        yield inference_pb2.PredictionResponse(
            prediction=self.script.next("StreamPredictions", request, context)
        )
        while len(self.script.answers) > 1:
            part = self.script.next("part", request, context)
            yield inference_pb2.PredictionResponse(prediction=part)


class _Management(management_pb2_grpc.ManagementAPIsServiceServicer):
    def __init__(self, script: ScriptedServer) -> None:
        self.script = script

    def __getattribute__(self, name: str) -> Any:
        if name == "script" or name.startswith("_"):
            return super().__getattribute__(name)
        return lambda request, context: management_pb2.ManagementResponse(
            msg=self.script.next(name, request, context)
        )


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A started server; set its `answers` before asking."""
    script = ScriptedServer()
    grpc_server = grpc.server(futures.ThreadPoolExecutor(4))
    inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(_Inference(script), grpc_server)
    management_pb2_grpc.add_ManagementAPIsServiceServicer_to_server(_Management(script), grpc_server)
    script.address = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    grpc_server.start()
    yield script
    grpc_server.stop(0).wait()


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address where connections are refused: a port that is bound and not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"
