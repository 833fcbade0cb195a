"""What the pipeline asks of a directory of packets, whatever their format."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from satrap._core.table import TableGeneration
from satrap.embedding_server.updates.decide import Decision
from satrap.embedding_server.updates.packet import VerifiedPacket
from satrap.embedding_server.updates.undo import Position
from satrap.errors import SatrapError
from satrap.storage import Entry

__all__ = ["Feed", "Standing"]


@dataclass(frozen=True)
class Standing:
    """How far one generation is, and what people decided; as in `decide.StreamState`."""

    applied: int
    stream: str = ""
    holds: Mapping[str, int] = field(default_factory=dict)
    skips: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)
    applied_name: str = ""


class Feed(Protocol):
    """The packets for one generation of tables. One thread at a time."""

    @property
    def format(self) -> Literal["satrap", "persia"]:
        """Whose packets these are."""

    @property
    def gap_detection(self) -> Literal["sequence", "none"]:
        """By what a missing packet would be noticed."""

    def folders(self) -> Iterable[Path]:
        """Local folders in which something may appear."""

    def arrived(self, name: str) -> None:
        """An entry of that name appeared in a folder, or went; empty: look at everything. Any thread may call."""

    def list(self, applied: int, now_ns: int) -> Sequence[Entry]:
        """Look what there is. Returns entries of the directory, decision files (`hold-`, `skip-`) among them.

        Raises:
            StorageError: it cannot be listed.
        """

    def decide(self, standing: Standing, now_ns: int, stopped: Callable[[], bool]) -> Decision:
        """What to do about what was listed, which may have to be read first. No ReadManifests is among the steps.

        `stopped` ends long reading; the decision then has no steps.
        """

    def fetch(self, name: str) -> VerifiedPacket:
        """Everything of a packet that this shard owns, checked.

        Raises:
            UpdateError: it is not what it must be; StorageError: it cannot be read at the moment.
        """

    def failed(self, name: str, error: SatrapError, now_ns: int) -> bool:
        """Note that a packet could not be fetched or applied; whether it is refused for good."""

    def copy(self, name: str, folder: Path) -> None:
        """Copy what can be read of a packet's files into `folder`, for quarantine.

        Raises:
            SatrapError, OSError: it cannot be copied.
        """

    def applied(self, names: Iterable[str]) -> None:
        """These packets are in the tables, watermark included, or are passed over for good.

        Raises:
            TableFolderError: that cannot be written down.
        """

    def position(self, store: TableGeneration) -> Position:
        """What is applied, for the undo log."""
