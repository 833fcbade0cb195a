"""Calls of the gRPC inference API, told to the log of calls as they end; no server here."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from satrap.protos import inference_pb2
from satrap.serving.inference_api import InferenceApi
from satrap.serving.metrics.calls import CANCELLED, INTERNAL_ERROR, CallLog
from satrap.serving.query import Query
from satrap.serving.request import OK, Prediction


class Parts:
    """A model service whose model sends two parts, and fails if it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails

    async def stream(self, query: Query) -> AsyncGenerator[Prediction, None]:
        for value in (b"a", b"b"):
            yield Prediction(OK, value, {})
        if self._fails:
            raise RuntimeError("nobody foresaw it")


class Context:
    """Of a call without a deadline and without metadata."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()


def statuses(service: Any, parts: int) -> list[int]:
    """What is counted for a stream of which a client takes so many parts and no more."""
    counted: list[int] = []
    context: Any = Context()

    async def take() -> None:
        api = InferenceApi(service, CallLog(counted.append, lines=False))
        request = inference_pb2.PredictionsRequest(model_name="m")
        responses: Any = api.StreamPredictions(request, context)
        try:
            for _ in range(parts):
                await anext(responses)
        except (StopAsyncIteration, RuntimeError):
            pass
        await responses.aclose()

    asyncio.run(take())
    return counted


def test_a_stream_that_is_read_to_its_end() -> None:
    assert statuses(Parts(), 3) == [OK]


def test_a_stream_whose_client_goes_away_after_some_parts() -> None:
    assert statuses(Parts(), 1) == [CANCELLED]


def test_a_stream_that_fails_after_some_parts() -> None:
    assert statuses(Parts(fails=True), 3) == [INTERNAL_ERROR]
