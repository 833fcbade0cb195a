"""All that is told of a shard, at one moment."""

from dataclasses import dataclass, field
from enum import Enum

from satrap.embedding_server.loading import LoadProgress
from satrap.embedding_server.tables import Generation

__all__ = ["Phase", "Snapshot"]


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
    loading: str | None = None
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
