"""What a server serves, what it is loading, and the one switch between them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import satrap
from satrap._core.table import MAX_INFO_BYTES, Table, TableGeneration
from satrap.embedding_server.loading import LoadProgress, load_checkpoint
from satrap.embedding_server.table_directory import TableDirectory, table_errors
from satrap.embedding_server.tables import Generation, RowDType
from satrap.embedding_server.takeover import GenerationInfo, Wanted
from satrap.errors import ConflictError, SatrapError, ShardUnavailableError, TableFolderError
from satrap.formats.checkpoint_identity import identify_checkpoint

__all__ = ["Phase", "ShardState", "Snapshot"]

log = logging.getLogger(__name__)


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

    Threads: `snapshot` is read without a lock (one reference, replaced whole); loads exclude each other.
    """

    def __init__(
        self, directory: TableDirectory, row_dtype: RowDType, load_threads: int, config_digest: str = ""
    ) -> None:
        """Serve nothing yet. `directory` is held by the caller, and outlives this."""
        self.owner = directory.owner
        self.row_dtype = row_dtype
        self.snapshot = Snapshot()
        self._directory = directory
        self._load_threads = load_threads
        self._config_digest = config_digest
        self._loading = threading.Lock()
        self._store: TableGeneration | None = None
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

    def start(
        self, checkpoint: Path | None, on_progress: Callable[[LoadProgress], None], cancelled: threading.Event
    ) -> Generation:
        """Serve what a server before left, if that is what `checkpoint` would bring; otherwise load that, or nothing.

        What was left is removed when the first table of the load is made, and not if the checkpoint is refused
        before.

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
                store.info = info.to_bytes(MAX_INFO_BYTES)
                self._start_identity = info.start_identity
                generation = self._switch_to(store, info, started="warm")
                log.info("warm: %s rows in %.2f s", f"{generation.rows:,}", time.monotonic() - began)
                return generation
            started = f"cold: {taken}"
            log.info("%s", started)
            self._start_identity = identity
            self.snapshot = replace(self.snapshot, started=started)
            if checkpoint is None:
                self._directory.discard_rest()
                info = self._info("", "")
                store = self._directory.new_generation(info)
                store.serve()
                return self._switch_to(store, info)
            return self._load(checkpoint, identity, self._directory.discard_rest, on_progress, cancelled)

    def load(
        self, path: Path, on_progress: Callable[[LoadProgress], None], cancelled: threading.Event
    ) -> Generation:
        """Load into a new generation beside what is served, switch, and remove what was served before.

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
            return self._load(path, identity, lambda: None, on_progress, cancelled)

    def close(self) -> None:
        """Wait for the load that is running, and let go of the tables, which stay where they are."""
        with self._loading:
            if self._store is not None:
                self._store.close()
                self._store = None

    @contextmanager
    def _one_load(self, path: Path | None) -> Iterator[None]:
        """Say what is being loaded, and afterwards how that failed."""
        if not self._loading.acquire(blocking=False):
            raise ConflictError(
                f"a checkpoint is being loaded already ({self.snapshot.message}); ask again when it is done"
            )
        try:
            self.snapshot = replace(self.snapshot, loading=path, progress=LoadProgress(), failure="")
            yield
        except BaseException as error:
            failure = str(error) if isinstance(error, SatrapError) else f"{path}: {error!r}"
            self.snapshot = replace(self.snapshot, loading=None, failure=failure)
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
    ) -> Generation:
        """`make_room` is called once, before anything is made."""

        def progressed(progress: LoadProgress) -> None:
            self.snapshot = replace(self.snapshot, progress=progress)
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
            )
            info = replace(info, warnings=loaded.warnings)
            store = building.finish(info)
        except BaseException:
            building.give_up()
            raise
        before = self._store
        generation = self._switch_to(store, info)
        if before is not None:
            _remove(before)
        try:
            self._directory.discard_rest(store)  # what could not be removed earlier
        except TableFolderError as error:
            log.warning("%s", error)
        return generation

    def _switch_to(
        self, store: TableGeneration, info: GenerationInfo, started: str | None = None
    ) -> Generation:
        generation = Generation(
            row_dtype=info.row_dtype,
            tables=store.tables,
            folder=store.folder,
            instance_id=store.instance_id,
            checkpoint=info.checkpoint,
            warnings=info.warnings,
        )
        self._store = store
        self.snapshot = Snapshot(generation, started=started or self.snapshot.started)
        return generation

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
        self._store: TableGeneration | None = None

    def add_table(self, dim: int, rows: int) -> Table:
        """A table for `rows` rows.

        Raises:
            NoSpaceError, TableFolderError: it cannot be made.
        """
        store = self._begun()
        with table_errors(Path(store.folder)):
            return store.add_table(dim, self._info.row_dtype, rows, self._threads)

    def finish(self, info: GenerationInfo) -> TableGeneration:
        """The generation, whole from now on, which says `info`."""
        store = self._begun()
        store.info = info.to_bytes(MAX_INFO_BYTES)
        store.serve()
        return store

    def give_up(self) -> None:
        """Remove what there is of it."""
        if self._store is not None:
            _remove(self._store)

    def _begun(self) -> TableGeneration:
        if self._store is None:
            self._make_room()
            self._store = self._directory.new_generation(self._info)
        return self._store


def _remove(store: TableGeneration) -> None:
    """Remove a generation that nobody is to find any more; what cannot be removed now, the next start removes."""
    try:
        with table_errors(Path(store.folder)):
            store.remove()
    except SatrapError as error:
        log.warning("%s", error)
