"""The middleware inside a process: batches to tensors, with the embedding servers behind it."""

import logging
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from satrap.batch import Bytes, Decoded, IdFeature, decode
from satrap.config import EmbeddingConfig
from satrap.errors import InvalidInputError, RemoteError, ShardUnavailableError
from satrap.middleware.assemble import Embeddings
from satrap.middleware.attached_shard import AttachedShard, Attacher
from satrap.middleware.coalescing import CoalescingShard
from satrap.middleware.fanout import gather_rows
from satrap.middleware.marks import age_ms, tell
from satrap.middleware.plan import PlanInput, make_plan
from satrap.middleware.shards import RpcShard, Shard, ShardState
from satrap.middleware.slots import resolve_slots
from satrap.tls import Tls

__all__ = ["Middleware"]

log = logging.getLogger(__name__)

_STATUS_SECONDS = 1.0
_POLL_SECONDS = 0.05

_CALLS_IN_FLIGHT = 2
"""A shard with as many calls is busy: one is answered, one is on its way. Further questions gather."""


class Middleware:
    """Looks up batches at a list of embedding servers, in order of their replica_index.

        with Middleware(config, ["10.0.0.1:8888", "10.0.0.2:8888"]) as middleware:
            tensors = middleware.lookup(batch_bytes)

    The constructor checks the config and connects to nothing; `start` opens the channels, and so does the first
    lookup. A shard that is down costs the lookups that need it, as `ShardUnavailableError`, until it is back.

    Shards on this machine are looked up in without asking them: their tables are attached (docs/table.md), in the
    background. What is looked up before, or while a table cannot be used, goes by RPC.

    Threads: any number may look up at once. Make it after a fork, not before.
    """

    def __init__(
        self,
        embedding_config: EmbeddingConfig,
        shard_addresses: Sequence[str],
        *,
        lookup_timeout: float = 5.0,
        coalesce: bool = False,
        local: bool = True,
        orphan_grace_seconds: float = 5.0,
        source: Path | str = "embedding config",
        tls: Tls | None = None,
    ) -> None:
        """Resolve the slots.

        Args:
            embedding_config: The features.
            shard_addresses: `host:port` or `unix:path` of every shard, the first one's replica_index is 0.
            lookup_timeout: Seconds that a shard may take to answer.
            coalesce: Make one question of those that wait for the same busy shard; for servers.
            local: Attach the tables of this machine's shards.
            orphan_grace_seconds: How long the table of a server that is gone is used, its answers marked stale.
            source: Where the config comes from, for errors.
            tls: What is shown to shards at a host and a port, and whom to believe; None: those are not encrypted.

        Raises:
            ConfigError: the config's groups and slots contradict each other.
            InvalidInputError: there are no addresses.
        """
        if not shard_addresses:
            raise InvalidInputError(
                "no embedding servers: list their addresses in infer_config.servers of the global config, "
                "or set SATRAP_SHARDS"
            )
        self._slots = resolve_slots(embedding_config, log.warning, source)
        self._addresses = tuple(shard_addresses)
        self._timeout = lookup_timeout
        self._coalesce = coalesce
        self._local = local
        self._grace = orphan_grace_seconds
        self._tls = tls
        self._lock = threading.Lock()  # guards the two below while they are made and closed
        self._shards: tuple[Shard, ...] = ()
        self._attacher: Attacher | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Open the channels. Calling it again changes nothing.

        Raises:
            InvalidInputError: this middleware was closed.
        """
        with self._lock:
            if self._closed.is_set():
                raise InvalidInputError("this middleware is closed")
            if not self._shards:
                self._shards = self._connected()

    def close(self) -> None:
        """Close the channels and unmap the tables; lookups in flight fail, or end."""
        self._closed.set()
        with self._lock:
            shards, self._shards = self._shards, ()
        if self._attacher is not None:
            self._attacher.close()
        else:
            for shard in shards:
                shard.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lookup(self, batch: Bytes | Decoded) -> Embeddings:
        """The embeddings of a batch's id features, in the batch's order; none for a batch without ids.

        Raises:
            BatchError: the bytes are no batch, or one that cannot be answered.
            ShardUnavailableError: a shard that is needed does not answer.
            ShardMismatchError: an address leads to another shard.
        """
        return self.lookup_many([batch])[0]

    def lookup_many(self, batches: Sequence[Bytes | Decoded]) -> list[Embeddings]:
        """The same for several batches at once: every sign is asked once for all of them.

        Raises:
            BatchError: one of the batches is none, or cannot be answered; none is then.
            ShardUnavailableError, ShardMismatchError: as `lookup`.
        """
        return self._answer([batch if isinstance(batch, Decoded) else decode(batch) for batch in batches])

    def lookup_features(self, features: Sequence[IdFeature]) -> Embeddings:
        """The same for ids that are arrays already.

        Raises:
            BatchError, ShardUnavailableError, ShardMismatchError: as `lookup`.
        """
        return self._answer([features])[0]

    def wait_ready(self, timeout: float) -> None:
        """Wait until every shard is ready, `timeout` seconds at most.

        Raises:
            ShardUnavailableError: a shard is not; it says which, where, and how far its load is.
            ShardMismatchError: an address leads to another shard.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            waiting = [
                state for state in self.states(max(min(left, _STATUS_SECONDS), 0.01)) if not state.ready
            ]
            if not waiting:
                return
            if time.monotonic() >= deadline or self._closed.wait(_POLL_SECONDS):
                first = waiting[0]
                raise ShardUnavailableError(
                    first.replica_index, len(self._addresses), first.address, first.message
                )

    def states(self, timeout: float = _STATUS_SECONDS) -> list[ShardState]:
        """What each shard says of itself, in order.

        Raises:
            ShardMismatchError: an address leads to another shard.
        """
        self.start()
        return [shard.state(timeout) for shard in self._shards]

    def _connected(self) -> tuple[Shard, ...]:
        """The ways to all shards; the thread that attaches their tables is started."""
        size = len(self._addresses)
        by_rpc = [
            RpcShard(index, size, address, self._timeout, self._tls)
            for index, address in enumerate(self._addresses)
        ]
        shards: Sequence[Shard] = (
            [CoalescingShard(shard, _CALLS_IN_FLIGHT) for shard in by_rpc] if self._coalesce else by_rpc
        )
        if not self._local:
            return tuple(shards)
        self._attacher = attacher = Attacher()
        attached = tuple(
            AttachedShard(shard, fallback, self._grace, attacher.call)
            for shard, fallback in zip(by_rpc, shards, strict=True)
        )
        attacher.start(attached)
        weakref.finalize(self, attacher.stop)  # for those who forget close()
        return attached

    def _answer(self, batches: Sequence[PlanInput]) -> list[Embeddings]:
        if not self._shards:
            self.start()
        shards = self._shards
        plan = make_plan(self._slots.table, batches, len(self._addresses))
        gathered = gather_rows(shards, plan.groups())
        try:
            assembled = plan.assemble(gathered.rows)
        except ValueError as error:  # rows that were not asked for
            raise RemoteError(grpc.StatusCode.INTERNAL, str(error)) from error
        staleness_ms = age_ms(gathered.newest_event_ns, time.time_ns())
        answers = [
            Embeddings.from_tensors(tensors, is_stale=gathered.is_stale, staleness_ms=staleness_ms)
            for tensors in assembled
        ]
        tell(answers)
        return answers
