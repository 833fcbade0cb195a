"""Which way a lookup goes, into an attached table or by RPC, and when to try to attach: decisions alone.

No tables, no sockets, no clock; `attached_shard` carries them out.
"""

from enum import Enum
from typing import Literal

__all__ = ["Attempts", "TableState", "Way", "way_of"]

TableState = Literal["live", "orphaned", "abandoned"]
"""What a TableReader sees; see docs/table.md."""

_SOON_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


class Way(Enum):
    """How a lookup is answered."""

    ATTACHED = "in this process, up to date"
    STALE = "in this process, marked stale: the server is gone, and may be back in a moment"
    RPC = "by RPC, whose error says what is wrong; the table is kept, its server may come back to it"
    DETACH = "by RPC, and the table is given up"


def way_of(state: TableState, silent_seconds: float, grace_seconds: float) -> Way:
    """The way that a table in this state is used.

    Args:
        state: Of the table.
        silent_seconds: Since its server's last heartbeat.
        grace_seconds: How long such silence is answered from the table.
    """
    if state == "abandoned":
        return Way.DETACH
    if state == "live":
        return Way.ATTACHED
    return Way.STALE if silent_seconds < grace_seconds else Way.RPC


class Attempts:
    """When to ask a server for its table: at once, then every second while it may have one soon, and ever more rarely
    (up to every 30 s) while attaching fails.

    Not thread-safe: the owner locks.
    """

    def __init__(self) -> None:
        self._next = float("-inf")
        self._pause = _SOON_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether to ask now."""
        return now >= self._next

    def nothing_yet(self, now: float) -> None:
        """The server did not answer, or had no table: that may change at any moment."""
        self._next, self._pause = now + _SOON_SECONDS, _SOON_SECONDS

    def failed(self, now: float) -> None:
        """There is a table, and it cannot be attached."""
        self._next = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_SECONDS)

    def at_once(self) -> None:
        """What was attached is gone; the server has another one, or soon will."""
        self._next, self._pause = float("-inf"), _SOON_SECONDS
