"""The client of TorchServe's inference API for programs that run on asyncio."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf import empty_pb2
from numpy.typing import NDArray

from satrap import rpc
from satrap.client.call import Metadata, metadata_pairs
from satrap.client.inference import BATCH_KEY, Inputs, batch_bytes, parse_health, parse_prediction
from satrap.client.persia_batch import PersiaBatch
from satrap.client.retry import DEFAULT_RETRY, Retry
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.tls import Tls

__all__ = ["AsyncInferenceClient"]


class AsyncInferenceClient:
    """`InferenceClient` with coroutines: the same arguments, the same errors. Belongs to the loop it is first used in.

        async with AsyncInferenceClient("127.0.0.1:7070") as client:
            scores = await client.infer("deepctr", batch)

    A task that is cancelled cancels its call, and the server drops the request if no worker has it yet.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:7070",
        *,
        timeout: float = 60.0,
        metadata: Metadata | None = None,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
    ) -> None:
        """Keep the arguments; nothing connects before the first call. They are those of `InferenceClient`."""
        self.address, self.timeout, self.retry = address, timeout, retry
        self._tls = tls
        self._metadata = dict(metadata or {})
        self._connection: tuple[grpc.aio.Channel, Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that are under way fail."""
        if self._connection is not None:
            (channel, _), self._connection = self._connection, None
            await channel.close(None)

    async def ping(self, *, timeout: float | None = None) -> str:
        """The server's health in its own word, as `InferenceClient.ping`."""
        answer = await self._call("Ping", empty_pb2.Empty(), timeout, None)
        return parse_health(answer.health)

    async def infer(
        self,
        model: str,
        batch: PersiaBatch | bytes,
        *,
        version: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> NDArray[np.generic]:
        """Predictions for a batch of samples, as `InferenceClient.infer`."""
        inputs = {BATCH_KEY: batch_bytes(batch)}
        return parse_prediction(
            await self.predict(model, inputs, version=version, timeout=timeout, metadata=metadata)
        )

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> bytes:
        """What a handler answers to named inputs, as `InferenceClient.predict`."""
        request = inference_pb2.PredictionsRequest(model_name=model, model_version=version, input=inputs)
        answer = await self._call("Predictions", request, timeout, metadata)
        return bytes(answer.prediction)

    async def stream(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncIterator[bytes]:
        """What a handler answers part by part, as `InferenceClient.stream`."""
        request = inference_pb2.PredictionsRequest(model_name=model, model_version=version, input=inputs)
        call = self._stub().StreamPredictions(
            request,
            timeout=self.timeout if timeout is None else timeout,
            metadata=metadata_pairs({**self._metadata, **(metadata or {})}),
        )
        try:
            async for part in call:
                yield bytes(part.prediction)
        except grpc.RpcError as failure:
            raise rpc.error_from_rpc(failure) from failure
        finally:
            call.cancel()

    async def _call(self, name: str, request: Any, timeout: float | None, metadata: Metadata | None) -> Any:
        method = getattr(self._stub(), name)
        pairs = metadata_pairs({**self._metadata, **(metadata or {})})
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        attempt = 1
        while True:
            try:
                return await method(request, timeout=max(deadline - time.monotonic(), 0.0), metadata=pairs)
            except grpc.RpcError as failure:
                error = rpc.error_from_rpc(failure)
                pause = self.retry.pause(error, attempt, deadline - time.monotonic())
                if pause is None:
                    raise error from failure
            await asyncio.sleep(pause)
            attempt += 1

    def _stub(self) -> Any:
        if self._connection is None:
            channel = rpc.aio_channel(self.address, tls=self._tls)
            self._connection = channel, inference_pb2_grpc.InferenceAPIsServiceStub(channel)
        return self._connection[1]
