"""One stream's writer: all rows, what of them waits, and when packets and checkpoints are cut from them.

Everything here happens under one lock, which is the publisher's: a packet is cut between two changes, never within one,
and a checkpoint has exactly what the packets up to its sequence have.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from satrap.errors import ConflictError, InvalidInputError, StorageError
from satrap.formats.decisions import read_hold
from satrap.formats.manifest import Dense
from satrap.formats.packet import PacketContent
from satrap.storage import Storage, open_storage
from satrap.trainer.dumping import (
    Dump,
    DumpProgress,
    EventTimes,
    check_free,
    is_checkpoint,
    load_rows,
)
from satrap.trainer.packets import Identity, PacketJob, check_fork, newest_checkpoint, newest_sequence, replay
from satrap.trainer.publisher import Publisher, retry_delay
from satrap.trainer.resuming import Loaded, Position, resume
from satrap.trainer.rows import Rows
from satrap.trainer.waiting import FlushRule, WaitingSigns

__all__ = ["RowChange", "StreamWriter"]

log = logging.getLogger(__name__)


class RowChange(NamedTuple):
    """What became of rows of one dim: signs u64 [n], and rows [n, dim] of the stream's dtype, or None: gone."""

    dim: int
    signs: NDArray[np.uint64]
    rows: NDArray[Any] | None


