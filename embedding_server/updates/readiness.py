"""Whether a server that follows packets should be sent requests. Pure."""

from collections.abc import Sequence

from satrap.config import UpdatesConfig
from satrap.embedding_server.updates.alarms import Alarm

__all__ = ["is_ready"]

_STUCK = ("gap", "held", "quarantined", "forked_stream", "foreign_stream")
"""Alarms of a stream that does not go on by itself."""


def is_ready(
    settled: bool, alarms: Sequence[Alarm], newest_event_ns: int, config: UpdatesConfig, now_ns: int
) -> bool:
    """`settled`: everything that could be applied at the start is. An event time of 0, not known, is not old."""
    if not settled:
        return False
    if not config.ready_with_gap and any(alarm.code in _STUCK for alarm in alarms):
        return False
    if config.max_staleness_seconds is None or not newest_event_ns:
        return True
    return now_ns - newest_event_ns <= config.max_staleness_seconds * 1e9
