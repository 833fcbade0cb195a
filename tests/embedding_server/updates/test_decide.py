"""Decisions about a stream, told as stories: every file in `scenarios` is one.

A story is a list of moments. At each, packets appear (`publish: [3<2]`: sequence 3, previous 2; `3<2/w` by another
writer, `3<2@s` of another stream, `3?` a manifest that cannot be read) or go (`remove`), people decide (`hold`, `skip`,
`release`, `verdict`, `forget`), or a checkpoint is loaded (`checkpoint`). Then it is decided until there is nothing to
do but wait, `seconds` later than before; `then` lists the steps, `alarms` their codes, and `until` when it would be
looked at again.
"""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.decide import (
    Apply,
    Head,
    Memory,
    PassOver,
    ReadManifests,
    RollBack,
    Seen,
    StreamState,
    Wait,
    decide,
)
from satrap.embedding_server.updates.trouble import Trouble

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
SECOND = 10**9


def seen(word: str) -> Seen:
    """`3<2/w@s` -> Seen."""
    word, _, stream = word.partition("@")
    word, _, writer = word.partition("/")
    writer = writer or "w"
    if word.endswith("?"):
        sequence = int(word[:-1])
        return Seen(f"{sequence}-{writer}", sequence, unreadable="bad_manifest")
    sequence, _, previous = word.partition("<")
    return Seen(f"{sequence}-{writer}", int(sequence), Head(stream or "main", int(previous)))


class Story:
    """Does what is decided, and writes it down."""

    def __init__(self, start: dict) -> None:
        self.now = 0
        self.applied = start.get("applied", 0)
        self.stream = start.get("stream", "")
        self.gap_alarm = start.get("gap_alarm_seconds", 0)
        self.listing: dict[str, Seen] = {}
        self.read: set[str] = set()
        self.holds, self.skips, self.verdicts, self.troubles = {}, {}, {}, {}
        self.memory = Memory()

    def happen(self, moment: dict) -> None:
        self.now += int(moment.get("seconds", 0) * SECOND)
        for word in moment.get("publish", []):
            entry = seen(word)
            self.listing[entry.name] = entry
        for name in moment.get("remove", []):
            del self.listing[name]
        self.holds.update(moment.get("hold", {}))
        for stream in moment.get("release", []):
            del self.holds[stream]
        self.skips.update(moment.get("skip", {}))
        self.verdicts.update(moment.get("verdict", {}))
        for name in moment.get("forget", []):
            self.verdicts.pop(name, None)
            self.troubles.pop(name, None)
        for name, seconds in moment.get("trouble", {}).items():
            self.troubles[name] = Trouble(
                Alarm("storage", "s3://bucket: no network now"), self.now + seconds * SECOND
            )
        if "checkpoint" in moment:
            self.applied, self.stream = moment["checkpoint"], moment.get("stream", self.stream)

    def listed(self) -> list[Seen]:
        entries = sorted(self.listing.values(), key=lambda entry: (entry.sequence, entry.name))
        return [
            entry if entry.name in self.read or entry.unreadable else Seen(entry.name, entry.sequence)
            for entry in entries
            if entry.sequence >= self.applied
        ]

    def settle(self):
        """Decide and do, until there is nothing to do; (steps, the last decision)."""
        steps = []
        while True:
            state = StreamState(
                self.applied,
                self.stream,
                self.holds,
                self.skips,
                self.verdicts,
                self.troubles,
                int(self.gap_alarm * SECOND),
            )
            decision = decide(state, self.listed(), self.memory, self.now)
            self.memory = decision.memory
            (step,) = decision.steps
            match step:
                case Wait():
                    return steps, decision
                case ReadManifests(names):
                    assert names
                    self.read |= set(names)
                    for name in names:
                        self.troubles.pop(name, None)
                case Apply(name, _, jumped):
                    steps.append(f"apply {name}" + (" jumped" if jumped else ""))
                    self.applied, self.stream = self.listing[name].sequence, decision.stream
                    self.troubles.pop(name, None)
                case PassOver(name, sequence):
                    steps.append(f"pass {name}")
                    self.applied = sequence
                case RollBack(keep):
                    steps.append(f"back to {keep}")
                    self.applied = keep
            assert len(steps) < 1000


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path):
    start, *moments = yaml.safe_load(path.read_text())
    story = Story(start["start"])
    for number, moment in enumerate(moments):
        story.happen(moment)
        steps, decision = story.settle()
        place = f"moment {number + 1}: {moment}"
        assert steps == moment.get("then", []), place
        assert [alarm.code for alarm in decision.alarms] == moment.get("alarms", []), place
        assert all(len(alarm.message) > 20 for alarm in decision.alarms)
        if "until" in moment:
            wait = decision.steps[0]
            assert wait.until_ns == story.now + moment["until"] * SECOND, place
        for name in ("behind", "newest"):
            if name in moment:
                assert getattr(decision, name) == moment[name], place
        if "says" in moment:
            assert moment["says"] in " ".join(alarm.message for alarm in decision.alarms), place