class StreamWriter:
    """Takes changes from any thread, and publishes them. `TrainCtx` says what its methods promise."""

    chunk_rows = 1 << 20
    """Larger changes are taken in parts of so many rows, so that the memory for a packet is bounded."""

    def __init__(
        self,
        identity: Identity,
        storage: Storage | None,
        checkpoints: Storage | None,
        rule: FlushRule,
        *,
        waiting_packets: int,
        retry_seconds: float,
        start_over: bool,
    ) -> None:
        """Nothing is listed, written or started. Without `storage` there are no packets, only checkpoints."""
        self._identity, self._storage, self._checkpoints = identity, storage, checkpoints
        self._rule, self._start_over, self._retry_seconds = rule, start_over, retry_seconds
        self._rows = Rows(identity.row_dtype)
        self._waiting = WaitingSigns()
        self._events = EventTimes()
        self._loaded: Loaded | None = None
        self._position: Position | None = None
        self._steps: Counter[int] = Counter()
        self._cutters = 0
        self._dump: Dump | None = None
        self._closed = False
        url = storage.url if storage is not None else "(no directory of packets)"
        self.publisher = Publisher(url, waiting_packets, retry_seconds, self._cut_if_due)
        self.lock = self.publisher.lock

    @property
    def sequence(self) -> int:
        """The sequence of the last packet that was cut; 0 before the first."""
        with self.lock:
            return 0 if self._position is None else self._position.last

    @property
    def has_packets(self) -> bool:
        """Whether packets are published, so that servers reach sequences."""
        return self._storage is not None

    @property
    def waiting_rows(self) -> int:
        """Distinct rows that changed since the last packet was cut."""
        with self.lock:
            return self._waiting.waiting.signs

    @property
    def row_count(self) -> int:
        """Rows in all."""
        with self.lock:
            return self._rows.count

    def read(self, dim: int, signs: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(rows [n, dim] of the stream's dtype, zeros where there is none; found bool [n])."""
        with self.lock:
            return self._rows.read(dim, signs)

    def change(self, changes: Sequence[RowChange], event_time_ns: int) -> None:
        """Take changes, all of them before a packet is cut unless they are more than `chunk_rows`."""
        together = sum(len(change.signs) for change in changes) <= self.chunk_rows
        with self.lock:
            self._begin()
            for dim, signs, rows in changes:
                for start in range(0, len(signs), self.chunk_rows):
                    part = slice(start, start + self.chunk_rows)
                    self._take(dim, signs[part], None if rows is None else rows[part], event_time_ns)
                    if not together:
                        # Whatever is wrong, all of it is taken; the call below raises it.
                        with suppress(Exception):
                            self._publish_what_is_due()
            self._publish_what_is_due()

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is changed within belongs together."""
        thread = threading.get_ident()
        with self.lock:
            # Steps of several threads may overlap for ever: when a packet is due, those that run are the last ones.
            while thread not in self._steps and (self._cutters or (self._steps and self._is_due())):
                self.publisher.wait_for_change()
            self._steps[thread] += 1
        try:
            yield
        except BaseException:
            with self.lock:
                self._leave_step(thread)
            raise
        with self.lock:
            self._leave_step(thread)
            self._publish_what_is_due()

    def flush(self, dense: Dense | None = None, *, wait: bool = True) -> int:
        """Publish what waits, together with the dense version that belongs to it."""
        with self._cutting():
            self._cut(dense)
            sequence = self._require_position().last
        if wait:
            self.publisher.wait_for(sequence)
        return sequence

    def dump(self, dst: Path | str | None, progress: Callable[[DumpProgress], None] | None) -> Dump:
        """Begin to write a full checkpoint."""
        with self._cutting(dumping=True):
            target = self._dump_target(dst)
            if self._require_position().full_due:
                return self._full_checkpoint(target, progress)
            self._cut(None)
            dump = self._new_dump(target, self._require_position().last, progress)
            dump.start()
            return dump

    def load(
        self,
        storage: Storage,
        dims: Collection[int],
        progress: Callable[[DumpProgress], None] | None,
        *,
        catch_up: bool,
    ) -> None:
        """Take a checkpoint's rows, and with `catch_up` what was published after it."""
        with self.lock:
            if self._has_begun() or self._loaded is not None:
                raise ConflictError("load() comes before the first commit, flush or dump, and once")
            rows = Rows(self._identity.row_dtype)
            hold = None if self._storage is None else read_hold(self._storage, self._identity.stream)
            loaded, events = load_rows(storage, rows, self._identity.embedding_config, dims, progress, hold)
            if catch_up and self._storage is not None and loaded.stream == self._identity.stream:
                sequence, newest_event_ns = replay(self._storage, self._identity, rows, dims, loaded.sequence)
                loaded = Loaded(loaded.stream, sequence)
                if newest_event_ns:
                    events.add(newest_event_ns)
            self._loaded, self._events, self._rows = loaded, events, rows

    def close(self) -> None:
        """Publish what waits, and end; may be called again if it raises."""
        if self._closed:
            return
        with self.lock:
            begun = self._has_begun()
            while self._dump is not None:
                self.publisher.wait_for_change()
            held_back = begun and self._held_back()
            if held_back and self._waiting.waiting.signs:
                log.warning(
                    "%d rows were never published: dump() was not called", self._waiting.waiting.signs
                )
        if begun and not held_back:
            self.flush()
        self._closed = True
        self.publisher.stop()

    # ---- what changes; the caller holds the lock ----

    def _take(
        self, dim: int, signs: NDArray[np.uint64], rows: NDArray[Any] | None, event_time_ns: int
    ) -> None:
        signs = np.ascontiguousarray(signs)
        idle = self._waiting.waiting.since is None
        # Noted first: should memory end in between, a row is published once too often, not never.
        self._waiting.add(dim, signs, event_time_ns, time.monotonic())
        self._events.add(event_time_ns)
        if rows is None:
            self._rows.erase(dim, signs)
        else:
            self._rows.write(dim, signs, np.ascontiguousarray(rows))
        if idle:
            self.lock.notify_all()  # the publisher's thread has a deadline now

    # ---- packets; the caller holds the lock ----

    def _begin(self) -> None:
        """Find out where the stream goes on, once, and start the publisher's thread."""
        if self._closed:
            raise ConflictError("the TrainCtx is closed")
        if self._has_begun():
            return
        stream = self._identity.stream
        newest = self._newest_published()
        if self._has_begun():
            return  # another thread was first, while this one waited for the storage
        position = resume(stream, newest, self._loaded, start_over=self._start_over)
        if (
            position.full_due
            and self._loaded is not None
            and self._storage is not None
            and not self._checkpoints
        ):
            log.warning(
                "the stream %r has packets up to %d that the loaded checkpoint does not contain: nothing is published "
                "until dump(dst) has written a full checkpoint. Give checkpoint_directory to have it written by itself",
                stream,
                newest,
            )
        self._position = position
        if self._storage is not None:
            self.publisher.start()

    def _has_begun(self) -> bool:
        return self._position is not None

    def _newest_published(self) -> int:
        """The stream's newest sequence, with patience for a storage that is away."""
        until = time.monotonic() + self._retry_seconds
        failures = 0
        while True:
            try:
                packets = (
                    0 if self._storage is None else newest_sequence(self._storage, self._identity.stream)
                )
                if self._checkpoints is None:
                    return packets
                newest = max(packets, newest_checkpoint(self._checkpoints, self._identity.stream))
                if is_checkpoint(self._checkpoints):
                    log.warning("%s is a checkpoint: no others are written into it", self._checkpoints.url)
                    self._checkpoints = None
                return newest
            except StorageError:
                failures += 1
                if time.monotonic() >= until:
                    raise
                self.lock.wait(retry_delay(failures))

    def _require_position(self) -> Position:
        assert self._position is not None, "_begin was called"
        return self._position

    def _held_back(self) -> bool:
        """Whether a full checkpoint is due that only the caller can ask for."""
        return self._require_position().full_due and (self._checkpoints is None or self._loaded is None)

    @contextmanager
    def _cutting(self, *, dumping: bool = False) -> Iterator[None]:
        """Hold the lock at a moment when a packet may be cut: no step is open, and there is room for the packet.

        With `dumping` no other checkpoint is being written, either.
        """
        with self.lock:
            self._begin()
            if threading.get_ident() in self._steps:
                raise ConflictError("not within step(): what is committed there belongs together")
            self._cutters += 1
            try:
                while True:
                    if self._steps or (dumping and self._dump is not None):
                        self.publisher.wait_for_change()
                    elif self._storage is not None and not self.publisher.has_room:
                        self.publisher.wait_for_room()
                    else:
                        break
                yield
            finally:
                self._cutters -= 1
                self.lock.notify_all()

    def _leave_step(self, thread: int) -> None:
        self._steps[thread] -= 1
        if not self._steps[thread]:
            del self._steps[thread]
            self.lock.notify_all()

    def _is_due(self) -> bool:
        """Whether the rules ask for a packet that may be published."""
        return (
            self._storage is not None
            and self._position is not None
            and not self._held_back()
            and self._rule.due(self._waiting.waiting, time.monotonic())
        )

    def _publish_what_is_due(self) -> None:
        """Cut a packet if the rules ask for one, waiting for room; raise if publishing has failed for too long."""
        if self._position is None or self._storage is None or self._held_back():
            return
        self.publisher.check()
        if self._steps or not self._is_due():
            return
        self.publisher.wait_for_room()
        if not self._steps and self._is_due():
            self._cut(None)

    def _cut_if_due(self, now: float) -> float | None:
        """What the publisher's thread calls: cut if the rules ask for it, or say when they will."""
        if self._position is None or self._steps or self._held_back() or not self.publisher.has_room:
            return None
        if self._rule.due(self._waiting.waiting, now):
            self._cut(None)
        return self._rule.deadline(self._waiting.waiting)

    def _cut(self, dense: Dense | None) -> None:
        """Make a packet of what waits, if anything does; or the full checkpoint that is due."""
        position = self._require_position()
        if position.full_due:
            self._full_checkpoint(self._dump_target(None), None)
            return
        if not self._waiting.waiting.signs:
            return
        sequence = position.last + 1
        if self._storage is not None:
            oldest, newest = self._waiting.event_times_ns
            parts = [part for dim, signs in self._waiting.signs().items() for part in self._parts(dim, signs)]
            self.publisher.put(
                PacketJob(
                    self._storage, self._identity, sequence, position.last, parts, oldest, newest, dense
                )
            )
        self._waiting.clear()
        self._position = Position(sequence, full_due=False)

    def _parts(self, dim: int, signs: NDArray[np.uint64]) -> Iterator[PacketContent]:
        rows, found = self._rows.read(dim, signs)
        if found.all():
            yield PacketContent(dim, signs, rows)
            return
        if found.any():
            yield PacketContent(dim, signs[found], rows[found])
        yield PacketContent(dim, signs[~found])

    # ---- checkpoints; the caller holds the lock ----

    def _dump_target(self, dst: Path | str | None) -> Storage:
        if dst is not None:
            target = open_storage(dst)
            check_free(target)
            return target
        if self._checkpoints is None:
            raise InvalidInputError(
                "a full checkpoint is to be written, and nothing says where: give dump() a destination, or TrainCtx a "
                "checkpoint_directory"
            )
        position = self._require_position()
        sequence = position.last + bool(position.full_due or self._waiting.waiting.signs)
        return self._checkpoints.subfolder(f"{sequence:020d}-{self._identity.writer}-{secrets.token_hex(4)}")

    def _full_checkpoint(self, target: Storage, progress: Callable[[DumpProgress], None] | None) -> Dump:
        """The checkpoint that is due: it has a sequence of its own, and packets come after it."""
        sequence = self._require_position().last + 1
        dump = self._new_dump(target, sequence, progress)
        self._waiting.clear()
        self._position = Position(sequence, full_due=False)
        if self._storage is None:
            dump.start()
        else:
            self.publisher.put(dump)
        return dump

    def _new_dump(
        self, target: Storage, sequence: int, progress: Callable[[DumpProgress], None] | None
    ) -> Dump:
        # One whose sequence is its own is published by the publisher's thread, in turn: it waits for nobody.
        own = self._require_position().full_due
        waits = self._storage is not None and not own
        self._dump = Dump(
            target,
            self._identity,
            sequence,
            self._rows.freeze(),
            self._events.copy(),
            publisher=self.publisher,
            after=sequence if waits else 0,
            finished=self._dump_finished,
            progress=progress,
            check_fork=partial(self._check_fork, sequence) if own else lambda: None,
        )
        return self._dump

    def _check_fork(self, sequence: int) -> None:
        """A packet of somebody else's with the sequence of a checkpoint of ours would be taken for its beginning."""
        if self._storage is not None:
            check_fork(self._storage, self._identity.stream, sequence, self._identity.writer)

    def _dump_finished(self) -> None:
        self._rows.thaw()
        self._dump = None
