"""What a server serves, what it is loading, and the one switch between them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import satrap
from satrap._core.table import Table, TableGeneration
from satrap.embedding_server.loading import LoadProgress, load_checkpoint
from satrap.embedding_server.table_directory import TableDirectory, table_errors
from satrap.embedding_server.tables import Generation, RowDType
from satrap.embedding_server.takeover import GenerationInfo, Wanted
from satrap.embedding_server.target import Target
from satrap.errors import ConflictError, SatrapError, ShardUnavailableError, TableFolderError
from satrap.formats.checkpoint_identity import identify_checkpoint

__all__ = ["CatchUp", "Phase", "ShardState", "Snapshot"]

log = logging.getLogger(__name__)

CatchUp = Callable[[Target], None]
"""Applies to a target every packet after its watermark that there is and that may be applied."""


class Phase(Enum):
    """Whether a server answers lookups."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Snapshot:
    """All there is to know at one moment. `generation` is None until something is served.

    `started` is how the first one came: `warm`, or `cold: REASON`; empty until that is known.
    """

    generation: Generation | None = None
    loading: Path | None = None
    progress: LoadProgress = field(default_factory=LoadProgress)
    failure: str = ""
    started: str = ""

    @property
    def phase(self) -> Phase:
        """Ready as soon as something is served; a later load, or its failure, changes nothing about that."""
        if self.generation is not None:
            return Phase.READY
        return Phase.FAILED if self.failure and self.loading is None else Phase.LOADING

    @property
    def message(self) -> str:
        """What is being loaded, or why the last load failed; empty if neither."""
        if self.loading is not None:
            return (
                f"loading {self.loading}: {self.progress.fraction:.0%}, {self.progress.files_done} of "
                f"{self.progress.files_total} files, {self.progress.rows:,} rows"
            )
        return self.failure


