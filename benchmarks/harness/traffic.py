"""One client in a closed loop, in a process of its own, that notes when each call began and how it ended."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import grpc

from harness.processes import ChildFailedError
from harness.small_models import Questions
from satrap.protos import inference_pb2, inference_pb2_grpc

__all__ = ["Call", "Traffic"]

_DEADLINE_SECONDS = 5.0
"""A call that is not answered by then is lost."""
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """One call. Times are of CLOCK_MONOTONIC, which all processes share."""

    began: float
    ended: float
    problem: str
    """Empty: it was answered right."""


class Traffic:
    """The client's process. A context manager: leaving it ends the traffic."""

    def __init__(self, address: str, questions: Questions, versions: Sequence[str]) -> None:
        """Call the server at `host:port`, naming no version; an answer of any of `versions` is right."""
        self._work = (address, questions, tuple(versions))

    def __enter__(self) -> Self:
        """Start, and wait for the first call to be answered.

        Raises:
            ChildFailedError: it was not, within a minute.
        """
        context = get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_call_until_told, args=(other, *self._work), name="traffic")
        self._process.start()
        if not self._connection.poll(_START_SECONDS):
            self._process.kill()
            raise ChildFailedError("the client made no call within a minute")
        self._connection.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, if `stop` has not."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def stop(self) -> list[Call]:
        """End the traffic after the call it is at, and return every call."""
        self._connection.send("stop")
        calls: list[Call] = self._connection.recv()
        self._process.join()
        return calls


def _call_until_told(
    connection: Connection, address: str, questions: Questions, versions: Sequence[str]
) -> None:
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    predictions = inference_pb2_grpc.InferenceAPIsServiceStub(channel).Predictions
    requests = [inference_pb2.PredictionsRequest.FromString(payload) for payload in questions.payloads]
    right = [{questions.answer(number, version) for version in versions} for number in range(len(requests))]
    calls: list[Call] = []
    with closing(channel):
        while not connection.poll():
            for request, answers in zip(requests, right, strict=True):
                began, problem = time.monotonic(), ""
                try:
                    answer = predictions(request, timeout=_DEADLINE_SECONDS).prediction
                    if answer not in answers:
                        problem = "a wrong answer"
                except grpc.RpcError as error:
                    problem = f"{error.code().name} {error.details()}"
                calls.append(Call(began, time.monotonic(), problem))
                if len(calls) == 1:
                    connection.send("started")
    connection.recv()
    connection.send(calls)
