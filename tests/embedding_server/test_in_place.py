"""A checkpoint put into the tables in use: afterwards they hold its rows and nothing else, whatever was there."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from table_content import content, rows_of
from table_content import expected_content as expected

from satrap._core.table import read_control
from satrap.embedding_server import in_place
from satrap.embedding_server.candidates import Serving
from satrap.embedding_server.inventory import inspect_generation
from satrap.embedding_server.loading import LoadCancelled, LoadProgress
from satrap.embedding_server.snapshot import Phase
from satrap.embedding_server.takeover import GenerationInfo
from satrap.errors import CheckpointIncompleteError, ChecksumError, GuardrailError, NoSpaceError, StorageError
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.trainer import write_persia_checkpoint

NEVER = threading.Event()
RANDOM = np.random.default_rng(9)
SIGNS = RANDOM.integers(0, 2**64, 3000, np.uint64)
OLD, NEW = SIGNS[:2000], SIGNS[1000:]


def ignore(_: LoadProgress) -> None:
    """Nobody watches."""


OLD_ROWS, NEW_ROWS = rows_of(OLD, 4, 1), rows_of(NEW, 4, 2)


@pytest.fixture
def served(shard_state, write_ours, tmp_path):
    """A state with a checkpoint of sequence 5, and beside it one of sequence 8."""
    write_ours(tmp_path / "old", {4: (OLD, OLD_ROWS), 8: (OLD[:50], rows_of(OLD[:50], 8, 3))}, 5)
    write_ours(tmp_path / "new", {4: (NEW, NEW_ROWS), 16: (NEW[:50], rows_of(NEW[:50], 16, 4))}, 8)
    state = shard_state()
    state.load(tmp_path / "old", ignore, NEVER)
    return state


class TestRows:
    def check(self, state) -> None:
        tables = state.target().tables
        assert content(tables[4]) == expected(NEW, NEW_ROWS, 8)
        assert content(tables[8]) == {}
        assert content(tables[16]) == expected(NEW[:50], rows_of(NEW[:50], 16, 4), 8)
        assert state.applied() == (8, 0) and state.generation().origin.base_sequence == 8
        assert state.generation().tables.keys() == {4, 8, 16}
        assert state.snapshot.phase is Phase.READY and not state.snapshot.message

    def test_of_the_checkpoint_and_no_others(self, served, tmp_path):
        folder = served.target().folder
        generation = served.load_in_place(tmp_path / "new", ignore, NEVER)
        assert generation.checkpoint == str(tmp_path / "new") and Path(generation.folder) == folder
        self.check(served)

    def test_whatever_packets_did_before(self, served, tmp_path):
        """Rows and tombstones that carry the checkpoint's own ordinal, and greater ones."""
        table = served.target().tables[4]
        bad = np.full((len(SIGNS), 4), 9, np.float32)
        table.upsert(SIGNS[:1500], bad[:1500], 8)
        table.upsert(SIGNS[1500:], bad[1500:], 2**32 - 1)
        table.erase(SIGNS[900:1100], 8)
        table.erase(SIGNS[2500:2600], 2**32 - 1)
        strangers = np.array([1, 2, 3, 4], np.uint64)
        table.upsert(strangers, bad[:4], 8)
        table.erase(strangers[:2], 9)
        served.target().store.set_applied(2000, 77)
        served.load_in_place(tmp_path / "new", ignore, NEVER)
        self.check(served)
        # packets from there on are applied as to a table that was loaded
        table.upsert(strangers[:1], bad[:1], 9)
        assert content(table)[1] == (bad[0].tobytes(), 9)
        for signs, ordinals, _ in [table.tombstones()]:
            assert set(ordinals) <= {0} and 1 not in signs

    def test_a_checkpoint_of_sequence_0(self, served, write_ours, tmp_path):
        served.target().tables[4].upsert(OLD[:5], OLD_ROWS[:5], 0)
        write_ours(tmp_path / "zero", {4: (NEW, NEW_ROWS)}, 0)
        served.load_in_place(tmp_path / "zero", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(NEW, NEW_ROWS, 0)
        served.load_in_place(tmp_path / "zero", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(NEW, NEW_ROWS, 0)

    def test_one_of_persias(self, served, tmp_path):
        write_persia_checkpoint(
            tmp_path / "persia",
            {4: (NEW, NEW_ROWS), 16: (NEW[:50] + np.uint64(1), rows_of(NEW[:50], 16, 4))},
            num_shards=2,
        )
        generation = served.load_in_place(tmp_path / "persia", ignore, NEVER)
        origin = generation.origin
        assert origin.format == "persia" and served.applied()[0] == origin.replay_from > 10**9
        assert content(generation.tables[4]) == expected(NEW, NEW_ROWS, origin.replay_from)
        assert content(generation.tables[8]) == {}

    def test_only_this_shards(self, shard_state, write_ours, tmp_path):
        for name, signs, rows in (("old", OLD, OLD_ROWS), ("new", NEW, NEW_ROWS)):
            write_ours(tmp_path / name, {4: (signs, rows)}, 5, num_shards=3)
        found = {}
        for index in range(2):
            state = shard_state(ShardRoute(index, 2))
            state.load(tmp_path / "old", ignore, NEVER)
            state.load_in_place(tmp_path / "new", ignore, NEVER)
            found |= content(state.target().tables[4])
            assert len(state.target().tables[4]) < len(NEW)
        assert found == expected(NEW, NEW_ROWS, 5)

    def test_what_lies_beside_the_tables_goes(self, served, tmp_path):
        folder = served.target().folder
        (folder / "undo").mkdir()
        (folder / "undo" / f"{6:020d}").write_bytes(b"old rows")
        (folder / "applied.json").write_text("{}")
        before = served.target()
        served.load_in_place(tmp_path / "new", ignore, NEVER)
        assert {path.name for path in folder.iterdir()} == {"control", "4-float32", "8-float32", "16-float32"}
        assert served.target() is not before and served.target().store is before.store

    def test_packets_are_applied_anew_from_there(self, served, tmp_path):
        def catch_up(target) -> None:
            assert target is served.target() and served.applied() == (8, 0)
            target.store.set_applied(9, 1)

        served.load_in_place(tmp_path / "new", ignore, NEVER, catch_up)
        assert served.applied() == (9, 1)

    def test_its_progress(self, served, tmp_path):
        told = []
        served.load_in_place(tmp_path / "new", told.append, NEVER)
        fractions = [progress.fraction for progress in told]
        assert fractions == sorted(fractions) and fractions[-1] == 1

    def test_where_nothing_is_served_it_is_loaded(self, shard_state, write_ours, tmp_path):
        write_ours(tmp_path / "new", {4: (NEW, NEW_ROWS)}, 8)
        generation = shard_state().load_in_place(tmp_path / "new", ignore, NEVER)
        assert content(generation.tables[4]) == expected(NEW, NEW_ROWS, 8)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_as_if_it_were_loaded(seed, shard_state, write_ours, tmp_path):
    """Random packets, a checkpoint in place, random packets behind it: against a table that is loaded from it."""
    random = np.random.default_rng(seed)
    known = random.integers(0, 2**64, 300, np.uint64)
    sequence = int(random.integers(0, 30))

    def packet(table, ordinal: int, rng) -> None:
        signs = rng.choice(known, 40, replace=False)
        if rng.random() < 0.3:
            table.erase(signs, ordinal)
        else:
            table.upsert(signs, rng.standard_normal((40, 4)).astype(np.float32), ordinal)

    signs = random.choice(known, 150, replace=False)
    write_ours(tmp_path / "new", {4: (signs, rows_of(signs, 4, seed))}, sequence)
    write_ours(tmp_path / "old", {4: (known[:100], rows_of(known[:100], 4, seed + 1))}, 2)
    state = shard_state()
    state.load(tmp_path / "old", ignore, NEVER)
    for ordinal in range(3, 60):
        packet(state.target().tables[4], ordinal, random)
    state.load_in_place(tmp_path / "new", ignore, NEVER)
    mine = [content(state.target().tables[4])]
    follow = np.random.default_rng(seed + 2)
    for ordinal in range(sequence + 1, sequence + 40):
        packet(state.target().tables[4], ordinal, follow)
        mine.append(content(state.target().tables[4]))
    state.load(tmp_path / "new", ignore, NEVER)
    assert content(state.target().tables[4]) == mine.pop(0)
    follow = np.random.default_rng(seed + 2)
    for ordinal in range(sequence + 1, sequence + 40):
        packet(state.target().tables[4], ordinal, follow)
        assert content(state.target().tables[4]) == mine.pop(0)


class TestRefused:
    def test_before_anything_is_changed(self, served, tmp_path):
        path = max((tmp_path / "new").glob("*.arrow"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        (served.target().folder / "undo").mkdir()
        with pytest.raises(ChecksumError):
            served.load_in_place(tmp_path / "new", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(OLD, OLD_ROWS, 5)
        assert (served.target().folder / "undo").is_dir() and served.applied() == (5, 0)

    def test_for_a_row_that_must_not_be_served(self, served, write_ours, tmp_path):
        rows = NEW_ROWS.copy()
        rows[7, 0] = np.nan
        write_ours(tmp_path / "bad", {4: (NEW, rows)}, 9)
        with pytest.raises(GuardrailError, match="is not finite"):
            served.load_in_place(tmp_path / "bad", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(OLD, OLD_ROWS, 5)

    def test_but_persias_is_only_told_of(self, served, tmp_path):
        rows = NEW_ROWS.copy()
        rows[7, 0] = np.nan
        write_persia_checkpoint(tmp_path / "theirs", {4: (NEW, rows)}, num_shards=1)
        (warning,) = served.load_in_place(tmp_path / "theirs", ignore, NEVER).warnings
        assert "rows that were looked at, 1 have values that are not finite" in warning

    def test_no_room_for_what_is_more(self, served, write_ours, tmp_path, monkeypatch):
        from satrap.embedding_server import room as module
        from satrap.embedding_server.room import Room

        monkeypatch.setattr(module, "present_room", lambda folder: (Room("the machine", 1000, "buy"),))
        with pytest.raises(NoSpaceError):
            served.load_in_place(tmp_path / "new", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(OLD, OLD_ROWS, 5)
        write_ours(tmp_path / "same", {4: (OLD, NEW_ROWS)}, 8)
        served.load_in_place(tmp_path / "same", ignore, NEVER)  # needs none

    def test_that_goes_away_between_the_passes(self, served, write_ours, tmp_path, monkeypatch):
        """The tables are of no state then: they get no packets, and the next load is what helps."""
        real = in_place.clear_records

        def lose(target) -> None:
            real(target)
            max((tmp_path / "new").glob("*.arrow")).unlink()

        with monkeypatch.context() as patch:
            patch.setattr("satrap.embedding_server.state.clear_records", lose)
            with pytest.raises(Exception, match=r"not there|went away"):
                served.load_in_place(tmp_path / "new", ignore, NEVER)
        assert served.target() is None and served.serving() is None
        assert served.snapshot.phase is Phase.READY  # lookups go on
        told = GenerationInfo.from_bytes(read_control(served.generation().folder).info)
        assert told.replacing.checkpoint == str(tmp_path / "new")
        write_ours(tmp_path / "newer", {4: (NEW, NEW_ROWS)}, 9)
        served.load_in_place(tmp_path / "newer", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(NEW, NEW_ROWS, 9)
        assert isinstance(served.serving(), Serving)

    def test_after_which_one_is_loaded_beside(self, served, tmp_path, monkeypatch):
        def fail(*arguments: object) -> None:
            raise StorageError("x", "y")

        with monkeypatch.context() as patch:
            patch.setattr("satrap.embedding_server.state.replace_rows", fail)
            with pytest.raises(StorageError):
                served.load_in_place(tmp_path / "new", ignore, NEVER)
        served.load(tmp_path / "new", ignore, NEVER)
        assert content(served.target().tables[4]) == expected(NEW, NEW_ROWS, 8)


def cut(state, checkpoint: Path) -> None:
    """Stop while the rows of `checkpoint` are written."""
    stop = threading.Event()

    def halfway(progress: LoadProgress) -> None:
        if 0.5 < progress.fraction < 1:
            stop.set()

    with pytest.raises(LoadCancelled):
        state.load_in_place(checkpoint, halfway, stop)
    assert state.target() is None


class TestNextStart:
    """After an end in the middle: never a table of two states."""

    @pytest.fixture
    def cut_off(self, shard_state, write_ours, tmp_path):
        write_ours(tmp_path / "old", {4: (OLD, OLD_ROWS)}, 5)
        write_ours(tmp_path / "new", {4: (NEW, NEW_ROWS)}, 8, num_shards=4, page=10)
        state = shard_state()
        state.start(tmp_path / "old", ignore, NEVER)
        cut(state, tmp_path / "new")
        return shard_state

    def values(self, state, named) -> tuple[str, dict]:
        state.start(named, ignore, NEVER)
        return state.snapshot.started, content(state.target().tables[4])

    @pytest.mark.parametrize("named", ["old", "new", None])
    def test_loads_what_was_being_loaded(self, cut_off, tmp_path, named):
        started, rows = self.values(cut_off(), tmp_path / named if named else None)
        assert started.startswith("cold: ") and "was being put in place" in started
        assert rows == expected(NEW, NEW_ROWS, 8)
        started, rows = self.values(cut_off(), tmp_path / named if named else None)
        assert started == "warm" and rows == expected(NEW, NEW_ROWS, 8)

    def test_loads_another_one_that_is_named(self, cut_off, write_ours, tmp_path):
        write_ours(tmp_path / "other", {4: (OLD, OLD_ROWS)}, 6)
        started, rows = self.values(cut_off(), tmp_path / "other")
        assert started.startswith("cold: ") and rows == expected(OLD, OLD_ROWS, 6)

    def test_loads_what_is_named_if_the_other_is_gone(self, cut_off, tmp_path):
        for path in (tmp_path / "new").iterdir():
            path.unlink()
        started, rows = self.values(cut_off(), tmp_path / "old")
        assert started.startswith("cold: ") and rows == expected(OLD, OLD_ROWS, 5)

    def test_loads_what_is_named_if_the_other_is_damaged(self, cut_off, tmp_path):
        path = max((tmp_path / "new").glob("*.arrow"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        started, rows = self.values(cut_off(), tmp_path / "old")
        assert started.startswith("cold: ") and rows == expected(OLD, OLD_ROWS, 5)

    def test_refuses_what_cannot_be_loaded_any_more(self, cut_off, tmp_path):
        for path in (tmp_path / "old").glob("*.json"):
            path.unlink()
        with pytest.raises(CheckpointIncompleteError):
            cut_off().start(tmp_path / "old", ignore, NEVER)


_CHILD = """
import sys, threading
from pathlib import Path
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.formats.persia_checkpoint import ShardRoute

directory = TableDirectory(TablePlace(Path(sys.argv[1])), ShardRoute())
state = ShardState(directory, "float32", 1)
state.start(sys.argv[2], lambda progress: None, threading.Event())
print("started", flush=True)
state.load_in_place(sys.argv[3], lambda progress: print(progress.fraction, flush=True), threading.Event())
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("verified", "written"), [(1, 0), (40, 0), (60, 1), (60, 20), (60, 59), (60, 60)])
def test_sigkill_at_any_moment(verified, written, shard_state, write_ours, table_directory, tmp_path):
    """A real process, killed after so many of 60 pages of each pass."""
    write_ours(tmp_path / "old", {4: (OLD, OLD_ROWS)}, 5)
    write_ours(tmp_path / "new", {4: (NEW, NEW_ROWS)}, 8, num_shards=30)
    arguments = [str(table_directory), str(tmp_path / "old"), str(tmp_path / "new")]
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "started\n"
        for page in range(verified + written):
            assert (float(child.stdout.readline()) > 0.5) == (page >= 60)
        os.kill(child.pid, signal.SIGKILL)
        finished = "done" in child.stdout.read()
    state = shard_state()
    state.start(tmp_path / "old", ignore, NEVER)
    rows = content(state.target().tables[4])
    started = state.snapshot.started
    old = rows == expected(OLD, OLD_ROWS, 5)
    assert old or rows == expected(NEW, NEW_ROWS, 8)
    assert old <= (not written and not finished)
    assert started == "warm" or ("was being put in place" in started and not old)


def test_a_table_that_is_being_changed_is_told_of(served, tmp_path):
    """`satrap inspect` and `tables list` go on reading it."""
    cut(served, tmp_path / "new")
    folder = Path(served.generation().folder)
    assert GenerationInfo.from_bytes(read_control(str(folder)).info).replacing.identity
    held = inspect_generation(folder)
    assert not held.damage and held.rows >= len(OLD)
