"""The client of TorchServe's inference API."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import empty_pb2
from numpy.typing import NDArray

from satrap.client.call import Metadata
from satrap.client.connected import ConnectedClient
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
from satrap.rpc import error_from_rpc
from satrap.tls import Tls

__all__ = ["InferenceClient"]


class InferenceClient(ConnectedClient):
    """Asks models for predictions, over gRPC.

    Speaks to satrap and to TorchServe alike. Connects at the first call; one client is enough for all threads of
    a process, and cheaper than several.

        with InferenceClient("127.0.0.1:7070") as client:
            scores = client.infer("deepctr", batch)

    Predictions change nothing on the server, so a call that finds the server unavailable is tried again within
    its deadline (see `Retry`).
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
        """Prepare a channel; nothing is sent yet.

        Args:
            address: `host:port` or `unix:path`.
            timeout: Seconds that a call may take, retries included, unless the call says otherwise.
            metadata: Headers of every call, for instance `{"authorization": "Bearer <token>"}`.
            retry: When an unavailable server is tried again; `NO_RETRY` never does.
            tls: For a server that speaks TLS: whom to believe, and what to show if it asks for a certificate.

        Raises:
            InvalidInputError: a file of `tls` cannot be read.
        """
        super().__init__(address, timeout=timeout, metadata=metadata, retry=retry, tls=tls)
        self._stub: Any = inference_pb2_grpc.InferenceAPIsServiceStub(self._channel)

    def ping(self, *, timeout: float | None = None) -> str:
        """The server's health in its own word, `Healthy` when all is well.

        Raises:
            SatrapError: it did not answer.
        """
        return parse_health(self._call(self._stub.Ping, empty_pb2.Empty(), timeout=timeout).health)

    def infer(
        self,
        model: str,
        batch: PersiaBatch | bytes,
        *,
        version: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> NDArray[Any]:
        """Predictions for a batch of samples, in their order.

        Args:
            model: The model's name.
            batch: The samples, or their bytes (`PersiaBatch.to_bytes()`, or `PersiaBatch.to_arrow()`, which satrap
                takes as well).
            version: A version; empty: the model's default.
            timeout: Seconds for this call, retries included.
            metadata: Headers of this call, beside those of the client.

        Returns:
            What the handler answered, as an array: `[samples]` float64 for one number per sample, with as many
            dimensions as its list is nested.

        Raises:
            InvalidInputError: the server cannot use the batch; the sentence says which feature.
            NotFoundError: no such model or version.
            UnavailableError: a shard or the server cannot be reached, and the retries did not help.
            DeadlineError: no answer in time.
            UnexpectedAnswerError: the answer is no list of numbers; `predict` gives it as it is.
            RemoteError: anything else that the server said.
        """
        answer = self.predict(model, batch_inputs(batch), version=version, timeout=timeout, metadata=metadata)
        return parse_prediction(answer)

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> bytes:
        """What a handler answers to named inputs, as the bytes that it came in.

        Arguments and errors are those of `infer`.
        """
        request = predictions_request(model, inputs, version)
        answer = self._call(self._stub.Predictions, request, timeout=timeout, metadata=metadata)
        return bytes(answer.prediction)

    def stream(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str = "",
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Iterator[bytes]:
        """What a handler answers part by part, each as soon as it is there; the last part ends the answer.

        A handler that does not stream gives one part. Never tried again: parts may have been seen. Arguments and errors
        are those of `infer`.
        """
        request = predictions_request(model, inputs, version)
        how = self._how(timeout, metadata)
        call = self._stub.StreamPredictions(request, timeout=how.timeout, metadata=how.metadata)
        try:
            for part in call:
                yield bytes(part.prediction)
        except grpc.RpcError as failure:
            raise error_from_rpc(failure) from failure
        finally:
            call.cancel()
