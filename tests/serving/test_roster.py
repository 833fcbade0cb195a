"""The workers of a version: scaling, restarts with back-off, and when there is no hope."""

import itertools

from satrap.serving.roster import BACKOFF_SECONDS, Roster, Start, Stop, WorkerState


def roster(workers: int = 0, *, loaded: bool = True, patience: float = 300) -> Roster:
    r = Roster(itertools.count(9000), patience)
    r.scale(workers, workers)
    if loaded:
        for status in r.workers():
            r.loaded(status.number)
    return r


def states(r: Roster) -> list[WorkerState]:
    return [w.state for w in r.workers()]


def test_numbers_count_up_and_are_not_used_again() -> None:
    r = roster()
    assert r.scale(2, 2) == [Start(9000), Start(9001)]
    r.loaded(9000)
    assert r.scale(1, 1) == [Stop(9001, at_once=True)]
    assert r.ended(9001, 0.0) == []
    assert r.scale(2, 2) == [Start(9002)]


def test_scaling_down_stops_the_least_useful_first() -> None:
    r = roster(3, loaded=False)
    r.loaded(9001)
    r.ended(9000, 0.0)
    assert states(r) == [WorkerState.WAITING, WorkerState.READY, WorkerState.STARTING]
    assert r.scale(0, 2) == [Stop(9000, at_once=True)]
    assert r.scale(0, 1) == [Stop(9002, at_once=True)]
    assert r.scale(0, 0) == [Stop(9001, at_once=False)]
    assert r.state(9000) is None
    assert not r.starting(9000), "a start that was planned before must not happen"


def test_workers_between_minimum_and_maximum_are_left_alone() -> None:
    r = roster(2)
    assert r.scale(1, 4) == []
    assert r.minimum == 1 and r.maximum == 4


def test_back_off_grows_and_ends_at_21_seconds() -> None:
    r = roster(1, loaded=False)
    delays = []
    for _ in range(11):
        (action,) = r.ended(9000, 0.0)
        assert isinstance(action, Start)
        delays.append(action.delay)
        assert r.starting(9000)
    assert delays == [*BACKOFF_SECONDS, 21.0, 21.0]


def test_an_answer_resets_the_back_off() -> None:
    r = roster(1)
    r.ended(9000, 0.0)
    r.ended(9000, 0.0)
    r.starting(9000)
    r.loaded(9000)
    assert r.ended(9000, 0.0) == [Start(9000, 1.0)], (
        "loading is not enough: the next request may kill it again"
    )
    r.starting(9000)
    r.loaded(9000)
    r.answered(9000)
    assert r.ended(9000, 0.0) == [Start(9000, 0.0)]


def test_hope() -> None:
    assert roster().is_hopeless
    r = roster(2, loaded=False)
    assert not r.is_hopeless, "both are being started for the first time"
    r.ended(9000, 0.0)
    assert not r.is_hopeless
    r.ended(9001, 0.0)
    assert r.is_hopeless, "both failed to load"
    r.starting(9000)
    assert r.is_hopeless, "a second attempt is no promise"
    r.loaded(9000)
    assert not r.is_hopeless
    r.ended(9000, 0.0)
    assert not r.is_hopeless, "a crash of a worker that had loaded is followed by a start at once"


def test_health_is_lost_after_patience() -> None:
    r = roster(1)
    r.ended(9000, 10.0)
    assert r.is_healthy(309.0)
    assert not r.is_healthy(310.0)
    r.starting(9000)
    r.loaded(9000)
    assert r.is_healthy(310.0)
    assert roster().is_healthy(0.0)


def test_a_worker_that_never_loads_is_given_up() -> None:
    r = roster(2, loaded=False)
    r.loaded(9001)
    now = 10.0
    while actions := r.ended(9000, now):
        (action,) = actions
        now += action.delay
        assert r.starting(9000)
    assert now == 10.0 + sum(BACKOFF_SECONDS) + 12 * 21, "its first end at or after 300 s"
    assert states(r) == [WorkerState.FAILED, WorkerState.READY]
    assert not r.is_healthy(now) and not r.is_hopeless
    assert not r.starting(9000), "a start that was planned before must not happen"
    assert r.scale(2, 2) == [Start(9002)], "scaling has another in its place"
    assert states(r) == [WorkerState.READY, WorkerState.STARTING]
    assert r.is_healthy(now)


def test_without_patience_nothing_is_started_again() -> None:
    r = roster(1, patience=0)
    assert r.ended(9000, 10.0) == []
    assert states(r) == [WorkerState.FAILED]
    assert r.is_hopeless, "though it had loaded"
    assert r.scale(0, 0) == [] and r.workers() == []


def test_it_says_why_the_minimum_is_not_to_be_expected() -> None:
    r = roster(2, loaded=False)
    assert (r.is_settled, r.why_short()) == (False, "")
    r.loaded(9000)
    r.ended(9001, 0.0, "could not import torch")
    assert (r.is_settled, r.why_short()) == (False, "could not import torch")
    r.scale(1, 2)
    assert (r.is_settled, r.why_short()) == (True, ""), "one is enough"


def test_one_that_was_given_up_is_a_reason_and_one_that_is_leaving_is_not_settled() -> None:
    r = roster(2, patience=5)
    r.ended(9000, 0.0, "died")
    r.starting(9000)
    r.ended(9000, 6.0, "")
    assert r.why_short() == "a worker was given up"
    r.scale(0, 0)
    assert (r.is_settled, r.why_short()) == (False, ""), "the other one has not ended yet"
    r.ended(9001, 7.0, "was stopped")
    assert r.is_settled
