"""How far a server that follows packets is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.freshness import Delays
from satrap.embedding_server.updates.pipeline import Counts
from satrap.embedding_server.updates.quarantine import Record
from satrap.formats.decisions import Hold

__all__ = ["FollowerStatus"]


@dataclass(frozen=True)
class FollowerStatus:
    """How far a server is, at one moment. Times are nanoseconds since the epoch, 0 if not known.

    `format` and `stream` are empty as long as no packet decided them. `hold` is the one that is obeyed. `not_ready` is
    why the server should not be sent requests, empty if it should.
    """

    directory: str
    format: str = ""
    stream: str = ""
    applied: int = 0
    newest: int = 0
    behind: int = 0
    newest_event_ns: int = 0
    gap_detection: str = ""
    alarms: tuple[Alarm, ...] = ()
    hold: Hold | None = None
    undo_reaches: int = 0
    counts: Counts = field(default_factory=Counts)
    delays: Delays = field(default_factory=Delays)
    skew_seconds: float = 0.0
    refused: Sequence[Record] = ()
    settled: bool = False
    not_ready: str = ""
