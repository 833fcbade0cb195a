"""What a person has to know of: raised and cleared by decisions, each with the time since when it stands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from satrap.errors import NoSpaceError, StorageError, UpdateError

__all__ = ["Alarm", "AlarmChange", "AlarmCode", "alarm_of", "changed_alarms"]

AlarmCode = Literal[
    "gap",
    "held",
    "quarantined",
    "forked_stream",
    "foreign_stream",
    "storage",
    "no_room",
    "clock_ahead",
    "unmarked",
    "checkpoint",
    "failed",
]
"""`checkpoint`: a newer one is refused. `failed`: the pipeline met something without a name, and tries again."""


@dataclass(frozen=True)
class Alarm:
    """Something that does not go away by itself, or has not yet; `since_ns` is nanoseconds since the epoch."""

    code: AlarmCode
    message: str
    since_ns: int = 0


class AlarmChange(NamedTuple):
    """The alarms that stand from now on, those of them that are new, and those that are gone."""

    standing: tuple[Alarm, ...]
    raised: tuple[Alarm, ...]
    cleared: tuple[Alarm, ...]


def alarm_of(error: Exception) -> Alarm:
    """The alarm of a look at the directory that ended in an error."""
    message = str(error) or repr(error)
    if isinstance(error, NoSpaceError):
        return Alarm("no_room", message)
    if isinstance(error, StorageError):
        return Alarm("storage", message)
    if isinstance(error, UpdateError):  # a decision that cannot be understood
        return Alarm("held", f"{message}; nothing is applied until it is mended, or removed")
    return Alarm("failed", message)


def changed_alarms(before: Sequence[Alarm], now: Iterable[Alarm], now_ns: int) -> AlarmChange:
    """Replace `before` by `now`; one that stood already, by its code, keeps its time and is not raised again.

    Of several with one code the first stands.
    """
    known = {alarm.code: alarm for alarm in before}
    standing: dict[AlarmCode, Alarm] = {}
    for alarm in now:
        since = known[alarm.code].since_ns if alarm.code in known else now_ns
        standing.setdefault(alarm.code, Alarm(alarm.code, alarm.message, since))
    return AlarmChange(
        tuple(standing.values()),
        tuple(alarm for code, alarm in standing.items() if code not in known),
        tuple(alarm for code, alarm in known.items() if code not in standing),
    )