class ShardState:
    """One shard's present snapshot, and the generation of tables behind it.

    Threads: `snapshot` is read without a lock (one reference, replaced whole); loads exclude each other. `writing` is
    held, for each packet anew, by whoever changes rows, tables, origin or watermark of what is served: inside it
    `target()` does not change. The thread that holds it may take it again.
    """

    def __init__(
        self,
        directory: TableDirectory,
        row_dtype: RowDType,
        load_threads: int,
        config_digest: str = "",
        persia_replay_margin_seconds: int = 600,
    ) -> None:
        """Serve nothing yet. `directory` is held by the caller, and outlives this."""
        self.owner = directory.owner
        self.row_dtype = row_dtype
        self.snapshot = Snapshot()
        self._directory = directory
        self._load_threads = load_threads
        self._config_digest = config_digest
        self._persia_replay_margin_seconds = persia_replay_margin_seconds
        self.writing = threading.RLock()
        self._loading = threading.Lock()
        self._changing = threading.Lock()  # of `snapshot`, which several threads replace
        self._target: Target | None = None
        self._start_identity = ""

    def generation(self) -> Generation:
        """What is served.

        Raises:
            ShardUnavailableError: nothing is; the sentence has the load's progress.
        """
        snapshot = self.snapshot
        if snapshot.generation is None:
            reason = snapshot.message or "it is starting"
            raise ShardUnavailableError(self.owner.replica_index, self.owner.replica_size, "", reason)
        return snapshot.generation

    def target(self) -> Target | None:
        """What updates are applied to; None while nothing is served. Take it inside `writing`."""
        return self._target

    def applied(self) -> tuple[int, int]:
        """Sequence and newest event (nanoseconds since the epoch) of what is served; (0, 0) if nothing is.

        Ask before looking rows up: what is found then is at least as new.
        """
        target = self._target
        while target is not None:
            try:
                return target.store.applied
            except RuntimeError:  # closed: there was a switch in between
                before, target = target, self._target
                if target is before:
                    raise
        return 0, 0

    def start(
        self,
        checkpoint: Path | None,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp = lambda target: None,
    ) -> Generation:
        """Serve what a server before left, if that is what `checkpoint` would bring; otherwise load that, or nothing.

        What was left is removed when the first table of the load is made, and not if the checkpoint is refused
        before. `catch_up` gets what came of it before lookups do: it applies every packet that there is. A start that
        is cut short in it goes on from there.

        Raises:
            CheckpointError, LoadCancelled, NoSpaceError, TableFolderError: as `load`.
        """
        with self._one_load(checkpoint):
            identity = identify_checkpoint(checkpoint, self.owner) if checkpoint is not None else ""
            began = time.monotonic()
            taken = self._directory.take_over(
                Wanted(
                    self._directory.boot_id,
                    self.owner,
                    self.row_dtype,
                    self._config_digest,
                    checkpoint,
                    identity,
                )
            )
            if not isinstance(taken, str):
                store, info = taken
                # Whoever names the loaded checkpoint now has decided anew: a later start that names another gets that.
                info = replace(info, start_identity=identity or info.start_identity)
                target = Target(store, info, self._changed)
                target.tell(info)
                self._start_identity = info.start_identity
                generation = self._serve_first(target, catch_up, "warm")
                log.info("warm: %s rows in %.2f s", f"{generation.rows:,}", time.monotonic() - began)
                return generation
            started = f"cold: {taken}"
            log.info("%s", started)
            self._start_identity = identity
            self._change(started=started)
            if checkpoint is None:
                self._directory.discard_rest()
                info = self._info("", "")
                target = Target(self._directory.new_generation(info), info, self._changed)
                target.store.serve()
                return self._serve_first(target, catch_up, started)
            return self._load(
                checkpoint, identity, self._directory.discard_rest, on_progress, cancelled, catch_up
            )

    def load(
        self,
        path: Path,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp = lambda target: None,
    ) -> Generation:
        """Load into a new generation beside what is served, switch, and remove what was served before.

        `catch_up` brings the new tables up to what is served now, and is called twice: while the old ones go on being
        updated, and again inside `writing`, when what is left is little. Then lookups and updates go to the new ones.
        If this raises, what was served goes on, and nothing of the load is left. Calls in flight end with the
        tables that they began with.

        Raises:
            ConflictError: another load is running.
            CheckpointError, LoadCancelled: as `load_checkpoint`.
            NoSpaceError: there is no memory, no room, or no descriptor for it.
            TableFolderError: its folder cannot be made.
        """
        with self._one_load(path):
            identity = identify_checkpoint(path, self.owner)
            return self._load(path, identity, lambda: None, on_progress, cancelled, catch_up)

    def close(self) -> None:
        """Wait for the load that is running, and let go of the tables, which stay where they are."""
        with self._loading, self.writing:
            if self._target is not None:
                self._target.store.close()
                self._target = None

    @contextmanager
    def _one_load(self, path: Path | None) -> Iterator[None]:
        """Say what is being loaded, and afterwards how that failed."""
        if not self._loading.acquire(blocking=False):
            raise ConflictError(
                f"a checkpoint is being loaded already ({self.snapshot.message}); ask again when it is done"
            )
        try:
            self._change(loading=path, progress=LoadProgress(), failure="")
            yield
        except BaseException as error:
            failure = str(error) if isinstance(error, SatrapError) else f"{path}: {error!r}"
            self._change(loading=None, failure=failure)
            raise
        finally:
            self._loading.release()

    def _load(
        self,
        path: Path,
        identity: str,
        make_room: Callable[[], None],
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
        catch_up: CatchUp,
    ) -> Generation:
        """`make_room` is called once, before anything is made."""

        def progressed(progress: LoadProgress) -> None:
            self._change(progress=progress)
            on_progress(progress)

        info = self._info(str(path), identity)
        building = _Building(self._directory, info, self._load_threads, make_room)
        try:
            loaded = load_checkpoint(
                path,
                self.owner,
                self._load_threads,
                building.add_table,
                progressed,
                cancelled,
                self._persia_replay_margin_seconds,
            )
            new = building.finish(replace(info, origin=loaded.origin, warnings=loaded.warnings))
            before = self._target
            if before is not None:
                catch_up(new)
                with self.writing:
                    catch_up(new)
                    new.store.serve()
                    generation = self._switch_to(new)
        except BaseException:
            building.give_up()
            raise
        if before is None:
            new.store.serve()
            return self._serve_first(new, catch_up, self.snapshot.started)
        _remove(before.store)
        try:
            self._directory.discard_rest(new.store)  # what could not be removed earlier
        except TableFolderError as error:
            log.warning("%s", error)
        return generation

    def _serve_first(self, target: Target, catch_up: CatchUp, started: str) -> Generation:
        """Serve what nothing was served before; it may be taken over already."""
        try:
            catch_up(target)
        except BaseException:
            target.store.close()
            raise
        with self.writing:
            return self._switch_to(target, started)

    def _switch_to(self, target: Target, started: str | None = None) -> Generation:
        generation = _generation(target)
        target.on_change = self._changed
        self._target = target
        with self._changing:
            self.snapshot = Snapshot(generation, started=started or self.snapshot.started)
        return generation

    def _changed(self, target: Target) -> None:
        """Lookups find a table that was added to what is served."""
        if target is self._target:
            self._change(generation=_generation(target))

    def _change(self, **changes: Any) -> None:
        with self._changing:
            self.snapshot = replace(self.snapshot, **changes)

    def _info(self, checkpoint: str, identity: str) -> GenerationInfo:
        return GenerationInfo(
            row_dtype=self.row_dtype,
            config_digest=self._config_digest,
            checkpoint=checkpoint,
            checkpoint_identity=identity,
            start_identity=self._start_identity,
            version=satrap.__version__,
            created_ns=time.time_ns(),
        )


class _Building:
    """A generation that comes to be with its first table: a checkpoint that is refused before leaves no trace."""

    def __init__(
        self, directory: TableDirectory, info: GenerationInfo, threads: int, make_room: Callable[[], None]
    ) -> None:
        self._directory, self._info, self._threads, self._make_room = directory, info, threads, make_room
        self._target: Target | None = None

    def add_table(self, dim: int, rows: int) -> Table:
        """A table for `rows` rows.

        Raises:
            NoSpaceError, TableFolderError: it cannot be made.
        """
        return self._begun().add_table(dim, rows, self._threads)

    def finish(self, info: GenerationInfo) -> Target:
        """The generation, whole from now on but not served, which says `info`."""
        target = self._begun()
        target.store.set_applied(info.origin.base_sequence, info.origin.base_event_ns)
        target.tell(info)
        return target

    def give_up(self) -> None:
        """Remove what there is of it."""
        if self._target is not None:
            _remove(self._target.store)

    def _begun(self) -> Target:
        if self._target is None:
            self._make_room()
            self._target = Target(self._directory.new_generation(self._info), self._info)
        return self._target


def _generation(target: Target) -> Generation:
    return Generation(
        row_dtype=target.info.row_dtype,
        tables=target.tables,
        folder=target.store.folder,
        instance_id=target.store.instance_id,
        checkpoint=target.info.checkpoint,
        warnings=target.info.warnings,
        origin=target.origin,
    )


def _remove(store: TableGeneration) -> None:
    """Remove a generation that nobody is to find any more; what cannot be removed now, the next start removes."""
    try:
        with table_errors(Path(store.folder)):
            store.remove()
    except SatrapError as error:
        log.warning("%s", error)
