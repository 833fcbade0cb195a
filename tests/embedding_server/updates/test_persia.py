"""What is decided about PERSIA's files: scenarios, each a list of things that happen and what follows.

start: {replay_from, unmarked_seconds}       the settings, in the first entry only
files: {s0/a/0: 10}    a file appears, or is written again: its time, or `broken`, `denied`; null: it is removed
touch, mark, unmark    files and directories
modified               the time that new files bear, instead of now
keep, verdicts         what people decided; undone: files that a rollback took back
seconds                how much later the look is
then                   the steps, which are taken; until: seconds to the next that is known to be due
alarms, says, behind, newest, changed, settled
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap.embedding_server.updates.decide import Apply, PassOver, Refuse, RollBack, Wait
from satrap.embedding_server.updates.persia import (
    Look,
    PersiaDecision,
    PersiaKnowledge,
    PersiaSettings,
    Settled,
    decide_persia,
    outlived_by,
)
from satrap.errors import PersiaPacketError, StorageError
from satrap.formats.persia_packet import PersiaDirectory, PersiaFile, PersiaListing

SCENARIOS = sorted((Path(__file__).parent / "persia_scenarios").glob("*.yaml"))
SECOND = 1_000_000_000


@dataclass
class World:
    """A packet directory and a server's knowledge of it, without a disk."""

    settings: PersiaSettings = field(default_factory=PersiaSettings)
    now: int = 0
    files: dict[str, PersiaFile] = field(default_factory=dict)
    contents: dict[str, object] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)
    settled: dict[str, Settled] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)
    quiet: dict[str, tuple[tuple[PersiaFile, ...], int]] = field(default_factory=dict)
    refused: dict[str, PersiaFile] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    keep: int | None = None
    applied: int = 0
    round: int = 0
    writes: int = 0

    def write(self, name: str, content: object, modified: int | None = None) -> None:
        self.writes += 1
        if content is None:
            del self.files[name], self.contents[name]
            return
        if content == "touched":
            content = self.contents[name]
        self.contents[name] = content
        self.files[name] = PersiaFile(
            name, 100, (self.now if modified is None else modified * SECOND) + self.writes
        )

    def listing(self) -> PersiaListing:
        names = {file.directory for file in self.files.values()} | self.markers
        return PersiaListing(
            {
                name: PersiaDirectory(
                    name,
                    name in self.markers,
                    tuple(file for key, file in sorted(self.files.items()) if file.directory == name),
                )
                for name in sorted(names)
            }
        )

    def look(self) -> PersiaDecision:
        self.round += 1
        listing = self.listing()
        quiet = {}
        for directory in listing.directories.values():
            before = self.quiet.get(directory.name)
            newest = max((file.modified_ns for file in directory.files), default=self.now)
            since = min(newest, self.now) if before is None else self.now
            quiet[directory.name] = (
                before if before and before[0] == directory.files else (directory.files, since)
            )
        self.quiet = quiet
        for name in self.refused.keys() - self.verdicts.keys():
            del self.refused[name]
            self.looks.pop(name, None)
        for name in self.verdicts.keys() - self.refused.keys():
            self.refused[name] = self.looks[name].file if name in self.looks else self.files[name]
        while True:
            decision = decide_persia(
                listing,
                PersiaKnowledge(
                    self.settled,
                    self.looks,
                    {name: since for name, (_, since) in quiet.items()},
                    self.refused,
                    self.round,
                ),
                self.settings,
                applied=self.applied,
                keep_through=self.keep,
                verdicts=self.verdicts,
                now_ns=self.now,
            )
            for done in (*decision.unchanged, *decision.older):
                self.settled[done.file.name] = done
            if not decision.read:
                return decision
            assert decision.steps == ()
            for file in decision.read:
                self.looks[file.name] = self.read(file)

    def read(self, file: PersiaFile) -> Look:
        content = self.contents[file.name]
        before = self.looks.get(file.name)
        tries = before.tries + 1 if before is not None and before.file == file else 1
        if content == "broken":
            return Look(file, self.round, error=PersiaPacketError(file.name, "cut", 3), tries=tries)
        if content == "denied":
            return Look(file, self.round, error=StorageError(file.name, "permission denied"), tries=tries)
        assert isinstance(content, int)
        return Look(file, self.round, content, f"bytes of {content}", tries=tries)

    def take(self, decision: PersiaDecision) -> tuple[list[str], int | None]:
        """Take the steps; what they were, and until when there is nothing to do."""
        said = []
        until = None
        for step in decision.steps:
            match step:
                case Apply(name, _):
                    said.append(f"apply {name}" + (" unmarked" if name in decision.unmarked else ""))
                    self.settle(name)
                    self.applied = max(self.applied, self.looks[name].unix_seconds)
                case PassOver(name, _):
                    said.append(f"pass {name}")
                    self.settle(name)
                case Refuse(name, _, _):
                    said.append(f"refuse {name}")
                case RollBack(keep):
                    said.append(f"roll back to {keep}")
                case Wait(until_ns):
                    until = until_ns
                case _:
                    raise AssertionError(step)
        for name in decision.changed:
            del self.verdicts[name]
        return said, until

    def settle(self, name: str) -> None:
        look = self.looks[name]
        done = Settled(look.file, look.unix_seconds, look.checksum)
        for out in outlived_by(self.settled, [done]):
            del self.settled[out]
        self.settled[name] = done


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path):
    world = World()
    for number, happening in enumerate(yaml.safe_load(path.read_text())):
        if "start" in happening:
            start = happening["start"]
            world.settings = PersiaSettings(start["replay_from"], world.settings.unmarked_ns)
            continue
        world.now += happening.get("seconds", 0) * SECOND
        for name, content in happening.get("files", {}).items():
            world.write(name, content, happening.get("modified"))
        for name in happening.get("touch", []):
            world.write(name, "touched")
        world.markers |= set(happening.get("mark", []))
        world.markers -= set(happening.get("unmark", []))
        world.keep = happening.get("keep", world.keep)
        world.verdicts = dict(happening.get("verdicts", world.verdicts))
        for name in happening.get("undone", []):
            del world.settled[name]
            world.applied = max((done.unix_seconds for done in world.settled.values()), default=0)
        decision = world.look()
        then, until = world.take(decision)
        where = f"{path.name}, entry {number + 1}"
        assert then == happening["then"], where
        due = None if until is None else (until - world.now + SECOND // 2) // SECOND
        assert due == happening.get("until"), where
        assert [alarm.code for alarm in decision.alarms] == happening.get("alarms", []), where
        if "says" in happening:
            assert happening["says"] in decision.alarms[0].message, where
        assert list(decision.changed) == happening.get("changed", []), where
        if "behind" in happening:
            applied = sum(step.startswith("apply") for step in then)
            assert decision.behind - applied == happening["behind"], where
        if "newest" in happening:
            assert decision.newest == happening["newest"], where
        if "settled" in happening:
            assert len(world.settled) == happening["settled"], where


class TestAnyOrderOfArrival:
    """However files arrive, marked or not, the rows in the end are those of all files in their order."""

    @given(st.data())
    @settings(deadline=None, max_examples=40)
    def test_rows_in_the_end(self, data):
        names = [f"s{shard}/{directory}/{file}" for shard in "01" for directory in "abc" for file in "01"]
        times = data.draw(st.lists(st.integers(1, 4), min_size=len(names), max_size=len(names)))
        world = World()
        rows: dict[str, tuple[int, str]] = {}  # one sign per trainer's shard, written by all of its files
        arrivals = data.draw(st.permutations(list(zip(names, times, strict=True))))
        while arrivals or world.markers < {file.directory for file in world.files.values()}:
            coming = data.draw(st.integers(1, 4))
            for name, unix_seconds in arrivals[:coming]:
                world.write(name, unix_seconds)
                if data.draw(st.booleans()) or len(arrivals) <= coming:
                    world.markers.add(world.files[name].directory)
            arrivals = arrivals[coming:]
            if not arrivals:
                world.markers |= {file.directory for file in world.files.values()}
            self.apply(world, rows, killed=data.draw(st.booleans()))
        while any(isinstance(step, Apply) for step in world.look().steps):
            self.apply(world, rows, killed=False)
        assert world.look().steps == (Wait(None),)
        in_order = sorted(
            world.files.values(),
            key=lambda file: file.order(world.contents[file.name]),  # type: ignore[arg-type]
        )
        for shard in "01":
            last = [file.name for file in in_order if file.name.startswith(f"s{shard}")][-1]
            assert rows[shard] == (world.contents[last], last)

    def apply(self, world: World, rows: dict[str, tuple[int, str]], *, killed: bool) -> None:
        """Apply as the table does: a greater ordinal stays, an equal one is overwritten."""
        decision = world.look()
        names = [step.name for step in decision.steps if isinstance(step, Apply)]
        for name in names[: len(names) // 2] if killed else names:
            unix_seconds = world.looks[name].unix_seconds
            before = rows.get(name[1], (0, ""))
            if unix_seconds >= before[0]:
                rows[name[1]] = (unix_seconds, name)
            if killed and name == names[len(names) // 2 - 1]:
                return  # the rows are there, the list of applied files is not
            world.settle(name)


def test_a_decision_does_not_change_what_is_known():
    world = World(PersiaSettings(unmarked_ns=0))
    world.write("s0/a/0", 10)
    first = world.look()
    assert world.look() == first
