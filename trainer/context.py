"""`TrainCtx`: what a training job calls, so that embedding servers have its rows a moment later.

commit ──▶ rows (all of them) ──▶ dump ──▶ checkpoint
      └──▶ waiting (what changed) ──▶ cut ──▶ publisher's thread ──▶ packet, packet, ...
"""

import logging
import math
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from satrap.config import EmbeddingConfig, GlobalConfig, load_embedding_config, load_global_config
from satrap.errors import ConflictError, InvalidInputError, SatrapError, StorageError
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
from satrap.trainer.packets import Identity, PacketJob, newest_checkpoint, newest_sequence
from satrap.trainer.publisher import Publisher, retry_delay
from satrap.trainer.resuming import Loaded, Position, resume
from satrap.trainer.rows import Rows
from satrap.trainer.signs import FeatureSigns, feature_signs, find_feature, rows_of
from satrap.trainer.waiting import FlushRule, WaitingSigns

if TYPE_CHECKING:
    import torch

    from satrap.trainer.archiving import DenseDump
    from satrap.trainer.tracking import Change, TrackedModule, Tracker

__all__ = ["TrainCtx"]

log = logging.getLogger(__name__)

_CHUNK_ROWS = 1 << 20
"""Larger commits are taken in parts of so many rows, so that the memory for a packet is bounded."""


