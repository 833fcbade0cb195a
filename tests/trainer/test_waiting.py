"""Rows that wait, against a set and two numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap.trainer.waiting import FlushRule, Waiting, WaitingSigns

signs = st.one_of(st.integers(0, 30), st.integers(0, 2**64 - 1))
added = st.tuples(
    st.sampled_from([4, 8]), st.lists(signs, max_size=12), st.integers(0, 2**62), st.floats(0, 1e6)
)


@given(st.lists(st.one_of(added, st.just("clear")), max_size=25))
@settings(deadline=None)
def test_what_waits_is_a_set(steps):
    waiting = WaitingSigns()
    expected: dict[int, set[int]] = {}
    since, times = None, []
    for step in steps:
        if step == "clear":
            taken = waiting.signs()
            waiting.clear()
            assert {dim: set(values.tolist()) for dim, values in taken.items()} == expected
            assert all(np.array_equal(values, np.unique(values)) for values in taken.values())
            expected, since, times = {}, None, []
        else:
            dim, values, event, now = step
            waiting.add(dim, np.array(values, np.uint64), event, now)
            if values:
                expected.setdefault(dim, set()).update(values)
                since = now if since is None else since
                times.append(event)
        assert waiting.waiting == Waiting(sum(map(len, expected.values())), since)
        assert waiting.event_times_ns == ((min(times), max(times)) if times else (0, 0))


@pytest.mark.parametrize(
    ("waiting", "now", "due"),
    [
        (Waiting(0, None), 1e9, False),
        (Waiting(5, 100.0), 100.0, False),
        (Waiting(5, 100.0), 109.9, False),
        (Waiting(5, 100.0), 110.0, True),  # the time rule
        (Waiting(6, 100.0), 100.0, True),  # PERSIA's: more than, not as many as
    ],
)
def test_when_a_packet_is_due(waiting, now, due):
    rule = FlushRule(buffer_size=5, seconds=10.0)
    assert rule.due(waiting, now) is due
    assert rule.deadline(waiting) == (None if waiting.since is None else 110.0)
