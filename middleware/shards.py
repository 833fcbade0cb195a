"""One embedding server as the middleware sees it: a channel, questions and answers, its state."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import grpc

from satrap import rpc
from satrap.errors import RemoteError, SatrapError, ShardMismatchError, ShardUnavailableError
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.tls import Tls

__all__ = ["Answer", "Group", "LookupTotals", "Rows", "RpcShard", "Shard", "ShardState"]

Group = tuple[int, bytes]
"""A dim, and signs of it as packed little-endian u64."""

Rows = tuple[int, bytes]
"""`DType` of embedding.proto, and packed rows in the order of a group's signs."""

_CLOSED = "the middleware was closed"
_LOOKUP = f"/{pb.DESCRIPTOR.services_by_name['EmbeddingService'].full_name}/Lookup"


class LookupTotals(NamedTuple):
    """Signs looked up, those that no table holds, and those that a table of another dim holds."""

    lookups: int = 0
    missing: int = 0
    dim_mismatch: int = 0


_NONE = LookupTotals()


@dataclass(frozen=True, slots=True)
class ShardState:
    """What a shard said of itself, or why it could not; and how it is looked up in.

    Attributes:
        replica_index: Which one.
        address: Where it is asked.
        ready: Whether it answers lookups.
        message: Its own words, or why there are none.
        way: `attached` (its table, in this process), or `rpc: ` and why.
        attached: What was looked up in its table, which it cannot count.
    """

    replica_index: int
    address: str
    ready: bool
    message: str
    way: str = "rpc: turned off"
    attached: LookupTotals = _NONE


class Answer(Protocol):
    """What a shard was asked and has yet to say."""

    @property
    def is_stale(self) -> bool:
        """Whether the result, once it is there, may be out of date: the shard's server is gone."""

    @property
    def newest_event_ns(self) -> int:
        """Time of the newest event that the result, once it is there, has; nanoseconds since the epoch, 0: unknown."""

    def result(self) -> list[Rows]:
        """Wait; one element per group asked. Raises `SatrapError`."""


class Shard(Protocol):
    """Whoever answers for one shard. Any thread may ask."""

    replica_index: int
    address: str

    def ask(self, groups: Sequence[Group]) -> Answer:
        """Ask without waiting."""

    def state(self, timeout: float) -> ShardState:
        """Ask how it is. Raises `ShardMismatchError`: it is another one."""

    def close(self) -> None:
        """Give up what is open; questions not answered yet fail."""


