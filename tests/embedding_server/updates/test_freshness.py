"""The histogram of delays, what it says, and clocks that disagree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.embedding_server.updates.freshness import BOUNDS, Delays, Freshness, quantile

SECOND = 10**9


def observed(delays: list[float]) -> Freshness:
    freshness = Freshness()
    for delay in delays:
        freshness.observe(1, 0, 1 + round(delay * SECOND))
    return freshness


def test_bounds_are_log_spaced():
    ratios = np.divide(BOUNDS[1:], BOUNDS[:-1])
    assert BOUNDS[0] == 0.001 and BOUNDS[-1] > 200 and np.allclose(ratios, 2**0.5, rtol=1e-3)


def test_nothing_observed():
    assert quantile(Delays(), 0.5) == 0


@given(st.lists(st.floats(0, 250), min_size=1, max_size=200), st.floats(0, 1))
def test_quantile_lies_in_the_bucket_of_the_true_one(delays, share):
    freshness = observed(delays)
    assert freshness.delays.observed == len(delays)
    assert freshness.delays.total == pytest.approx(sum(delays), abs=1e-6)
    true = sorted(delays)[max(0, int(np.ceil(share * len(delays))) - 1)]
    found = quantile(freshness.delays, share)
    assert found <= true * 2**0.5 + 0.001 and true <= found * 2**0.5 + 0.001


def test_beyond_the_last_bound():
    assert quantile(observed([1e6]).delays, 0.5) == BOUNDS[-1]


def test_a_clock_ahead_is_no_delay():
    freshness = Freshness()
    freshness.observe(5 * SECOND, 3 * SECOND, 2 * SECOND)
    assert (freshness.skew_seconds, freshness.clock_ahead) == (3, True)
    assert (freshness.delays.observed, freshness.delays.total) == (1, 0)
    freshness.observe(2 * SECOND, 3 * SECOND, 2 * SECOND + SECOND // 2)  # only the event, by half a second
    assert (freshness.skew_seconds, freshness.clock_ahead) == (0.5, False)
    freshness.observe(2 * SECOND, 2 * SECOND, 3 * SECOND)
    assert freshness.skew_seconds == 0


def test_an_unknown_publication_is_not_counted():
    freshness = Freshness()
    freshness.observe(0, 0, SECOND)
    assert freshness.delays.observed == 0
