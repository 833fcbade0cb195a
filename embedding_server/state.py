"""What a server serves, what it is loading, and the one switch between them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from satrap.embedding_server.loading import LoadProgress, load_checkpoint
from satrap.embedding_server.tables import Generation, RowDType
from satrap.errors import ConflictError, SatrapError, ShardUnavailableError
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = ["Phase", "ShardState", "Snapshot"]


class Phase(Enum):
    """Whether a server answers lookups."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Snapshot:
    """All there is to know at one moment. `generation` is None until something is served."""

    generation: Generation | None = None
    loading: Path | None = None
    progress: LoadProgress = field(default_factory=LoadProgress)
    failure: str = ""

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
    """One shard's present snapshot.

    Threads: `snapshot` is read without a lock (one reference, replaced whole); loads exclude each other.
    """

    def __init__(self, owner: ShardRoute, row_dtype: RowDType, load_threads: int) -> None:
        """Serve nothing yet."""
        self.owner = owner
        self.row_dtype = row_dtype
        self.snapshot = Snapshot()
        self._load_threads = load_threads
        self._loading = threading.Lock()

    def serve_empty(self) -> None:
        """Serve no rows at all: every sign is missing."""
        self.snapshot = Snapshot(Generation(self.row_dtype))

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

    def load(
        self, path: Path, on_progress: Callable[[LoadProgress], None], cancelled: threading.Event
    ) -> Generation:
        """Load beside what is served, then switch. What was served goes on if this raises.

        Raises:
            ConflictError: another load is running.
            CheckpointError, LoadCancelled: as `load_checkpoint`.
        """
        if not self._loading.acquire(blocking=False):
            raise ConflictError(
                f"a checkpoint is being loaded already ({self.snapshot.message}); ask again when it is done"
            )
        try:
            self.snapshot = replace(self.snapshot, loading=path, progress=LoadProgress(), failure="")

            def progressed(progress: LoadProgress) -> None:
                self.snapshot = replace(self.snapshot, progress=progress)
                on_progress(progress)

            generation = load_checkpoint(
                path, self.owner, self.row_dtype, self._load_threads, progressed, cancelled
            )
            self.snapshot = Snapshot(generation)
            return generation
        except BaseException as error:
            failure = str(error) if isinstance(error, SatrapError) else f"{path}: {error!r}"
            self.snapshot = replace(self.snapshot, loading=None, failure=failure)
            raise
        finally:
            self._loading.release()
