"""Which way a lookup goes, and when to try to attach: decisions without tables, sockets or a clock."""

import math

import pytest

from satrap.middleware.attachment import Attempts, Way, way_of

GRACE = 5.0


@pytest.mark.parametrize(
    ("state", "silent", "way"),
    [
        ("live", 0.0, Way.ATTACHED),
        ("live", 0.9, Way.ATTACHED),
        ("orphaned", 0.3, Way.STALE),
        ("orphaned", 4.99, Way.STALE),
        ("orphaned", 5.0, Way.RPC),
        ("orphaned", math.inf, Way.RPC),
        ("abandoned", 0.0, Way.DETACH),
        ("abandoned", 4.0, Way.DETACH),
        ("abandoned", 9.0, Way.DETACH),
    ],
)
def test_way(state, silent, way):
    assert way_of(state, silent, GRACE) is way


def test_no_grace_is_no_stale_answer():
    assert way_of("orphaned", 0.0, 0.0) is Way.RPC
    assert way_of("live", 0.0, 0.0) is Way.ATTACHED


class TestAttempts:
    def test_first_is_due_at_once(self):
        assert Attempts().is_due(0.0)

    def test_a_server_without_a_table_is_asked_every_second(self):
        attempts = Attempts()
        for now in range(100):
            assert attempts.is_due(now)
            attempts.nothing_yet(now)
            assert not attempts.is_due(now + 0.99)

    def test_failures_are_repeated_ever_more_rarely(self):
        attempts, now, pauses = Attempts(), 0.0, []
        for _ in range(8):
            attempts.failed(now)
            pause = next(each for each in range(100) if attempts.is_due(now + each))
            pauses.append(pause)
            now += pause
        assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]

    def test_an_abandoned_table_is_replaced_at_once(self):
        attempts = Attempts()
        for _ in range(5):
            attempts.failed(0.0)
        attempts.at_once()
        assert attempts.is_due(0.0)
        attempts.failed(0.0)
        assert attempts.is_due(1.0)