class RpcShard:
    """An embedding server behind gRPC, at `host:port` or `unix:path`. Nothing connects before the first question.

    A lost server is no lost shard: the channel connects again by itself within a second of the server's return.
    """

    def __init__(
        self, replica_index: int, replica_size: int, address: str, timeout: float, tls: Tls | None = None
    ) -> None:
        """`timeout`, in seconds, is for each lookup."""
        self.replica_index, self.replica_size, self.address = replica_index, replica_size, address
        self._timeout = timeout
        self._channel = rpc.channel(address, threadless_streams=True, tls=tls)
        self._stub = pb_grpc.EmbeddingServiceStub(self._channel)
        # On the wire one answer and a stream of one answer are the same; read as a stream it needs no thread of
        # gRPC's to hand it over, which takes a quarter off a lookup at two shards.
        self._lookup = self._channel.unary_stream(
            _LOOKUP,
            request_serializer=pb.LookupRequest.SerializeToString,
            response_deserializer=pb.LookupResponse.FromString,
        )

    def ask(self, groups: Sequence[Group]) -> "StreamAnswer":
        """Send a lookup and return; `result()`, on the same thread, waits for its answer.

        Raises:
            ShardUnavailableError: this shard was closed.
        """
        try:
            call = self._lookup(self._request(groups), timeout=self._timeout)
        except ValueError as error:  # the channel's word for closed
            raise self.unavailable(_CLOSED) from error
        return StreamAnswer(self, call, len(groups))

    def ask_from_any_thread(self, groups: Sequence[Group]) -> "FutureAnswer":
        """The same; `result()` may be called on any thread, and a callback tells when it does not wait.

        Raises:
            ShardUnavailableError: this shard was closed.
        """
        try:
            call = self._stub.Lookup.future(self._request(groups), timeout=self._timeout)
        except ValueError as error:
            raise self.unavailable(_CLOSED) from error
        return FutureAnswer(self, call, len(groups))

    def _request(self, groups: Sequence[Group]) -> pb.LookupRequest:
        return pb.LookupRequest(
            replica_index=self.replica_index,
            replica_size=self.replica_size,
            groups=[pb.SignGroup(dim=dim, signs=signs) for dim, signs in groups],
        )

    def state(self, timeout: float) -> ShardState:
        """Ask how it is; an unreachable server is a state too.

        Raises:
            ShardMismatchError: it is another shard than the address list says.
        """
        return self.state_and_status(timeout)[0]

    def state_and_status(self, timeout: float) -> tuple[ShardState, pb.StatusResponse | None]:
        """The same with all that the server said, if it said anything.

        Raises:
            ShardMismatchError: it is another shard than the address list says.
        """
        try:
            status = self.status(timeout)
        except ShardUnavailableError as error:
            return ShardState(self.replica_index, self.address, False, error.reason), None
        if not self.is_meant(status):
            raise self._mismatch((status.replica_index, status.replica_size))
        ready = status.state == pb.STATE_READY
        message = status.message or ("ready" if ready else "starting")
        return ShardState(self.replica_index, self.address, ready, message), status

    def status(self, timeout: float) -> pb.StatusResponse:
        """What the server says of itself, whichever shard it is.

        Raises:
            ShardUnavailableError: it says nothing, or this shard was closed.
        """
        try:
            status: pb.StatusResponse = self._stub.Status(pb.StatusRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise self.unavailable(_reason(error, timeout)) from error
        except ValueError as error:
            raise self.unavailable(_CLOSED) from error
        return status

    def is_meant(self, status: pb.StatusResponse) -> bool:
        """Whether it is the shard that the address list says."""
        return (status.replica_index, status.replica_size) == (self.replica_index, self.replica_size)

    def close(self) -> None:
        """Close the channel; questions in flight fail."""
        self._channel.close()

    def error_from(self, error: grpc.RpcError) -> SatrapError:
        """What went wrong in a lookup, with the shard's name on it."""
        status = rpc.call_of(error).code()
        if status is grpc.StatusCode.FAILED_PRECONDITION:
            try:
                self.state(self._timeout)
            except ShardMismatchError as mismatch:
                return mismatch
        if status in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        ):
            return self.unavailable(_reason(error, self._timeout))
        return rpc.error_from_rpc(error)

    def rows_of(self, response: pb.LookupResponse, groups: int) -> list[Rows]:
        """The rows of an answer to so many groups.

        Raises:
            RemoteError: it is an answer to something else.
        """
        if len(response.groups) != groups:
            raise RemoteError(
                grpc.StatusCode.INTERNAL,
                f"embedding shard {self.replica_index} at {self.address} answered {len(response.groups)} groups of "
                f"rows, not {groups}",
            )
        return [(group.dtype, group.rows) for group in response.groups]

    def unavailable(self, reason: str) -> ShardUnavailableError:
        """An error with this shard's name on it."""
        return ShardUnavailableError(self.replica_index, self.replica_size, self.address, reason)

    def _mismatch(self, actual: tuple[int, int]) -> ShardMismatchError:
        return ShardMismatchError((self.replica_index, self.replica_size), actual, self.address)


class StreamAnswer:
    """A lookup in flight, which the thread that asked waits for."""

    __slots__ = ("_call", "_groups", "_shard", "newest_event_ns")
    is_stale = False

    def __init__(self, shard: RpcShard, call: "grpc.CallIterator[pb.LookupResponse]", groups: int) -> None:
        self._shard, self._call, self._groups = shard, call, groups
        self.newest_event_ns = 0

    def result(self) -> list[Rows]:
        """Wait for the rows.

        Raises:
            ShardUnavailableError: the server is down, loading, or too slow.
            ShardMismatchError: the server is another shard.
            RemoteError: it answered something else.
        """
        try:
            (response,) = self._call
        except grpc.RpcError as error:
            raise self._shard.error_from(error) from error
        self.newest_event_ns = response.newest_event_ns
        return self._shard.rows_of(response, self._groups)


class FutureAnswer:
    """A lookup in flight, which any thread may wait for."""

    __slots__ = ("_call", "_groups", "_shard", "newest_event_ns")
    is_stale = False

    def __init__(self, shard: RpcShard, call: "grpc.CallFuture[pb.LookupResponse]", groups: int) -> None:
        self._shard, self._call, self._groups = shard, call, groups
        self.newest_event_ns = 0

    def result(self) -> list[Rows]:
        """The same as `StreamAnswer.result`."""
        try:
            response = self._call.result()
        except grpc.RpcError as error:
            raise self._shard.error_from(error) from error
        except grpc.FutureCancelledError as error:
            raise self._shard.unavailable(_CLOSED) from error
        self.newest_event_ns = response.newest_event_ns
        return self._shard.rows_of(response, self._groups)

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back from another thread once `result()` does not wait."""
        self._call.add_done_callback(lambda call: callback())


_OF_ITSELF = re.compile(r"^embedding shard \d+ of \d+: ")


def _reason(error: grpc.RpcError, timeout: float) -> str:
    """Why a call failed, in a few words for a person."""
    call = rpc.call_of(error)
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout:g} s"
    details = call.details() or str(call.code())
    if "failed to connect" in details.lower():
        return f"cannot be reached ({details.rsplit(': ', 1)[-1]})"
    # What a server says of itself begins with its shard, which is ours to say.
    return _OF_ITSELF.sub("", details)
