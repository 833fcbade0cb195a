"""The batching queue: when a batch leaves, who is refused, and that nothing is lost or doubled."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import OverloadedError
from satrap.serving.batching import PEAK_BATCHES, BatchPolicy, BatchQueue


def queue(batch_size: int = 8, max_delay: float = 0.1, capacity: int = 100) -> BatchQueue[str]:
    return BatchQueue(BatchPolicy(batch_size, max_delay, capacity), "model m version 1")


def test_a_lone_client_never_waits() -> None:
    q, now = queue(), 0.0
    for i in range(50):
        q.offer(f"r{i}", now)
        assert q.take(now) == [f"r{i}"]
        q.finished(1)
        now += 0.01


def test_a_full_batch_leaves_at_once() -> None:
    q = queue(batch_size=2)
    q.offer("a", 0.0)
    assert q.take(0.0) == ["a"]
    for name in "bcd":
        q.offer(name, 0.0)
    assert q.take(0.0) == ["b", "c"]
    assert len(q) == 1


def test_the_oldest_waits_max_delay_from_its_arrival() -> None:
    q = queue()
    q.offer("a", 0.0)
    q.offer("b", 0.0)
    assert q.take(0.0) == ["a", "b"]  # two outstanding, and both are here
    q.offer("c", 1.0)
    q.finished(2)
    assert q.take(1.0) == []  # three were outstanding a moment ago
    assert q.wake_at(idle=True) == pytest.approx(1.1)
    assert q.wake_at(idle=False) == math.inf
    assert q.take(1.09) == []
    assert q.take(1.1) == ["c"]


def test_clients_in_step_wait_only_for_each_other() -> None:
    q, now = queue(batch_size=8), 0.0
    for _ in range(5):
        for client in range(4):
            q.offer(f"c{client}", now)
        assert len(q.take(now)) == 4
        q.finished(4)
        now += 0.01
    for client in range(3):
        q.offer(f"c{client}", now)
    assert q.take(now) == []
    q.offer("c3", now)
    assert len(q.take(now)) == 4


def test_a_burst_is_forgotten_after_16_batches() -> None:
    q, now = queue(batch_size=4), 0.0
    for i in range(4):
        q.offer(f"burst{i}", now)
    assert len(q.take(now)) == 4
    q.finished(4)
    waited = 0
    for i in range(PEAK_BATCHES + 2):
        now += 1.0
        q.offer(f"lone{i}", now)
        if not q.take(now):
            waited += 1
            assert q.take(now + 0.1) == [f"lone{i}"]
        q.finished(1)
    assert waited == PEAK_BATCHES + 1, "the burst was still outstanding when the next batch began to gather"
    q.offer("last", now)
    assert q.take(now) == ["last"]


def test_a_full_queue_refuses() -> None:
    q = queue(capacity=2)
    q.offer("a", 0.0)
    q.offer("b", 0.0)
    with pytest.raises(OverloadedError, match=r"model m version 1.*2 requests wait"):
        q.offer("c", 0.0)
    q.take(0.0)
    q.offer("c", 0.0)


def test_deadlines_are_honoured_in_the_queue() -> None:
    q = queue(max_delay=10)
    q.offer("early", 0.0, deadline=1.0)
    q.offer("late", 0.0, deadline=5.0)
    q.offer("never", 0.0)
    assert q.wake_at(idle=False) == 1.0
    assert q.expire(0.5) == []
    assert q.expire(1.0) == ["early"]
    assert q.wake_at(idle=False) == 5.0
    assert q.take(10.0) == ["late", "never"]
    assert q.expire(99.0) == []


def test_a_withdrawn_request_never_leaves() -> None:
    q = queue(max_delay=0)
    tickets = [q.offer(name, 0.0) for name in "abc"]
    assert q.withdraw(tickets[1])
    assert not q.withdraw(tickets[1])
    assert len(q) == 2
    assert q.take(0.0) == ["a", "c"]
    assert not q.withdraw(tickets[0])


def test_a_request_that_must_be_alone_shares_no_batch() -> None:
    q = queue(batch_size=4, max_delay=10)
    q.offer("a", 0.0)
    q.offer("alone", 0.1, alone=True)
    q.offer("b", 0.2)
    q.offer("c", 0.3)
    assert q.take(0.4) == ["a"], "four outstanding of four: due"
    assert q.wake_at(idle=True) == 0.1, "it waits for nobody"
    assert q.take(0.4) == ["alone"]
    q.finished(2)
    q.offer("d", 0.5)
    assert q.take(0.5) == [], "the others wait for a fourth as before"
    assert q.take(10.2) == ["b", "c", "d"]


def test_a_withdrawn_lone_request_parts_no_batch() -> None:
    q = queue(batch_size=2)
    q.offer("a", 0.0)
    lone = q.offer("alone", 0.0, alone=True)
    q.offer("b", 0.0)
    assert q.withdraw(lone)
    assert q.take(0.0) == ["a", "b"]


def test_drain_takes_all_that_wait() -> None:
    q = queue()
    ticket = q.offer("a", 0.0)
    q.offer("b", 0.0)
    q.withdraw(ticket)
    assert q.drain() == ["b"]
    assert len(q) == 0 and q.drain() == []


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "mortal", "withdraw", "take", "finish", "wait"]), st.integers(0, 5)
        )
    ),
)
def test_every_request_meets_one_end(batch_size: int, capacity: int, steps: list[tuple[str, int]]) -> None:
    q = BatchQueue[int](BatchPolicy(batch_size, 0.5, capacity))
    now, number = 0.0, 0
    waiting, in_flight, tickets, ended = [], 0, {}, []
    for step, argument in steps:
        if step in ("offer", "mortal"):
            deadline = now + argument / 4 if step == "mortal" else math.inf
            if len(waiting) == capacity:
                with pytest.raises(OverloadedError):
                    q.offer(number, now, deadline)
            else:
                tickets[number] = q.offer(number, now, deadline)
                waiting.append(number)
            number += 1
        elif step == "withdraw" and waiting:
            victim = waiting.pop(argument % len(waiting))
            assert q.withdraw(tickets[victim])
            ended.append(victim)
        elif step == "take":
            for late in q.expire(now):
                waiting.remove(late)
                ended.append(late)
            batch = q.take(now)
            assert batch == waiting[: len(batch)] and len(batch) <= batch_size
            del waiting[: len(batch)]
            in_flight += len(batch)
            ended += batch
        elif step == "finish":
            count = min(argument, in_flight)
            q.finished(count)
            in_flight -= count
        elif step == "wait":
            now += argument / 4
        assert len(q) == len(waiting)
        assert q.in_flight == in_flight
        if waiting:
            assert q.wake_at(idle=True) < math.inf
    assert sorted(ended + waiting) == sorted(tickets)


@given(st.integers(1, 8), st.floats(0, 1), st.integers(1, 20))
def test_what_waits_leaves_when_the_queue_says_so(batch_size: int, delay: float, count: int) -> None:
    q = BatchQueue[int](BatchPolicy(batch_size, delay, 100))
    for i in range(count):
        q.offer(i, 0.0)
    taken = []
    while len(q):
        moment = q.wake_at(idle=True)
        batch = q.take(moment)
        assert batch
        taken += batch
    assert taken == list(range(count))


def test_what_one_queue_releases_another_adopts() -> None:
    old: BatchQueue[str] = BatchQueue(BatchPolicy(capacity=5))
    new: BatchQueue[str] = BatchQueue(BatchPolicy(batch_size=2, max_delay=1.0, capacity=1))
    held = [
        old.offer(name, moment, deadline)
        for name, moment, deadline in [("a", 0, 9), ("B", 1, 5), ("c", 3, 4)]
    ]
    old.offer("d", 3.5, alone=True)
    new.offer("x", 2.0)
    released = old.release(str.islower)
    assert [(t.item, t.arrived, t.deadline) for t in released] == [("a", 0, 9), ("c", 3, 4)]
    assert len(old) == 2 and old.expire(4.5) == [], "those with a deadline that passed are gone"
    assert not old.withdraw(held[0]), "for who offered it, it has left"
    assert old.take(9.0) == ["B"] and old.take(9.0) == ["d"]
    new.adopt(released)
    assert len(new) == 3, "beyond the capacity: they had been accepted"
    assert new.wake_at(idle=False) == 4
    assert new.expire(4.0) == ["c"]
    assert new.take(4.0) == ["a", "x"], "by arrival"
    new.adopt([])
    assert len(new) == 0 and new.wake_at(idle=True) == math.inf
