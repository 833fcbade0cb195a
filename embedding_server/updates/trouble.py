"""What becomes of a packet that could not be had: it is tried again, or refused for good. Pure."""

from dataclasses import dataclass

from satrap.embedding_server.updates.alarms import Alarm, AlarmCode
from satrap.errors import (
    ChecksumError,
    ManifestError,
    MissingFileError,
    NoSpaceError,
    RowFileError,
    SatrapError,
    TruncatedFileError,
    UpdateError,
)

__all__ = ["Trouble", "after_failure"]

_STILL_APPEARING = (ManifestError, MissingFileError, TruncatedFileError, ChecksumError, RowFileError)
"""What a packet looks like that is copied here file by file, by something other than its publisher."""

_TRIES = 3
_LONGEST_WAIT_NS = 30 * 10**9


@dataclass(frozen=True)
class Trouble:
    """A packet that could not be had at `failed_ns`, and is tried again at `retry_ns` (nanoseconds since the epoch)."""

    alarm: Alarm
    retry_ns: int
    tries: int = 1
    failed_ns: int = 0

    def waits(self, now_ns: int) -> bool:
        """Whether it is too early to try again. A clock that was set back does not make it later."""
        return self.failed_ns <= now_ns < self.retry_ns


def after_failure(error: SatrapError, before: Trouble | None, now_ns: int, poll_ns: int) -> Trouble | None:
    """When a packet that failed by `error` is tried again; None: never, it is refused.

    Three tries with a poll between them for files that may still be on their way. Storage and memory may come back at
    any time: those tries never end, and grow rarer.
    """
    tries = before.tries + 1 if before is not None else 1
    if isinstance(error, UpdateError):
        if not isinstance(error, _STILL_APPEARING) or tries >= _TRIES:
            return None
        return Trouble(Alarm("storage", f"{error}; it is read again"), now_ns + poll_ns, tries, now_ns)
    wait = min(poll_ns * 2 ** min(tries - 1, 16), max(_LONGEST_WAIT_NS, poll_ns))
    code: AlarmCode = "no_room" if isinstance(error, NoSpaceError) else "storage"
    return Trouble(Alarm(code, str(error)), now_ns + wait, tries, now_ns)
