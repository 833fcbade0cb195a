"""Whether a server that follows packets should be sent requests. Pure."""

from collections.abc import Sequence

from satrap.config import UpdatesConfig
from satrap.embedding_server.updates.alarms import Alarm

__all__ = ["why_not_ready"]

_STUCK = ("gap", "held", "quarantined", "forked_stream", "foreign_stream")
"""Alarms of a stream that does not go on by itself."""


def why_not_ready(
    settled: bool, alarms: Sequence[Alarm], newest_event_ns: int, config: UpdatesConfig, now_ns: int
) -> str:
    """Why health is red, empty if it is not.

    `settled`: everything that could be applied at the start is. An event time of 0, not known, is not old.
    """
    if not settled:
        return "what was there at the start is being applied"
    stuck = [alarm.code for alarm in alarms if alarm.code in _STUCK]
    if stuck and not config.ready_with_gap:
        return f"the stream does not go on ({', '.join(stuck)}), and updates.ready_with_gap is false"
    if config.max_staleness_seconds is None or not newest_event_ns:
        return ""
    if now_ns - newest_event_ns <= config.max_staleness_seconds * 1e9:
        return ""
    return (
        f"the newest event is older than updates.max_staleness_seconds ({config.max_staleness_seconds:g} s)"
    )
