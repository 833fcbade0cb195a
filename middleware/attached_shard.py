"""A shard on this machine: looked up in its own table, which this process has mapped, with RPC behind it.

    Status ──path, instance id, uid──▶ TableReader ──▶ live       in this process
                                                       orphaned   the same, marked stale; after a while by RPC
                                                       abandoned  by RPC; attached to what Status names next

Nobody waits for any of that: `tend`, on a thread of the middleware's, asks and attaches, and lookups go by RPC until
it has. So errors, too, are those of the RPC, with the shard's name on them.
"""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from satrap._core.table import TableError, TableReader, TableSpaceError
from satrap.errors import ShardUnavailableError
from satrap.middleware.attachment import Attempts, Way, way_of
from satrap.middleware.shards import Answer, Group, LookupTotals, Rows, RpcShard, Shard, ShardState
from satrap.protos import embedding_pb2 as pb

__all__ = ["AttachedShard", "Attacher"]

log = logging.getLogger(__name__)

_STATUS_SECONDS = 1.0
_TEND_SECONDS = 1.0


class AttachedShard:
    """Looks up in the server's table where it can be attached, otherwise asks `fallback`.

    Any thread may ask. `_reader` is one reference, replaced whole: a lookup goes on with the one that it took, and
    asks by RPC if that is closed under it.
    """

    def __init__(
        self, shard: RpcShard, fallback: Shard, grace_seconds: float, wake: Callable[[], None]
    ) -> None:
        """Take the shard's RPC, and how to call for `tend`. Nothing connects.

        Args:
            shard: Tells where the table is.
            fallback: Answers what the table cannot.
            grace_seconds: How long a table whose server is gone is used.
            wake: Called when `tend` should come soon.
        """
        self.replica_index, self.address = shard.replica_index, shard.address
        self._shard, self._fallback, self._grace, self._wake = shard, fallback, grace_seconds, wake
        self._reader: TableReader | None = None
        self._reason = "not attached yet"
        self._counting = threading.Lock()  # guards the totals
        self._totals = LookupTotals()
        self._attaching = threading.Lock()  # guards what follows, and who stores _reader
        self._attempts = Attempts()
        self._attach_turn = threading.Lock()  # held while a table is attached, by threads that may wait
        self._refused = b""  # the instance whose table could not be attached
        self._given_up: list[TableReader] = []  # to be closed, by a thread that has the time
        self._closed = False

    def ask(self, groups: Sequence[Group]) -> Answer:
        """Begin a lookup; `result()` has its rows."""
        reader = self._reader
        if reader is not None:
            way = self._way_into(reader)
            if way is Way.ATTACHED or way is Way.STALE:
                return _AttachedAnswer(self, reader, groups, way is Way.STALE)
        return self._fallback.ask(groups)

    def state(self, timeout: float) -> ShardState:
        """Ask how the server is, and attach its table if it has one: the answer tells where.

        Raises:
            ShardMismatchError: it is another shard than the address list says.
        """
        state, status = self._shard.state_and_status(timeout)
        if status is not None:
            self._told(status)
        return replace(state, way=self.way, attached=self._totals)

    @property
    def way(self) -> str:
        """`attached`, or `rpc: ` and why."""
        reader = self._reader
        if reader is None:
            return f"rpc: {self._reason}"
        try:
            state, silent = reader.condition()
        except TableError as error:
            return f"rpc: {error}"
        if way_of(state, silent, self._grace) in (Way.ATTACHED, Way.STALE):
            return "attached"
        return f"rpc: {_gone(state, silent)}"

    def tend(self) -> None:
        """Give up a table that was abandoned, and look for one where there is none. Waits for the server's answer."""
        reader = self._reader
        way = self._way_into(reader) if reader is not None else Way.DETACH
        with self._attaching:
            given_up, self._given_up = self._given_up, []
            # The server of an orphaned table may be back with another one.
            due = (
                way in (Way.RPC, Way.DETACH) and not self._closed and self._attempts.is_due(time.monotonic())
            )
        for reader in given_up:
            reader.close()
        if due:
            self._look()

    def close(self) -> None:
        """Unmap the table and close the fallback; lookups that have begun end, later ones fail."""
        with self._attaching:
            self._closed = True
            reader, self._reader = self._reader, None
            given_up = self._given_up + ([reader] if reader is not None else [])
        self._fallback.close()
        for reader in given_up:
            reader.close()

    def looked_up(self, reader: TableReader, groups: Sequence[Group]) -> tuple[list[Rows], int] | None:
        """The rows from the table, and the time of its newest event; None if it cannot be used any more."""
        rows: list[Rows]
        try:
            newest_event_ns = reader.applied[1]  # before the rows, which may be newer then, but not older
            rows, missing, dim_mismatch = reader.lookup(groups)
        except (TableError, TableSpaceError) as error:
            self._give_up(reader, str(error), failed=True)
            return None
        signs = sum(len(packed) for _, packed in groups) // 8
        with self._counting:
            before = self._totals
            self._totals = LookupTotals(
                before.lookups + signs, before.missing + missing, before.dim_mismatch + dim_mismatch
            )
        return rows, newest_event_ns

    def ask_by_rpc(self, groups: Sequence[Group]) -> Answer:
        """Ask the fallback. Raises `SatrapError`."""
        return self._fallback.ask(groups)

    def _way_into(self, reader: TableReader) -> Way:
        try:
            state, silent = reader.condition()
        except TableError as error:  # closed meanwhile, or its control file is damaged
            self._give_up(reader, str(error), failed=True)
            return Way.DETACH
        way = way_of(state, silent, self._grace)
        if way is Way.DETACH:
            self._give_up(reader, _gone(state, silent), failed=False)
        return way

    def _give_up(self, reader: TableReader, reason: str, *, failed: bool) -> None:
        """Use `reader` no more, unless another thread has seen to that."""
        with self._attaching:
            if self._reader is not reader:
                return
            self._reader, self._reason = None, reason
            self._given_up.append(reader)
            if failed:
                self._attempts.failed(time.monotonic())
            else:
                self._attempts.at_once()
        log.info("shard %d at %s: detached: %s", self.replica_index, self.address, reason)
        self._wake()

    def _look(self) -> None:
        try:
            status = self._shard.status(_STATUS_SECONDS)
        except ShardUnavailableError as error:
            self._nothing_yet(error.reason)
        else:
            self._told(status)

    def _nothing_yet(self, reason: str) -> None:
        with self._attaching:
            self._attempts.nothing_yet(time.monotonic())
            if self._reader is None:
                self._reason = reason

    def _told(self, status: pb.StatusResponse) -> None:
        """Attach the table that the server names, unless it is attached already."""
        if not self._shard.is_meant(status):
            self._nothing_yet(f"it is shard {status.replica_index} of {status.replica_size}")
            return
        if not status.table_path:
            self._nothing_yet(status.message or "the server has no table to attach")
            return
        with self._attach_turn:
            with self._attaching:
                now = time.monotonic()
                if self._closed:
                    return
                if self._reader is not None and self._reader.instance_id == status.instance_id:
                    self._attempts.nothing_yet(now)  # it will be live again, or abandoned
                    return
                if status.instance_id == self._refused and not self._attempts.is_due(now):
                    return
            self._attach(status)

    def _attach(self, status: pb.StatusResponse) -> None:
        # Without the lock that lookups take: mapping and populating a large table takes its time.
        try:
            reader = TableReader(status.table_path, status.instance_id, status.server_uid)
        except (TableError, TableSpaceError) as error:
            self._refuse(status.instance_id, str(error))
            return
        with self._attaching:
            if self._closed:
                unused: TableReader | None = reader
            else:
                self._attempts.at_once()
                unused, self._reader = self._reader, reader
        if unused is not None:
            unused.close()
        if unused is not reader:
            log.info("shard %d at %s: attached %s", self.replica_index, self.address, status.table_path)

    def _refuse(self, instance_id: bytes, reason: str) -> None:
        """Remember why that table could not be attached."""
        with self._attaching:
            self._attempts.failed(time.monotonic())
            self._refused = instance_id
            is_news = reason != self._reason
            if self._reader is None:
                self._reason = reason
        if is_news:
            log.info("shard %d at %s is asked by RPC: %s", self.replica_index, self.address, reason)


