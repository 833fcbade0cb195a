"""What may go: never what any recovery needs."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap.retention import (
    GRACE_NS,
    PrunePlan,
    Publication,
    Remainder,
    ServerPosition,
    StoredCheckpoint,
    StoredPacket,
    plan_pruning,
)

NOW = 10 * GRACE_NS


def checkpoint(sequence: int, *, covers: int | None = None, problem: str = "", stream: str = "s"):
    name = f"c{sequence}" if stream == "s" else f"{stream}{sequence}"
    return StoredCheckpoint(
        Publication(name, bytes=100), stream, sequence, sequence if covers is None else covers, problem
    )


def packet(sequence: int | None, *, stream: str = "s", name: str = "", **publication: object):
    name = name or f"p{sequence}"
    return StoredPacket(
        Publication(name, bytes=1, **publication),  # type: ignore[arg-type]
        stream,
        sequence,
        frozenset([name]),
        "" if sequence is not None else "it is broken",
    )


def plan(checkpoints, packets, **more: object) -> PrunePlan:
    return plan_pruning(
        [checkpoint(item) if isinstance(item, int) else item for item in checkpoints],
        [packet(item) if isinstance(item, int) else item for item in packets],
        now_ns=NOW,
        **more,  # type: ignore[arg-type]
    )


def names(plan: PrunePlan) -> list[str]:
    return [publication.name for publication in plan.removed]


class TestPlan:
    def test_the_newest_checkpoints_and_what_comes_after_the_oldest_of_them_stay(self):
        pruned = plan([3, 9, 6], range(1, 13))
        assert names(pruned) == ["c3", "p1", "p2", "p3", "p4", "p5", "p6"]
        assert pruned.bytes == 106
        (kept,) = pruned.kept
        assert kept.covers == 6 and kept.packets == 6 and kept.reason == "c6 needs what comes after it"
        assert names(plan([3, 9, 6], range(1, 13), keep=1)) == ["c3", "c6", *(f"p{n}" for n in range(1, 10))]

    def test_oldest_first(self):
        assert names(plan([5], [4, 2, 3, 1, 6], keep=1)) == ["p1", "p2", "p3", "p4"]

    def test_without_a_usable_checkpoint_everything_stays(self):
        assert names(plan([], range(1, 5))) == []
        broken = plan([checkpoint(4, problem="a file is missing")], range(1, 5))
        assert names(broken) == [] and broken.kept[0].covers is None
        assert broken.remarks == ("c4 is not counted: a file is missing",)

    def test_one_that_cannot_be_used_does_not_count_and_goes_when_it_is_the_oldest(self):
        broken = checkpoint(9, problem="cut")
        assert names(plan([3, 6, broken], range(1, 12))) == ["p1", "p2", "p3"]
        assert names(plan([checkpoint(1, problem="cut"), 3, 6], range(1, 5)))[:1] == ["c1"]

    def test_a_server_that_is_behind_keeps_packets(self):
        servers = [ServerPosition("a:1", "s", 11), ServerPosition("b:2", "s", 4)]
        pruned = plan([6, 9], range(1, 13), servers=servers)
        assert names(pruned) == ["p1", "p2", "p3", "p4"]
        assert pruned.kept[0].reason == "b:2 has applied 4"
        assert names(plan([6, 9], range(1, 13), servers=[ServerPosition("a:1", "s", None)])) == []

    def test_one_of_another_stream_does_not(self):
        assert len(names(plan([6, 9], range(1, 13), servers=[ServerPosition("a:1", "t", 1)]))) == 6

    def test_what_is_served_stays(self):
        servers = [ServerPosition("a:1", "s", 12, checkpoint="c3")]
        assert "c3" not in names(plan([3, 6, 9], range(1, 13), servers=servers))

    def test_what_waits_in_quarantine_stays(self):
        servers = [ServerPosition("a:1", "s", 12, quarantined=frozenset(["p2"]))]
        assert names(plan([6, 9], range(1, 13), servers=servers)) == ["p1", "p3", "p4", "p5", "p6"]

    def test_a_hold_keeps_what_it_needs(self):
        assert names(plan([3, 6, 9, 12], range(1, 14), holds={"s": 7}, keep=1)) == [
            "c3", "c9", "p1", "p2", "p3", "p4", "p5", "p6",
        ]  # fmt: skip
        held = plan([6, 9], range(1, 13), holds={"s": 4})
        assert names(held) == [] and "no checkpoint is that old" in held.kept[0].reason
        assert len(names(plan([6, 9], range(1, 13), holds={"t": 4}))) == 6

    def test_the_newest_packet_stays(self):
        assert names(plan([9], [7, 8, 9], keep=1)) == ["p7", "p8"]

    def test_streams_are_judged_one_by_one(self):
        pruned = plan(
            [6, 9, checkpoint(2, stream="t")],
            [*range(1, 10), *(packet(n, stream="t", name=f"t{n}") for n in range(1, 5))],
        )
        assert names(pruned) == [*(f"p{n}" for n in range(1, 7)), "t1", "t2"]
        assert [kept.stream for kept in pruned.kept] == ["s", "t"]

    def test_what_is_not_whole_stays_for_an_hour(self):
        young = Remainder(Publication("x", changed_ns=NOW - GRACE_NS + 1, finished=False))
        old = Remainder(Publication("y", changed_ns=NOW - GRACE_NS, finished=False))
        unknown = Remainder(Publication("z", finished=False))
        future = Remainder(Publication("f", changed_ns=NOW + 5, finished=False))
        assert names(plan([], [], remainders=[young, old, unknown, future])) == ["y"]
        unfinished = packet(2, finished=False, changed_ns=NOW - 5)
        assert names(plan([6, 9], [1, unfinished, 3, 12])) == ["p1", "p3"]

    def test_one_whose_time_is_not_known_stays(self):
        pruned = plan([6, 9], [1, packet(None, name="broken"), 12])
        assert names(pruned) == ["p1"] and pruned.remarks == ("broken stays: it is broken",)

    def test_at_least_one_checkpoint_is_kept(self):
        assert names(plan([6, 9], [10], keep=0)) == ["c6"]


@dataclass(frozen=True)
class Directory:
    """What is published, and what a server would make of it: its state is the set of packets that it has."""

    checkpoints: frozenset[int]
    packets: frozenset[int]

    def after(self, pruned: PrunePlan) -> "Directory":
        gone = set(names(pruned))
        return Directory(
            frozenset(n for n in self.checkpoints if f"c{n}" not in gone),
            frozenset(n for n in self.packets if f"p{n}" not in gone),
        )

    def cold(self, hold: int | None, corrupt: frozenset[int] = frozenset()) -> int | None:
        """The sequence reached by a server that has nothing; `corrupt` checkpoints turn out to be so when loaded."""
        usable = [n for n in self.checkpoints - corrupt if hold is None or n <= hold]
        return self.chain(max(usable), hold) if usable else self.chain(0, hold)

    def warm(self, applied: int, hold: int | None) -> int:
        """By one that has applied so much: a newer checkpoint is loaded if there is one."""
        usable = [n for n in self.checkpoints if n > applied and (hold is None or n <= hold)]
        return self.chain(max(usable, default=applied), hold)

    def chain(self, applied: int, hold: int | None) -> int:
        while applied + 1 in self.packets and (hold is None or applied + 1 <= hold):
            applied += 1
        return applied


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_after_any_pruning_everybody_recovers_as_before(data):
    last = data.draw(st.integers(1, 25), label="last packet")
    published = Directory(
        data.draw(st.frozensets(st.integers(1, last), max_size=6), label="checkpoints"),
        frozenset(range(1, last + 1)),
    )
    keep = data.draw(st.integers(1, 3), label="keep")
    hold = data.draw(st.none() | st.integers(1, last), label="hold")
    reached = data.draw(st.lists(st.integers(0, last), max_size=3), label="reached servers")
    waiting = data.draw(st.frozensets(st.integers(1, last), max_size=2), label="in quarantine")
    servers = [
        ServerPosition(f"{n}", "s", applied, quarantined=frozenset(f"p{n}" for n in waiting))
        for n, applied in enumerate(reached)
    ]
    left = published
    for _ in range(2):  # a second run takes nothing more away
        pruned = plan(
            sorted(left.checkpoints),
            sorted(left.packets),
            servers=servers,
            holds={} if hold is None else {"s": hold},
            keep=keep,
        )
        left = left.after(pruned)
    assert not pruned.removed
    assert left.cold(hold) == published.cold(hold)
    assert left.cold(None) == published.cold(None)  # when the hold is released
    newest = sorted(published.checkpoints, reverse=True)
    for lost in range(min(keep, len(newest))):
        if lost < len(newest) - 1 or lost < keep - 1:  # as long as one of those kept is whole
            corrupt = frozenset(newest[:lost])
            assert left.cold(None, corrupt) == published.cold(None, corrupt)
    for applied in reached:
        assert left.warm(applied, None) == published.warm(applied, None)
        assert left.chain(applied, None) == last  # without any checkpoint, too
    for applied in range(last + 1):  # a server that was not reached takes a checkpoint if packets are gone
        assert left.warm(applied, None) == published.warm(applied, None)
    if waiting and servers:
        assert waiting <= left.packets
    # Whatever interrupts a removal, the rest does as well.
    order = [
        name for name in names(plan(published.checkpoints, published.packets, keep=keep)) if name[0] == "p"
    ]
    cut = data.draw(st.integers(0, len(order)), label="removed before it was interrupted")
    half = Directory(
        published.checkpoints, frozenset(n for n in published.packets if f"p{n}" not in order[:cut])
    )
    assert half.cold(None) == published.cold(None)


@pytest.mark.parametrize("margin", [0, 3])
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_the_same_of_persias_files(margin, data):
    """Positions are times, with repetitions; a checkpoint has all before its time less `margin`."""
    times = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=20))
    directories = [packet(time, name=f"d{n}") for n, time in enumerate(times)]
    dumps = data.draw(st.frozensets(st.integers(1, 30), max_size=5))
    hold = data.draw(st.none() | st.integers(1, 30))
    pruned = plan(
        [checkpoint(time, covers=time - margin - 1) for time in sorted(dumps)],
        directories,
        holds={} if hold is None else {"s": hold},
        keep=data.draw(st.integers(1, 2)),
    )
    gone = set(names(pruned))
    for limit in (None, hold):
        usable = [time for time in dumps if limit is None or time <= limit]
        if not usable:
            assert not any(name.startswith("d") for name in gone)
            continue
        assert f"c{max(usable)}" not in gone
        needed = {f"d{n}" for n, time in enumerate(times) if time >= max(usable) - margin}
        assert not needed & gone