ANY = st.builds(
    Seen,
    st.integers(0, 30).map(str),
    st.integers(0, 12),
    st.none() | st.builds(Head, st.sampled_from(["main", "other"]), st.integers(0, 12)),
    st.sampled_from(["", "bad_manifest"]),
)


@given(
    st.lists(ANY, max_size=10, unique_by=lambda entry: entry.name),
    st.integers(0, 12),
    st.sampled_from(["", "main"]),
    st.dictionaries(st.sampled_from(["main", "other"]), st.integers(0, 12)),
    st.dictionaries(st.sampled_from(["main", "other"]), st.integers(0, 12)),
    st.dictionaries(st.integers(0, 30).map(str), st.sampled_from(["waiting", "skipped", "dropped"])),
)
def test_whatever_lies_there(listing, applied, stream, holds, skips, verdicts):
    """One step for any listing whatever, and never one that breaks a rule."""
    listing.sort(key=lambda entry: entry.sequence)
    by_name = {entry.name: entry for entry in listing}
    state = StreamState(applied, stream, holds, skips, verdicts)
    decision = decide(state, listing, Memory(), 0)
    (step,) = decision.steps
    keep, skip_to = holds.get(decision.stream), skips.get(decision.stream, 0)
    match step:
        case ReadManifests(names):
            assert all(by_name[name].head is None and not by_name[name].unreadable for name in names)
        case Apply(name, _, jumped):
            entry = by_name[name]
            assert entry.head is not None and entry.head.stream == decision.stream
            assert stream in ("", entry.head.stream) and entry.sequence > applied
            assert keep is None or entry.sequence <= keep
            assert verdicts.get(name) is None
            assert jumped == (entry.head.previous != applied)
            assert not jumped or applied < skip_to >= entry.head.previous
        case PassOver(name, sequence):
            assert verdicts[name] in ("skipped", "dropped") and sequence == by_name[name].sequence > applied
            assert keep is None or sequence <= keep
        case RollBack(to):
            assert to == keep < applied
        case Wait():
            chained = [
                entry
                for entry in listing
                if entry.head == Head(decision.stream, applied)
                and entry.sequence > applied
                and entry.name not in verdicts
            ]
            alone = len({entry.sequence for entry in chained}) == len(chained) == 1
            stopped = decision.alarms or (
                keep is not None and keep < chained[0].sequence if chained else True
            )
            assert not alone or stopped


@given(st.permutations(range(1, 9)), st.integers(0, 7))
def test_any_order_of_arrival_ends_the_same(order, start):
    """Packets of one chain, whatever their order: all of them, once, and in order."""
    story = Story({"applied": start, "stream": "main"})
    done = []
    for sequence in order:
        story.happen({"publish": [f"{sequence}<{sequence - 1}"]})
        steps, _ = story.settle()
        done += steps
    assert done == [f"apply {sequence}-w" for sequence in range(start + 1, 9)]
    assert story.settle()[1].alarms == ()


def test_there_are_stories():
    assert len(SCENARIOS) >= 10
