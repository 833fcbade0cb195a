"""TorchServe's gRPC inference API on top of the model service."""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import NoReturn, Self

from google.protobuf import empty_pb2

from satrap.errors import SatrapError
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.rpc import AioContext
from satrap.serving.headers import SEQUENCE_ID_HEADER, STALE_HEADER, STALENESS_HEADER, TIMING_HEADER
from satrap.serving.in_order import in_order
from satrap.serving.metrics.calls import CANCELLED, INTERNAL_ERROR, CallLog
from satrap.serving.model_service import ModelService
from satrap.serving.prediction_message import PredictionMessage
from satrap.serving.query import Query
from satrap.serving.request import OK, Prediction
from satrap.serving.status import Status, inference_status, worker_status

__all__ = ["SERVICE", "InferenceApi"]


SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService/"

STREAMED_AT_ONCE = 32
"""Messages of one StreamPredictions2 call that are worked on before the first of them is answered."""

PredictionsRequest = inference_pb2.PredictionsRequest | PredictionMessage
"""As protobuf parses it, or without its copies."""


class InferenceApi(inference_pb2_grpc.InferenceAPIsServiceServicer):
    """All four calls. The client's deadline counts while a request waits; a cancelled call withdraws its request.

    The status and the headers that a handler sets are for REST only, as in TorchServe.
    """

    def __init__(self, service: ModelService, calls: CallLog | None = None) -> None:
        """Serve that service's models; `calls` is told about every call when it has ended."""
        self._service, self._calls = service, calls

    async def Ping(  # noqa: N802 (the RPC's name)
        self, request: empty_pb2.Empty, context: AioContext
    ) -> inference_pb2.TorchServeHealthResponse:
        """TorchServe's health document."""
        with _Call("Ping", context, self._calls) as call:
            health = "Healthy" if self._service.catalog.is_healthy() else "Unhealthy"
            call.status = OK
        return inference_pb2.TorchServeHealthResponse(health=f'{{\n  "status": "{health}"\n}}')

    async def Predictions(  # noqa: N802
        self, request: PredictionsRequest, context: AioContext
    ) -> inference_pb2.PredictionResponse:
        """One prediction; of a handler that streams, all parts in one.

        A client that sends the metadata `satrap-timing` gets it back in the trailing metadata: milliseconds by name,
        `server` from here to here, `handler` and its parts as the worker measured them. An answer made from embeddings
        that may be out of date has `satrap-stale: 1` there, asked for or not, and one whose embeddings' age is known
        `satrap-staleness-ms`.
        """
        with _Call("Predictions", context, self._calls) as call:
            try:
                prediction = await self._service.predict(_query(request, context.time_remaining()))
            except SatrapError as error:
                await call.fail(error.http_status, inference_status(error))
            await call.pass_on(prediction)
            return inference_pb2.PredictionResponse(prediction=prediction.value)

    async def StreamPredictions(  # noqa: N802
        self, request: PredictionsRequest, context: AioContext
    ) -> AsyncIterator[inference_pb2.PredictionResponse]:
        """One request, and an answer for every part that its handler sends; one, if it does not stream."""
        with _Call("StreamPredictions", context, self._calls) as call:
            try:
                parts = self._service.stream(_query(request, context.time_remaining()))
                async with contextlib.aclosing(parts):
                    async for part in parts:
                        await call.pass_on(part)
                        yield inference_pb2.PredictionResponse(prediction=part.value)
            except SatrapError as error:
                await call.fail(error.http_status, inference_status(error))

    async def StreamPredictions2(  # noqa: N802
        self, request_iterator: AsyncIterator[PredictionsRequest], context: AioContext
    ) -> AsyncIterator[inference_pb2.PredictionResponse]:
        """A prediction for every message, in their order, each with the message's `sequence_id`.

        A message that fails is answered by its `status`, and the next ones are not touched by it.
        """

        async def answer(request: PredictionsRequest) -> inference_pb2.PredictionResponse:
            return await self._answer_in_stream(request, context.time_remaining())

        with _Call("StreamPredictions2", context, self._calls) as call:
            answers = in_order(request_iterator, answer, STREAMED_AT_ONCE)
            async with contextlib.aclosing(answers):
                async for each in answers:
                    yield each
            call.status = OK

    async def _answer_in_stream(
        self, request: PredictionsRequest, patience: float | None
    ) -> inference_pb2.PredictionResponse:
        response = inference_pb2.PredictionResponse()
        if request.HasField("sequence_id"):
            response.sequence_id = request.sequence_id or ""
        try:
            prediction = await self._service.predict(_query(request, patience))
        except SatrapError as error:
            _set_status(response, inference_status(error))
            return response
        if prediction.code == OK:
            response.prediction = prediction.value
        else:
            _set_status(response, _failure(prediction))
        return response


def _query(request: PredictionsRequest, patience: float | None) -> Query:
    # Of the call's headers TorchServe passes nothing on to its handler but the sequence id.
    headers = {SEQUENCE_ID_HEADER: request.sequence_id or ""} if request.HasField("sequence_id") else None
    return Query(request.model_name, request.model_version, dict(request.input), patience, headers=headers)


def _failure(prediction: Prediction) -> Status:
    return worker_status(prediction.code, prediction.value.decode("utf-8", "replace"))


def _set_status(response: inference_pb2.PredictionResponse, status: Status) -> None:
    code, response.status.message = status
    response.status.code = code.value[0]


class _Call:
    """One call from its begin to its end, which the call log is told about."""

    __slots__ = ("_calls", "_context", "_name", "_peer", "_started", "status")

    def __init__(self, name: str, context: AioContext, calls: CallLog | None) -> None:
        self._name, self._context, self._calls = name, context, calls
        self._peer = context.peer() if calls is not None else ""
        self._started = time.perf_counter()
        self.status = CANCELLED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._calls is not None:
            if isinstance(error, Exception) and self.status in (OK, CANCELLED):
                # A message of a stream that cannot be parsed says what it is.
                self.status = getattr(error, "http_status", INTERNAL_ERROR)
            elif error is not None and self.status == OK:  # after some parts of a stream
                self.status = CANCELLED
            seconds = time.perf_counter() - self._started
            self._calls.grpc(SERVICE + self._name, self._peer, self.status, seconds)

    async def fail(self, status: int, answer: Status) -> NoReturn:
        """End with an error, `status` over REST."""
        self.status = status
        code, details = answer
        await self._context.abort(code, details)
        raise AssertionError("abort always raises")

    async def pass_on(self, prediction: Prediction) -> None:
        """Set what goes with a prediction; end with it if it is an error."""
        if prediction.code != OK:
            await self.fail(prediction.code, _failure(prediction))
        self.status = OK
        trailing: list[tuple[str, str]] = []
        if any(key == TIMING_HEADER for key, _ in self._context.invocation_metadata() or ()):
            times = {"server": (time.perf_counter() - self._started) * 1e3, **prediction.times}
            trailing.append((TIMING_HEADER, json.dumps(times)))
        if prediction.is_stale:
            trailing.append((STALE_HEADER, "1"))
        if prediction.staleness_ms is not None:
            trailing.append((STALENESS_HEADER, str(prediction.staleness_ms)))
        if trailing:
            self._context.set_trailing_metadata(tuple(trailing))
