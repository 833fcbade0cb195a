"""The client of TorchServe's inference API for programs that run on asyncio."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf import empty_pb2
from numpy.typing import NDArray

from satrap import rpc
from satrap.client.call import Metadata, call_async, closing_is_an_error
from satrap.client.connected import Client
from satrap.client.persia_batch import PersiaBatch
from satrap.client.predictions import (
    Inputs,
    batch_inputs,
    parse_health,
    parse_prediction,
    predictions_request,
)
from satrap.client.retry import DEFAULT_RETRY, Retry
from satrap.protos import inference_pb2_grpc
from satrap.tls import Tls

__all__ = ["AsyncInferenceClient"]


class AsyncInferenceClient(Client):
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
        super().__init__(address, timeout=timeout, metadata=metadata, retry=retry)
        self._tls = tls
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
        answer = await call_async(self._stub().Ping, empty_pb2.Empty(), self._how(timeout))
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
        answer = await self.predict(
            model, batch_inputs(batch), version=version, timeout=timeout, metadata=metadata
        )
        return parse_prediction(answer)

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
        request = predictions_request(model, inputs, version)
        answer = await call_async(self._stub().Predictions, request, self._how(timeout, metadata))
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
        request = predictions_request(model, inputs, version)
        how = self._how(timeout, metadata)
        call = self._stub().StreamPredictions(request, timeout=how.timeout, metadata=how.metadata)
        try:
            with closing_is_an_error():
                async for part in call:
                    yield bytes(part.prediction)
        except grpc.RpcError as failure:
            raise rpc.error_from_rpc(failure) from failure
        finally:
            call.cancel()

    def _stub(self) -> Any:
        if self._connection is None:
            channel = rpc.aio_channel(self.address, tls=self._tls)
            self._connection = channel, inference_pb2_grpc.InferenceAPIsServiceStub(channel)
        return self._connection[1]
