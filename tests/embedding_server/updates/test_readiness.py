"""When a server that follows is ready."""

import pytest

from satrap.config import UpdatesConfig
from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.readiness import why_not_ready

SECOND = 10**9
STUCK = ["gap", "held", "quarantined", "forked_stream", "foreign_stream"]


def ready(alarms=(), event=0, settled=True, now=100 * SECOND, **config) -> bool:
    return not why(alarms, event, settled, now, **config)


def why(alarms=(), event=0, settled=True, now=100 * SECOND, **config) -> str:
    return why_not_ready(settled, [Alarm(code, "") for code in alarms], event, UpdatesConfig(**config), now)


def test_not_before_everything_at_the_start_is_applied():
    assert ready() and not ready(settled=False)


@pytest.mark.parametrize("code", STUCK)
def test_stuck_streams_are_ready_unless_said_otherwise(code):
    assert ready([code]) and not ready([code], ready_with_gap=False)


@pytest.mark.parametrize("code", ["storage", "no_room", "clock_ahead", "unmarked"])
def test_what_does_not_stop_the_stream(code):
    assert ready([code], ready_with_gap=False)


def test_staleness():
    assert ready(event=40 * SECOND, max_staleness_seconds=60)
    assert not ready(event=40 * SECOND - 1, max_staleness_seconds=60)
    assert ready(event=SECOND)
    assert ready(event=0, max_staleness_seconds=1)  # nothing is known
    assert ready(event=200 * SECOND, max_staleness_seconds=1)  # another clock


def test_it_is_said_why():
    assert "the start" in why(settled=False)
    assert "(gap, held)" in why(["gap", "storage", "held"], ready_with_gap=False)
    assert "max_staleness_seconds (2.5 s)" in why(event=SECOND, max_staleness_seconds=2.5)
