"""TorchServe's gRPC inference API on top of the model service."""

import json
import time
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import empty_pb2

from satrap.errors import SatrapError
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.frames import STALE_HEADER, STALENESS_HEADER
from satrap.serving.model_service import ModelService
from satrap.serving.status import inference_status, status_of_code

__all__ = ["InferenceApi"]

OK = 200

_TIMING = "satrap-timing"

_STREAMS = "satrap does not serve StreamPredictions and StreamPredictions2 yet: call Predictions"


class InferenceApi(inference_pb2_grpc.InferenceAPIsServiceServicer):
    """Ping and Predictions."""

    def __init__(self, service: ModelService) -> None:
        """Serve that service's models."""
        self._service = service

    async def Ping(  # noqa: N802 (the RPC's name)
        self, request: empty_pb2.Empty, context: grpc.aio.ServicerContext[Any, Any]
    ) -> inference_pb2.TorchServeHealthResponse:
        """TorchServe's health document."""
        health = "Healthy" if self._service.is_healthy() else "Unhealthy"
        return inference_pb2.TorchServeHealthResponse(health=f'{{\n  "status": "{health}"\n}}')

    async def Predictions(  # noqa: N802
        self,
        request: inference_pb2.PredictionsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> inference_pb2.PredictionResponse:
        """One prediction; the client's deadline counts while the request waits.

        A client that sends the metadata `satrap-timing` gets it back in the trailing metadata: milliseconds by name,
        `server` from here to here, `handler` and its parts as the worker measured them. An answer made from embeddings
        that may be out of date has `satrap-stale: 1` there, asked for or not, and one whose embeddings' age is known
        `satrap-staleness-ms`.
        """
        started = time.perf_counter()
        try:
            prediction = await self._service.predict(
                request.model_name,
                request.model_version,
                dict(request.input),
                patience=context.time_remaining(),
            )
        except SatrapError as error:
            await _abort(context, *inference_status(error))
        if prediction.code != OK:
            text = prediction.value.decode("utf-8", "replace")
            await _abort(context, status_of_code(prediction.code), text)
        trailing: list[tuple[str, str]] = []
        if any(key == _TIMING for key, _ in context.invocation_metadata() or ()):
            times = {"server": (time.perf_counter() - started) * 1e3, **prediction.times}
            trailing.append((_TIMING, json.dumps(times)))
        if prediction.is_stale:
            trailing.append((STALE_HEADER, "1"))
        if prediction.staleness_ms is not None:
            trailing.append((STALENESS_HEADER, str(prediction.staleness_ms)))
        if trailing:
            context.set_trailing_metadata(tuple(trailing))
        return inference_pb2.PredictionResponse(prediction=prediction.value)

    async def StreamPredictions(  # noqa: N802
        self, request: inference_pb2.PredictionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Refused."""
        await _abort(context, grpc.StatusCode.UNIMPLEMENTED, _STREAMS)

    async def StreamPredictions2(  # noqa: N802
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Refused."""
        await _abort(context, grpc.StatusCode.UNIMPLEMENTED, _STREAMS)


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, details: str
) -> NoReturn:
    await context.abort(code, details)
    raise AssertionError("abort always raises")
