"""`TrainCtx`: what a training job calls, so that embedding servers have its rows a moment later.

commit ──▶ rows (all of them) ──▶ dump ──▶ checkpoint
      └──▶ waiting (what changed) ──▶ cut ──▶ publisher's thread ──▶ packet, packet, ...
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from satrap.config import EmbeddingConfig, GlobalConfig
from satrap.errors import SatrapError
from satrap.formats.manifest import Dense
from satrap.storage import open_storage
from satrap.trainer.arguments import (
    checkpoint_storage,
    event_time,
    identity_of,
    packet_storage,
    read_embedding_config,
    read_global_config,
)
from satrap.trainer.dumping import Dump, DumpProgress
from satrap.trainer.signs import feature_signs, find_feature, rows_of
from satrap.trainer.stream_writer import RowChange, StreamWriter
from satrap.trainer.waiting import FlushRule

if TYPE_CHECKING:
    import torch

    from satrap.trainer.archiving import DenseDump
    from satrap.trainer.tracking import Change, TrackedModule, Tracker

__all__ = ["TrainCtx"]

log = logging.getLogger(__name__)


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
        config = read_global_config(global_config)
        embeddings, source = read_embedding_config(embedding_config)
        self._features = feature_signs(embeddings, log.warning, source)
        self._identity = identity_of(config, embeddings, stream, writer, num_shards)
        self._writer = StreamWriter(
            self._identity,
            packet_storage(config, directory),
            checkpoint_storage(config, checkpoint_directory),
            FlushRule(
                config.embedding_parameter_server_config.incremental_buffer_size,
                config.trainer.incremental_flush_seconds,
            ),
            waiting_packets=config.trainer.waiting_packets,
            retry_seconds=retry_seconds,
            start_over=start_over,
        )
        self._tracker: Tracker | None = None

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
        return self._writer.sequence

    @property
    def published(self) -> int:
        """The sequence of the last packet that this trainer published; 0 before the first."""
        return self._writer.publisher.published

    @property
    def waiting_rows(self) -> int:
        """Distinct rows that changed since the last packet was cut."""
        return self._writer.waiting_rows

    @property
    def row_count(self) -> int:
        """Rows in all."""
        return self._writer.row_count

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
        self._writer.change([RowChange(known.dim, signs, rows)], event_time(event_time_ns))

    def delete(self, feature: str, ids: Any, event_time_ns: int | None = None) -> None:
        """Say that ids have no row any more; arguments and errors are those of `commit`."""
        known = find_feature(self._features, feature)
        self._writer.change([RowChange(known.dim, known.signs(ids), None)], event_time(event_time_ns))

    def lookup(self, feature: str, ids: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What was committed or loaded: (vectors f32 [n, dim], zeros where there is none; found bool [n]).

        Raises:
            InvalidInputError: as for `commit`.
        """
        known = find_feature(self._features, feature)
        signs = known.signs(ids)
        rows, found = self._writer.read(known.dim, signs)
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

        Where several threads have steps, one waits at its beginning while a packet that is due is cut between them.

        Raises:
            SatrapError: publishing fails, see the class; what was committed within was taken.
        """
        with self._writer.step():
            yield

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
        with self._writer.lock:
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
        return self._writer.flush(wait=wait)

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
        dump = self._writer.dump(dst, progress)
        if blocking:
            dump.wait()
        return dump

    def load(
        self,
        checkpoint: Path | str,
        *,
        catch_up: bool = False,
        progress: Callable[[DumpProgress], None] | None = None,
    ) -> None:
        """Take the rows of a checkpoint, to go on from it. Only before anything is committed, flushed or dumped.

        If the stream has packets after it, or it is another stream's or PERSIA's, the first publication is a full
        checkpoint in `checkpoint_directory` (or the first `dump`), as servers have other rows.

        Args:
            checkpoint: Its directory, a path or URL; or a folder of checkpoints, whose newest is taken. While an
                operator holds the stream (`satrap rollback`), the newest that is not beyond the hold.
            catch_up: Apply the stream's packets that were published after it as well: then these are the rows that
                servers have, packets go on, and no full checkpoint is needed. For jobs that take their rows from here
                (`lookup`), or whose modules are tracked: rows in which a module differs are published as changed.
            progress: Called now and then.

        Raises:
            ConflictError: something was committed, flushed or dumped already.
            UpdateError, CheckpointError: it is not whole, not of this embedding config, or beyond a hold; or a hold
                cannot be understood.
            StorageError: it cannot be read.
        """
        dims = {feature.dim for feature in self._features.values()}
        self._writer.load(open_storage(checkpoint), dims, progress, catch_up=catch_up)

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
        from satrap.trainer.archiving import DenseDump, check_archive, register_archive, write_dense_archive

        path = Path(os.fspath(archive))
        check_archive(path, model_name, version)
        sequence = self._writer.flush(Dense(model_name, version))
        # Without packets servers never reach a sequence on their own.
        needed = sequence if self._writer.has_packets and sequence else None
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
        if self._tracker is not None:
            self._tracker.close()
        self._writer.close()

    def _commit_changes(self, changes: "Sequence[Change]") -> None:
        self._writer.change(
            [RowChange(change.feature.dim, change.signs, self._rounded(change)) for change in changes],
            time.time_ns(),
        )

    def _commit_initial(self, tracked: "TrackedModule") -> None:
        size = self._writer.chunk_rows
        for start in range(0, len(tracked.signs), size):
            change = tracked.rows(slice(start, start + size))
            rows = self._rounded(change)
            before, found = self._writer.read(change.feature.dim, change.signs)
            differ = ~found | (before != rows).any(1)
            changed = RowChange(change.feature.dim, change.signs[differ], rows[differ])
            self._writer.change([changed], time.time_ns())

    def _rounded(self, change: "Change") -> NDArray[Any]:
        return rows_of(change.feature, change.vectors, len(change.signs), self._identity.row_dtype)
