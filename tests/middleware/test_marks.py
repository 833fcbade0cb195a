"""What lookups say of themselves, and who hears it."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.middleware import Embeddings, hear
from satrap.middleware.marks import Marks, age_ms, later, tell

SECOND = 10**9
STALENESS = st.none() | st.integers(0, 2**53)


@pytest.mark.parametrize(
    ("event_ns", "now_ns", "expected"),
    [
        (0, 5 * SECOND, None),
        (3 * SECOND, 5 * SECOND, 2000),
        (3 * SECOND, 3 * SECOND + 999_999, 0),
        (3 * SECOND, 3 * SECOND + 1_000_000, 1),
        (7 * SECOND, 5 * SECOND, 0),  # the trainer's clock is ahead
    ],
)
def test_age(event_ns, now_ns, expected):
    assert age_ms(event_ns, now_ns) == expected


@given(STALENESS, STALENESS, STALENESS)
def test_later_is_a_maximum_in_which_none_does_not_count(one, two, three):
    known = [each for each in (one, two, three) if each is not None]
    assert later(later(one, two), three) == later(one, later(two, three)) == max(known, default=None)


def test_the_greatest_of_all_lookups_is_heard():
    with hear() as marks:
        assert marks == Marks(is_stale=False, staleness_ms=None)
        tell([Embeddings(staleness_ms=7), Embeddings()])
        tell([Embeddings(staleness_ms=3, is_stale=True)])
        tell([Embeddings()])
    assert marks == Marks(is_stale=True, staleness_ms=7)


def test_nobody_needs_to_hear():
    tell([Embeddings(staleness_ms=7)])
    with hear() as marks:
        pass
    tell([Embeddings(staleness_ms=7)])
    assert marks == Marks()


def test_the_inner_one_hears():
    with hear() as outer:
        with pytest.raises(KeyError), hear() as inner:
            tell([Embeddings(staleness_ms=7)])
            raise KeyError
        tell([Embeddings(staleness_ms=2)])
    assert (outer.staleness_ms, inner.staleness_ms) == (2, 7)


def test_lookups_of_another_thread_are_its_own():
    heard: dict[str, Marks] = {}
    together = threading.Barrier(2, timeout=10)

    def work(name: str, staleness_ms: int) -> None:
        with hear() as heard[name]:
            together.wait()
            tell([Embeddings(staleness_ms=staleness_ms)])
            together.wait()

    threads = [threading.Thread(target=work, args=each) for each in (("a", 1), ("b", 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (heard["a"].staleness_ms, heard["b"].staleness_ms) == (1, 2)
