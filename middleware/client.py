"""The middleware in another process: batches to `satrap middleware`, tensors back."""

import threading
import time
from collections.abc import Sequence

import grpc
import numpy as np

from satrap import rpc
from satrap.batch import Batch, Bytes, Decoded, IdFeature
from satrap.errors import (
    DeadlineError,
    InvalidInputError,
    MiddlewareUnavailableError,
    SatrapError,
    ShardUnavailableError,
)
from satrap.middleware.assemble import Embedding, Embeddings, RawEmbedding, SumEmbedding
from satrap.middleware.error_details import error_of, from_metadata
from satrap.middleware.marks import tell
from satrap.middleware.rotation import Rotation
from satrap.middleware.wire import lookup_stub, marks_of_metadata
from satrap.protos import middleware_pb2 as pb
from satrap.protos import middleware_pb2_grpc as pb_grpc
from satrap.tls import Tls

__all__ = ["MiddlewareClient"]

_STATUS_SECONDS = 1.0
_POLL_SECONDS = 0.05


class MiddlewareClient:
    """Looks up at the middleware servers of a list, in turn; one that is dead is skipped.

    Any number of threads may look up at once. Nothing connects before the first call; make it after a fork.
    """

    def __init__(
        self, addresses: Sequence[str], *, lookup_timeout: float = 5.0, tls: Tls | None = None
    ) -> None:
        """Take the addresses, `host:port` or `unix:path`, and seconds that a lookup may take.

        `tls`: what is shown to the middleware, and whom to believe; None: the way there is not encrypted.

        Raises:
            InvalidInputError: there are no addresses.
        """
        if not addresses:
            raise InvalidInputError("no middleware addresses: give at least one host:port")
        self._addresses = tuple(addresses)
        self._timeout = lookup_timeout
        self._tls = tls
        self._lock = threading.Lock()  # guards the two below
        self._rotation = Rotation(len(addresses))
        self._channels: dict[int, grpc.Channel] = {}
        self._closed = threading.Event()

    def lookup(self, batch: Bytes | Decoded) -> Embeddings:
        """The embeddings of a batch's id features, in the batch's order.

        Raises:
            BatchError: the bytes are no batch, or one that cannot be answered.
            ShardUnavailableError: the middleware cannot reach an embedding server that it needs.
            MiddlewareUnavailableError: no middleware answers.
            DeadlineError: the middleware did not answer in time.
        """
        return self._lookup(_ids(batch))

    def lookup_many(self, batches: Sequence[Bytes | Decoded]) -> list[Embeddings]:
        """The same for several batches, sent at once.

        Raises:
            SatrapError: as `lookup`; the first batch's that failed.
        """
        if len(batches) == 1:
            return [self.lookup(batches[0])]
        place = self._order()[0]
        requests = [_ids(batch) for batch in batches]
        stub = lookup_stub(self._channel(place))
        calls = [stub.future(request, timeout=self._timeout) for request in requests]
        answers = []
        for request, call in zip(requests, calls, strict=True):
            try:
                answers.append(_embeddings(call.result(), call))
            except grpc.RpcError as error:
                failure = self._failure(place, error)
                if failure is not None:
                    raise failure from error
                answers.append(self._lookup(request))
        return answers

    def lookup_features(self, features: Sequence[IdFeature]) -> Embeddings:
        """The same for ids that are arrays already.

        Raises:
            SatrapError: as `lookup`.
        """
        return self.lookup(Batch(id_features=list(features)).to_bytes())

    def wait_ready(self, timeout: float) -> None:
        """Wait until a middleware has all its embedding servers ready, `timeout` seconds at most.

        Raises:
            ShardUnavailableError: a middleware answers, but one of its shards is not ready.
            MiddlewareUnavailableError: none answers.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            failure = self._why_not_ready(max(min(left, _STATUS_SECONDS), 0.01))
            if failure is None:
                return
            if time.monotonic() >= deadline or self._closed.wait(_POLL_SECONDS):
                raise failure

    def close(self) -> None:
        """Close the channels; lookups in flight fail."""
        self._closed.set()
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _lookup(self, batch: Bytes) -> Embeddings:
        reason = ""
        for place in self._order():
            try:
                return _embeddings(*lookup_stub(self._channel(place)).with_call(batch, timeout=self._timeout))
            except grpc.RpcError as error:
                failure = self._failure(place, error)
                if failure is not None:
                    raise failure from error
                reason = rpc.error_from_rpc(error).args[0]
        raise MiddlewareUnavailableError(self._addresses, reason)

    def _failure(self, place: int, error: grpc.RpcError) -> SatrapError | None:
        """What a call's end means to the caller; None: that server is not there, another may be."""
        call = rpc.call_of(error)
        said = from_metadata(call.trailing_metadata())
        if said is not None:
            return error_of(said, rpc.error_from_rpc(error))
        if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._mark_dead(place)
            return DeadlineError(
                f"the middleware at {self._addresses[place]} did not answer within {self._timeout:g} s"
            )
        if call.code() is grpc.StatusCode.UNAVAILABLE:
            self._mark_dead(place)
            return None
        return rpc.error_from_rpc(error)

    def _why_not_ready(self, timeout: float) -> SatrapError | None:
        """None if some middleware is ready; else a reason, a shard's before a connection's."""
        shard: SatrapError | None = None
        reason = ""
        for place, address in enumerate(self._addresses):
            try:
                stub = pb_grpc.MiddlewareServiceStub(self._channel(place))
                status = stub.Status(pb.StatusRequest(), timeout=timeout)
            except grpc.RpcError as error:
                reason = f"{address}: {rpc.error_from_rpc(error)}"
                continue
            if status.ready:
                return None
            for state in status.shards:
                if not state.ready and shard is None:
                    shard = ShardUnavailableError(
                        state.replica_index, len(status.shards), state.address, state.message
                    )
        return shard or MiddlewareUnavailableError(self._addresses, reason)

    def _order(self) -> list[int]:
        with self._lock:
            return self._rotation.order(time.monotonic())

    def _mark_dead(self, place: int) -> None:
        with self._lock:
            self._rotation.failed(place, time.monotonic())

    def _channel(self, place: int) -> grpc.Channel:
        with self._lock:
            if self._closed.is_set():
                raise InvalidInputError("this middleware client is closed")
            if place not in self._channels:
                self._channels[place] = rpc.channel(self._addresses[place], tls=self._tls)
            return self._channels[place]


def _ids(batch: Bytes | Decoded) -> Bytes:
    """What has to travel: of a decoded batch the ids alone."""
    return batch.ids_only() if isinstance(batch, Decoded) else batch


def _embeddings(response: pb.LookupResponse, call: grpc.Call) -> Embeddings:
    is_stale, staleness_ms = marks_of_metadata(call.trailing_metadata())
    answer = Embeddings(map(_embedding, response.features), is_stale=is_stale, staleness_ms=staleness_ms)
    tell([answer])
    return answer


def _embedding(feature: pb.FeatureEmbedding) -> Embedding:
    if feature.WhichOneof("embedding") == "sum":
        values = np.frombuffer(feature.sum.values, np.float16).reshape(-1, feature.dim)
        return SumEmbedding(feature.name, feature.dim, values)
    raw = feature.raw
    return RawEmbedding(
        feature.name,
        feature.dim,
        np.frombuffer(raw.values, np.float16).reshape(-1, feature.dim),
        np.frombuffer(raw.index, np.int64).reshape(-1, raw.sample_fixed_size),
        np.frombuffer(raw.sample_id_num, np.uint64),
        raw.sample_fixed_size,
    )