class _AttachedAnswer:
    """A lookup in the table, made by the thread that waits for it: shards asked by RPC work meanwhile."""

    __slots__ = ("_groups", "_reader", "_shard", "is_stale", "newest_event_ns")

    def __init__(
        self, shard: AttachedShard, reader: TableReader, groups: Sequence[Group], is_stale: bool
    ) -> None:
        self._shard, self._reader, self._groups, self.is_stale = shard, reader, groups, is_stale
        self.newest_event_ns = 0

    def result(self) -> list[Rows]:
        """Look up, by RPC if the table fails. Raises `SatrapError`."""
        found = self._shard.looked_up(self._reader, self._groups)
        if found is None:
            answer = self._shard.ask_by_rpc(self._groups)
            rows = answer.result()
            self.is_stale, self.newest_event_ns = answer.is_stale, answer.newest_event_ns
            return rows
        rows, self.newest_event_ns = found
        return rows


def _gone(state: str, silent: float) -> str:
    return (
        "the table was superseded"
        if state == "abandoned"
        else f"the server has been silent for {silent:.0f} s"
    )


class Attacher:
    """A thread that tends shards: every second, so that no abandoned table is kept, and when one calls.

    It ends with `close`, with the process, or, closing the shards itself, after `stop`.
    """

    def __init__(self) -> None:
        """Make it; `start` starts it."""
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()  # whether to go on
        self._shards: Sequence[AttachedShard] = ()
        # A daemon, or the process would wait for it before it came to the close at its exit.
        self._thread = threading.Thread(target=self._run, name="attach-tables", daemon=True)

    def start(self, shards: Sequence[AttachedShard]) -> None:
        """Tend these from now on."""
        self._shards = shards
        atexit.register(self.close)
        self._thread.start()

    def call(self) -> None:
        """Tend now."""
        self._calls.put(True)

    def stop(self) -> None:
        """End, in a while. Safe wherever the garbage collector may call it: it takes no lock and waits for nothing."""
        self._calls.put(False)

    def close(self) -> None:
        """Close the shards, which ends their calls, and wait for the end."""
        for shard in self._shards:
            shard.close()
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            for shard in self._shards:
                shard.tend()
            try:
                goes_on = self._calls.get(timeout=_TEND_SECONDS)
                while goes_on and not self._calls.empty():  # several calls are one
                    goes_on = self._calls.get()
            except queue.Empty:
                continue
        for shard in self._shards:
            shard.close()
        atexit.unregister(self.close)