class TrainCtx:
    """Publishes what a training job changes: packets as it goes, checkpoints when it says so.

        with TrainCtx("global_config.yaml", "embedding_config.yml") as ctx:
            ctx.track(module, "user")               # or commit(...) after each step
            ...                                     # train
            ctx.dump("checkpoints/monday")

    Any thread may call. Nothing is written, listed or started before the first call that needs it. What the storage
    refuses is tried again in the background; `commit` and `flush` raise its errors only when they last, after they have
    taken what they were given. Leaving the context publishes what waits.
    """

    def __init__(
        self,
        global_config: Path | str | GlobalConfig,
        embedding_config: Path | str | EmbeddingConfig,
        *,
        stream: str | None = None,
        directory: Path | str | None = None,
        checkpoint_directory: Path | str | None = None,
        num_shards: int | None = None,
        writer: str | None = None,
        start_over: bool = False,
        retry_seconds: float = 30.0,
    ) -> None:
        """Read the configuration; the keyword arguments take the place of what it says.

        Args:
            global_config: The file, or what `load_global_config` returned.
            embedding_config: Likewise.
            stream: The stream's name (`trainer.stream`).
            directory: Where packets go, a path or URL (`updates.directory`, otherwise PERSIA's `incremental_dir` if
                `enable_incremental_update` is true). Without any, only `dump` writes something.
            checkpoint_directory: The folder of checkpoints that embedding servers have as `--checkpoint`
                (`infer_config.embedding_checkpoint`): `dump()` without a destination writes there.
            num_shards: Files per dim in packets and checkpoints (`trainer.num_shards`).
            writer: Names this process in file names; random if it is not given. Never reuse one.
            start_over: The stream exists and its rows are to be replaced by what this trainer commits from nothing.
                Nothing is published until the first `dump` or `flush`, which writes a full checkpoint.
            retry_seconds: How long the storage may fail before `commit` and `flush` raise.

        Raises:
            ConfigError: a file is wrong.
            InvalidInputError: an argument is.
        """
        config = _global_config(global_config)
        self._embedding_config, source = _embedding_config(embedding_config)
        self._features = feature_signs(self._embedding_config, log.warning, source)
        servers = config.embedding_parameter_server_config
        self._identity = Identity(
            stream=_stream_name(config.trainer.stream if stream is None else stream),
            writer=secrets.token_hex(8) if writer is None else writer,
            num_shards=_num_shards(config, num_shards),
            row_dtype=config.trainer.row_dtype,
            embedding_config=self._embedding_config.digest,
        )
        self._storage = _packet_storage(config, directory)
        folder = checkpoint_directory or config.common_config.infer_config.embedding_checkpoint
        self._checkpoints = open_storage(folder) if folder else None
        self._rule = FlushRule(servers.incremental_buffer_size, config.trainer.incremental_flush_seconds)
        self._start_over = start_over
        self._retry_seconds = retry_seconds

        self._rows = Rows(config.trainer.row_dtype)
        self._waiting = WaitingSigns()
        self._events = EventTimes()
        self._loaded: Loaded | None = None
        self._position: Position | None = None
        self._steps: Counter[int] = Counter()
        self._cutters = 0
        self._dump: Dump | None = None
        self._tracker: Tracker | None = None
        self._closed = False
        url = self._storage.url if self._storage is not None else "(no directory of packets)"
        self._publisher = Publisher(url, config.trainer.waiting_packets, retry_seconds, self._cut_if_due)
        self._lock = self._publisher.lock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SatrapError as failure:
            if error is None:
                raise
            log.error("closing after an error: %s", failure)

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._identity.stream

    @property
    def writer(self) -> str:
        """What this process is called in file names."""
        return self._identity.writer

    @property
    def sequence(self) -> int:
        """The sequence of the last packet that was cut; 0 before the first."""
        with self._lock:
            return 0 if self._position is None else self._position.last

    @property
    def published(self) -> int:
        """The sequence of the last packet that this trainer published; 0 before the first."""
        return self._publisher.published

    @property
    def waiting_rows(self) -> int:
        """Distinct rows that changed since the last packet was cut."""
        with self._lock:
            return self._waiting.waiting.signs

    @property
    def row_count(self) -> int:
        """Rows in all."""
        with self._lock:
            return self._rows.count

    def commit(self, feature: str, ids: Any, vectors: Any, event_time_ns: int | None = None) -> None:
        """Say that rows have these values now.

        Args:
            feature: A name of `slots_config`.
            ids: The feature's ids, whole numbers from 0 [n]; where it has a hash stack, its `buckets`. Of an id that
                comes twice the last vector counts.
            vectors: Floats [n, dim]: arrays, or tensors wherever they are.
            event_time_ns: When what they were trained on happened, in nanoseconds since the epoch; now if not given.

        Raises:
            InvalidInputError: nothing of the commit was taken.
            SatrapError: publishing fails, see the class; the commit was taken.
        """
        known = find_feature(self._features, feature)
        signs = known.signs(ids)
        rows = rows_of(known, vectors, len(signs), self._identity.row_dtype)
        self._change([(known, signs, rows)], event_time_ns)

    def delete(self, feature: str, ids: Any, event_time_ns: int | None = None) -> None:
        """Say that ids have no row any more; arguments and errors are those of `commit`."""
        known = find_feature(self._features, feature)
        self._change([(known, known.signs(ids), None)], event_time_ns)

    def lookup(self, feature: str, ids: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What was committed or loaded: (vectors f32 [n, dim], zeros where there is none; found bool [n]).

        Raises:
            InvalidInputError: as for `commit`.
        """
        known = find_feature(self._features, feature)
        signs = known.signs(ids)
        with self._lock:
            rows, found = self._rows.read(known.dim, signs)
        return rows.astype(np.float32), found

    def buckets(self, feature: str, ids: Any) -> NDArray[np.uint64]:
        """Buckets u64 [rounds, n] that ids of a feature with a hash stack have: the rows that are looked up for them.

        Raises:
            InvalidInputError: the feature has none, or these are no ids.
        """
        return find_feature(self._features, feature).bucket_numbers(ids)

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is committed within belongs together: no packet has a part of it without the rest.

        Raises:
            SatrapError: at its end, as `commit`.
        """
        thread = threading.get_ident()
        with self._lock:
            # Steps of several threads may overlap for ever: when a packet is due, those that run are the last ones.
            while thread not in self._steps and (self._cutters or (self._steps and self._is_due())):
                self._publisher.wait_for_change()
            self._steps[thread] += 1
        try:
            yield
        except BaseException:
            with self._lock:
                self._leave_step(thread)
            raise
        with self._lock:
            self._leave_step(thread)
            self._publish_what_is_due()

    def track(
        self,
        module: "torch.nn.Module",
        feature: str,
        *,
        ids: NDArray[Any] | Sequence[int] | None = None,
        initial: bool = True,
    ) -> None:
        """Commit by itself what optimizers change in a `torch.nn.Embedding` or `EmbeddingBag` with sparse gradients.

        After each `optimizer.step()` of this process, the rows that it changed are committed with their new values,
        those of all tracked modules together.

        Args:
            module: The module; row i belongs to id i.
            feature: Whose rows it holds.
            ids: The id of each row instead [num_embeddings].
            initial: Commit the module's present rows now, as far as they differ from what was loaded: then what is
                served is what the module holds. Otherwise an id has a row from its first training step on, as with
                PERSIA.

        Raises:
            InvalidInputError: the module cannot be tracked; it says why.
            SatrapError: as `commit`.
        """
        from satrap.trainer.tracking import Tracker, tracked_module

        tracked = tracked_module(
            module, find_feature(self._features, feature), None if ids is None else np.asarray(ids)
        )
        with self._lock:
            if self._tracker is None:
                self._tracker = Tracker(self._commit_changes)
            self._tracker.add(tracked)
        if initial:
            self._commit_initial(tracked)

    def flush(self, *, wait: bool = True) -> int:
        """Publish what waits now, and return the sequence that has it.

        Args:
            wait: Return when it is published, not only cut.

        Raises:
            SatrapError: publishing fails, see the class; nothing is lost.
        """
        with self._cutting():
            self._cut(None)
            sequence = self._require_position().last
        if wait:
            self._publisher.wait_for(sequence)
        return sequence

    def dump(
        self,
        dst: Path | str | None = None,
        *,
        blocking: bool = True,
        progress: Callable[[DumpProgress], None] | None = None,
    ) -> Dump:
        """Write a full checkpoint: every row, exactly as it is now.

        What waits is published first, so the checkpoint has a packet's sequence; its manifest appears after that
        packet. Training and packets go on meanwhile: rows that change are kept twice until it is written.

        Args:
            dst: Its directory, a path or URL, in which there is no checkpoint yet; by default a new folder in
                `checkpoint_directory`.
            blocking: Wait until it is written. Otherwise `wait` of what is returned does.
            progress: Called now and then by the thread that writes.

        Raises:
            CheckpointError: there is a checkpoint in `dst`.
            InvalidInputError: no `dst`, and no checkpoint directory.
            SatrapError: it cannot be written; or what waits cannot be published, see the class.
        """
        with self._cutting(dumping=True):
            target = self._dump_target(dst)
            if self._require_position().full_due:
                dump = self._full_checkpoint(target, progress)
            else:
                self._cut(None)
                dump = self._new_dump(target, self._require_position().last, progress)
                dump.start()
        if blocking:
            dump.wait()
        return dump

    def load(self, checkpoint: Path | str, *, progress: Callable[[DumpProgress], None] | None = None) -> None:
        """Take the rows of a checkpoint, to go on from it. Only before anything is committed, flushed or dumped.

        If the stream has packets after it, or it is another stream's or PERSIA's, the first publication is a full
        checkpoint in `checkpoint_directory` (or the first `dump`), as servers have other rows.

        Args:
            checkpoint: Its directory, a path or URL; or a folder of checkpoints, whose newest is taken.
            progress: Called now and then.

        Raises:
            ConflictError: something was committed, flushed or dumped already.
            UpdateError, CheckpointError: it is not whole, or not of this embedding config.
            StorageError: it cannot be read.
        """
        with self._lock:
            if self._position is not None or self._loaded is not None:
                raise ConflictError("load() comes before the first commit, flush or dump, and once")
            storage = open_storage(checkpoint)
            rows = Rows(self._identity.row_dtype)
            dims = {feature.dim for feature in self._features.values()}
            self._loaded, self._events = load_rows(
                storage, rows, self._identity.embedding_config, dims, progress
            )
            self._rows = rows

    def dump_dense(
        self,
        model: "torch.nn.Module",
        archive: Path | str,
        *,
        model_name: str,
        version: str,
        handler: str | None = None,
        extra_files: Sequence[Path | str] | str = (),
        config: Mapping[str, Any] | None = None,
        register: str | None = None,
        initial_workers: int = 1,
        set_default: bool = False,
    ) -> "DenseDump":
        """Write a dense model as an archive that is served with the rows as they are now, and not with older ones.

        Publishes what waits, turns the model into TorchScript, and writes the archive with the sequence that it needs
        in its config file (`satrap: {sparse_sequence: N}`). The model itself stays as it is.

        Args:
            model: A module that `torch.jit.script` takes.
            archive: Path of the archive, ending in `.mar`; replaced if it is there.
            model_name: The model's name.
            version: Its version.
            handler: A Python file, or one that is installed; by default `satrap.serving.handler:EmbeddingHandler`.
            extra_files: Files that the handler needs.
            config: More of the archive's config file, for instance `{"minWorkers": 2}`.
            register: `host:port` of a management API in whose model store the archive lies: register it there.
            initial_workers: Workers to start then.
            set_default: Make it the default version then; the old one answers until this one can.

        Raises:
            ArchiveError: the archive cannot be.
            SatrapError: as `flush`, and as `ManagementClient.register`.
        """
        from satrap.trainer.archiving import DenseDump, register_archive, write_dense_archive

        with self._cutting():
            self._cut(Dense(model_name, version))
            sequence = self._require_position().last
        self._publisher.wait_for(sequence)
        # Without packets servers never reach a sequence on their own.
        needed = sequence if self._storage is not None and sequence else None
        path = Path(os.fspath(archive))
        write_dense_archive(
            model,
            path,
            model_name=model_name,
            version=version,
            handler=handler,
            extra_files=extra_files,
            config=config or {},
            sparse_sequence=needed,
        )
        answer = ""
        if register is not None:
            answer = register_archive(
                register,
                path,
                initial_workers=initial_workers,
                set_default=(model_name, version) if set_default else None,
            )
        return DenseDump(path, needed, answer)

    def close(self) -> None:
        """Publish what waits, wait for a dump that runs, and end. Nothing may be called afterwards.

        Raises:
            SatrapError: what waits cannot be published, and is lost if the process ends now; close may be called again.
        """
        if self._closed:
            return
        if self._tracker is not None:
            self._tracker.close()
        with self._lock:
            begun = self._position is not None
            while self._dump is not None:
                self._publisher.wait_for_change()
            held_back = begun and self._held_back()
            if held_back and self._waiting.waiting.signs:
                log.warning(
                    "%d rows were never published: dump() was not called", self._waiting.waiting.signs
                )
        if begun and not held_back:
            self.flush()
        self._closed = True
        self._publisher.stop()

    # ---- what changes ----

    def _commit_changes(self, changes: "Sequence[Change]") -> None:
        dtype = self._identity.row_dtype
        self._change(
            [
                (
                    change.feature,
                    change.signs,
                    rows_of(change.feature, change.vectors, len(change.signs), dtype),
                )
                for change in changes
            ],
            None,
        )

    def _commit_initial(self, tracked: "TrackedModule") -> None:
        for start in range(0, len(tracked.signs), _CHUNK_ROWS):
            change = tracked.rows(slice(start, start + _CHUNK_ROWS))
            dim, dtype = change.feature.dim, self._identity.row_dtype
            rows = rows_of(change.feature, change.vectors, len(change.signs), dtype)
            with self._lock:
                before, found = self._rows.read(dim, change.signs)
            differ = ~found | (before != rows).any(1)
            self._change([(change.feature, change.signs[differ], rows[differ])], None)

    def _change(
        self,
        changes: Sequence[tuple[FeatureSigns, NDArray[np.uint64], NDArray[Any] | None]],
        event_time_ns: int | None,
    ) -> None:
        """Take rows (or deletes, where they are None), all of them before a packet is cut, if they are not too many."""
        event = time.time_ns() if event_time_ns is None else _event_time(event_time_ns)
        together = sum(len(signs) for _, signs, _ in changes) <= _CHUNK_ROWS
        for feature, signs, rows in changes:
            for start in range(0, len(signs), _CHUNK_ROWS):
                part = slice(start, start + _CHUNK_ROWS)
                with self._lock:
                    self._begin()
                    self._take(feature.dim, signs[part], None if rows is None else rows[part], event)
                    if not together:
                        self._publish_what_is_due()
        if together and changes:
            with self._lock:
                self._begin()
                self._publish_what_is_due()

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
            self._lock.notify_all()  # the publisher's thread has a deadline now

    # ---- packets; the caller holds the lock ----

    def _begin(self) -> None:
        """Find out where the stream goes on, once, and start the publisher's thread."""
        if self._closed:
            raise ConflictError("the TrainCtx is closed")
        if self._position is not None:
            return
        stream = self._identity.stream
        newest = self._newest_published()
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
            self._publisher.start()

    def _newest_published(self) -> int:
        """The stream's newest sequence, with patience for a storage that is away."""
        until = time.monotonic() + self._retry_seconds
        failures = 0
        while True:
            try:
                packets = 0 if self._storage is None else newest_sequence(self._storage, self.stream)
                if self._checkpoints is None:
                    return packets
                newest = max(packets, newest_checkpoint(self._checkpoints, self.stream))
                if is_checkpoint(self._checkpoints):
                    log.warning("%s is a checkpoint: no others are written into it", self._checkpoints.url)
                    self._checkpoints = None
                return newest
            except StorageError:
                failures += 1
                if time.monotonic() >= until:
                    raise
                self._lock.wait(retry_delay(failures))

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
        with self._lock:
            self._begin()
            if threading.get_ident() in self._steps:
                raise ConflictError("not within step(): what is committed there belongs together")
            self._cutters += 1
            try:
                while True:
                    if self._steps or (dumping and self._dump is not None):
                        self._publisher.wait_for_change()
                    elif self._storage is not None and not self._publisher.has_room:
                        self._publisher.wait_for_room()
                    else:
                        break
                yield
            finally:
                self._cutters -= 1
                self._lock.notify_all()

    def _leave_step(self, thread: int) -> None:
        self._steps[thread] -= 1
        if not self._steps[thread]:
            del self._steps[thread]
            self._lock.notify_all()

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
        self._publisher.check()
        if self._steps or not self._is_due():
            return
        self._publisher.wait_for_room()
        if not self._steps and self._is_due():
            self._cut(None)

    def _cut_if_due(self, now: float) -> float | None:
        """What the publisher's thread calls: cut if the rules ask for it, or say when they will."""
        if self._position is None or self._steps or self._held_back() or not self._publisher.has_room:
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
            self._publisher.put(
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
        return self._checkpoints.subfolder(f"{sequence:020d}-{self.writer}-{secrets.token_hex(4)}")

    def _full_checkpoint(self, target: Storage, progress: Callable[[DumpProgress], None] | None) -> Dump:
        """The checkpoint that is due: it has a sequence of its own, and packets come after it."""
        sequence = self._require_position().last + 1
        dump = self._new_dump(target, sequence, progress)
        self._waiting.clear()
        self._position = Position(sequence, full_due=False)
        if self._storage is None:
            dump.start()
        else:
            self._publisher.put(dump)
        return dump

    def _new_dump(
        self, target: Storage, sequence: int, progress: Callable[[DumpProgress], None] | None
    ) -> Dump:
        # One whose sequence is its own is published by the publisher's thread, in turn: it waits for nobody.
        waits = self._storage is not None and not self._require_position().full_due
        self._dump = Dump(
            target,
            self._identity,
            sequence,
            self._rows.freeze(),
            self._events.copy(),
            publisher=self._publisher,
            after=sequence if waits else 0,
            finished=self._dump_finished,
            progress=progress,
        )
        return self._dump

    def _dump_finished(self) -> None:
        self._rows.thaw()
        self._dump = None


def _global_config(given: Path | str | GlobalConfig) -> GlobalConfig:
    return given if isinstance(given, GlobalConfig) else load_global_config(given, log.warning)


def _embedding_config(given: Path | str | EmbeddingConfig) -> tuple[EmbeddingConfig, Path | str]:
    if isinstance(given, EmbeddingConfig):
        return given, "embedding config"
    return load_embedding_config(given, log.warning), given


def _stream_name(name: str) -> str:
    if not name or not name[0].isalnum() or not name.isascii():
        raise InvalidInputError(f"the stream {name!r} must begin with a letter or digit (trainer.stream)")
    return name


def _num_shards(config: GlobalConfig, given: int | None) -> int:
    """Files per dim: as the caller says, or the trainer's section, or as many as there are servers, or one."""
    shards = config.trainer.num_shards if given is None else given
    if shards is None:
        shards = max(len(config.common_config.infer_config.servers), 1)
    if shards < 1:
        raise InvalidInputError(f"num_shards must be at least 1, not {shards}")
    return shards


def _packet_storage(config: GlobalConfig, given: Path | str | None) -> Storage | None:
    servers = config.embedding_parameter_server_config
    location = given or config.updates.directory
    if not location and servers.enable_incremental_update:
        location = servers.incremental_dir
    return open_storage(location, servers.storage) if location else None


def _event_time(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
        if isinstance(value, float) and not math.isnan(value):
            raise InvalidInputError(
                f"event_time_ns is {value}: it is whole nanoseconds since the epoch (time.time_ns())"
            )
        raise InvalidInputError(
            f"event_time_ns is {value!r}, not nanoseconds since the epoch (time.time_ns())"
        )
    return int(value)
