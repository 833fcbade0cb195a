"""The undo log and rollback: exact, whatever is in a packet, and wherever a process is killed."""

import functools
import os
import random
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap._core.table import TableGeneration, present_boot
from satrap.embedding_server.updates.packet import PacketPart
from satrap.embedding_server.updates.rollback import Rollback, plan_rollback, roll_back
from satrap.embedding_server.updates.undo import FilePosition, SequencePosition, UndoLog, usable_entries
from satrap.embedding_server.updates.undo_file import UndoEntry, Watermark
from satrap.errors import NoSpaceError, TableFolderError

KEEP = 16


@pytest.fixture
def store(table_directory):
    store = create(table_directory / "00000001")
    yield store
    store.close()


def create(folder: Path) -> TableGeneration:
    return TableGeneration.create(
        str(folder), instance=bytes(16), boot_id=present_boot(), replica_index=0, replica_size=1, info=b"{}"
    )


def recover(folder: Path) -> TableGeneration:
    return TableGeneration.recover(str(folder), boot_id=present_boot(), replica_index=0, replica_size=1)


def contents(store: TableGeneration) -> dict[int, list[tuple[int, int, bytes]]]:
    """Rows with their ordinals by dim, in the order of signs: tombstones are not rows."""
    found = {}
    for dim, table in store.tables.items():
        rows, start = [], 0
        while start is not None:
            signs, values, ordinals, start = table.scan(start)
            rows += [
                (int(sign), int(ordinal), value.tobytes())
                for sign, ordinal, value in zip(signs, ordinals, values, strict=True)
            ]
        if rows:
            found[dim] = sorted(set(rows))
    return found


def part(dim: int, signs, value: float | None) -> PacketPart:
    signs = np.array(signs, np.uint64)
    return PacketPart(dim, signs, None if value is None else np.full((len(signs), dim), value, np.float32))


def apply(store, log, sequence, parts, *, position=None, name="", event_ns=None, on_step=lambda name: None):
    """A packet as the pipeline applies it."""
    position = position or SequencePosition(store)
    log.begin(store, name or f"{sequence:020d}-w.json", sequence, parts, position)
    on_step("undo_written")
    for one in parts:
        table = (
            store.tables[one.dim] if one.dim in store.tables else store.add_table(one.dim, "float32", 1024)
        )
        if one.rows is None:
            table.erase(one.signs, sequence)
        else:
            table.upsert(one.signs, one.rows, sequence)
        on_step("part_written")
    store.set_applied(max(sequence, store.applied[0]), event_ns if event_ns is not None else sequence * 1000)
    on_step("watermark_written")
    log.prune()
    on_step("pruned")


def back(store, log, to: int, position=None, on_step=lambda name: None) -> Rollback:
    position = position or SequencePosition(store)
    log.revert(store, position)
    plan = plan_rollback(to, log.entries(), store.applied[0], [])
    roll_back(store, log, position, plan.undo, on_step)
    return plan


PACKETS = {
    1: [part(4, range(100), 1.0), part(8, range(50), 1.0)],
    2: [part(4, range(50, 150), 2.0), part(4, [60, 61, 900], None)],
    3: [part(4, [60, 62], 3.0), part(8, range(10), None), part(8, [3, 3, 3], 3.5)],
    4: [part(16, range(30), 4.0)],
    5: [],
    6: [part(4, range(200), None)],
    7: [part(4, range(0, 400, 3), 7.0), part(16, [1, 2], None), part(4, range(0, 400, 6), 7.5)],
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The contents and the watermark after each packet."""
    store = create(tmp_path_factory.mktemp("oracle") / "00000001")
    states = {0: ({}, (0, 0))}
    log = UndoLog(Path(store.folder), 0)
    for sequence, parts in PACKETS.items():
        apply(store, log, sequence, parts)
        states[sequence] = contents(store), store.applied
    store.close()
    return states


class TestUndo:
    def test_every_packet_can_be_taken_back_and_applied_again(self, store, oracle):
        log = UndoLog(Path(store.folder), KEEP)
        for sequence, parts in PACKETS.items():
            apply(store, log, sequence, parts)
        assert log.reaches(store.applied[0]) == 0
        for to in reversed(range(7)):
            back(store, log, to)
            assert (contents(store), store.applied) == oracle[to]
        assert log.entries() == []
        for sequence, parts in PACKETS.items():
            apply(store, log, sequence, parts)
            assert (contents(store), store.applied) == oracle[sequence]

    @pytest.mark.parametrize("to", range(7))
    def test_many_at_once_through_another_process_of_the_same_log(self, store, oracle, to):
        for sequence, parts in PACKETS.items():
            apply(store, UndoLog(Path(store.folder), KEEP), sequence, parts)
        assert len(back(store, UndoLog(Path(store.folder), KEEP), to).undo) == 7 - to
        assert (contents(store), store.applied) == oracle[to]

    def test_the_last_ones_are_kept(self, store, oracle):
        log = UndoLog(Path(store.folder), 3)
        for sequence, parts in PACKETS.items():
            apply(store, log, sequence, parts)
        assert [entry.sequence for entry in log.entries()] == [5, 6, 7]
        assert log.reaches(7) == 4
        assert "undo log reaches 4" in back(store, log, 3).stuck
        assert (contents(store), store.applied) == oracle[7]
        back(store, log, 4)
        assert (contents(store), store.applied) == oracle[4]

    def test_none_are_kept(self, store):
        log = UndoLog(Path(store.folder), 0)
        for sequence, parts in PACKETS.items():
            apply(store, log, sequence, parts)
        assert log.entries() == [] and log.reaches(7) == 7
        assert list((Path(store.folder) / "undo").iterdir()) == []

    def test_none_are_kept_but_a_begun_packet_is_taken_back(self, store, oracle):
        log = UndoLog(Path(store.folder), 0)
        apply(store, log, 1, PACKETS[1])
        log.begin(store, "b", 2, PACKETS[2], SequencePosition(store))
        store.tables[4].upsert(PACKETS[2][0].signs, PACKETS[2][0].rows, 2)
        assert UndoLog(Path(store.folder), 0).revert(store, SequencePosition(store))
        assert (contents(store), store.applied) == oracle[1]

    def test_fewer_are_kept_after_the_setting_was_lowered(self, store):
        for sequence in (1, 2, 3):
            apply(store, UndoLog(Path(store.folder), KEEP), sequence, PACKETS[sequence])
        apply(store, UndoLog(Path(store.folder), 0), 4, PACKETS[4])
        assert UndoLog(Path(store.folder), KEEP).entries() == []

    def test_greater_ordinals_are_no_obstacle(self, store):
        table = store.add_table(4, "float32", 16)
        log = UndoLog(Path(store.folder), KEEP)
        table.upsert(np.array([1], np.uint64), np.ones((1, 4), np.float32), 2**32 - 1)
        before = contents(store)
        apply(store, log, 5, [part(4, [1, 2], 9.0)])
        back(store, log, 4)
        assert contents(store) == before

    def test_float16(self, store):
        table = store.add_table(4, "float16", 16)
        table.upsert(np.array([1, 2], np.uint64), np.full((2, 4), 0.1, np.float32), 1)
        store.set_applied(1, 1)
        before = contents(store)
        log = UndoLog(Path(store.folder), KEEP)
        apply(store, log, 2, [part(4, [2, 3], 9.0)])
        back(store, log, 1)
        assert contents(store) == before

    def test_cleared(self, store):
        log = UndoLog(Path(store.folder), KEEP)
        apply(store, log, 1, PACKETS[1])
        log.clear()
        assert log.entries() == UndoLog(Path(store.folder), KEEP).entries() == []


class TestUnfinished:
    """A packet that was begun: whatever becomes of it, no half of it stays."""

    def half(self, store, log):
        apply(store, log, 1, PACKETS[1])
        log.begin(store, "b", 2, PACKETS[2], SequencePosition(store))
        store.tables[4].upsert(PACKETS[2][0].signs[:30], PACKETS[2][0].rows[:30], 2)

    def test_it_is_taken_back(self, store, oracle):
        log = UndoLog(Path(store.folder), KEEP)
        self.half(store, log)
        again = UndoLog(Path(store.folder), KEEP)
        assert again.revert(store, SequencePosition(store))
        assert (contents(store), store.applied) == oracle[1]
        assert not again.revert(store, SequencePosition(store))

    def test_a_file_whose_watermark_was_moved_before_its_name(self, store):
        """As PERSIA's are stored: the watermark, a kill, and no name in the set."""
        files, log = AppliedFiles(Path(store.folder)), UndoLog(Path(store.folder), KEEP)
        position = FilePosition(store, files)
        log.begin(store, "a/0.inc", 10, [part(4, range(5), 1.0)], position)
        store.set_applied(10, 3)
        assert log.revert(store, position) and store.applied == (0, 0)

    def test_another_packet_of_its_number_comes(self, store, oracle):
        log = UndoLog(Path(store.folder), KEEP)
        self.half(store, log)
        apply(store, UndoLog(Path(store.folder), KEEP), 2, [part(4, [77777], 1.0)], name="other")
        back(store, log := UndoLog(Path(store.folder), KEEP), 1)
        assert (contents(store), store.applied) == oracle[1]
        assert log.entries()[-1].sequence == 1

    def test_a_hold_below_it(self, store, oracle):
        log = UndoLog(Path(store.folder), KEEP)
        self.half(store, log)
        back(store, UndoLog(Path(store.folder), KEEP), 0)
        assert (contents(store), store.applied) == oracle[0]

    def test_temporary_files_are_no_entries_and_go(self, store):
        log = UndoLog(Path(store.folder), KEEP)
        apply(store, log, 1, PACKETS[1])
        stray = Path(store.folder) / "undo" / ".00000000000000000002"
        stray.write_bytes(b"half")
        assert len(UndoLog(Path(store.folder), KEEP).entries()) == 1
        assert not stray.exists()


class TestDamage:
    @pytest.fixture
    def path(self, store):
        log = UndoLog(Path(store.folder), KEEP)
        for sequence in (1, 2, 3):
            apply(store, log, sequence, PACKETS[sequence])
        return Path(store.folder) / "undo" / "00000000000000000003"

    def refused(self, store):
        before = contents(store), store.applied
        with pytest.raises(TableFolderError, match=r"00000003: is damaged .* load a checkpoint"):
            back(store, UndoLog(Path(store.folder), KEEP), 2)
        return (contents(store), store.applied) == before

    def test_a_bit(self, store, path):
        data = bytearray(path.read_bytes())
        data[-40] ^= 1
        path.write_bytes(data)
        assert self.refused(store)

    def test_a_cut(self, store, path):
        os.truncate(path, path.stat().st_size - 16)
        assert self.refused(store)

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"x" * 100,
            b"satrapUN" + struct.pack("=II", 2**31, 0),
            b"satrapUN" + struct.pack("=II", 8, 0) + b'{"a": 1}',
            b"satrapUN" + struct.pack("=II", 4, 0) + b"[[[[",
            b"satrapUN" + struct.pack("=II", 13, 0) + b'{"version":1}',
            b"satrapUN"
            + struct.pack("=II", 53, 0)
            + b'{"version":1,"name":"a","sequence":"x","previous":5} ',
        ],
    )
    def test_a_head(self, store, path, head, caplog):
        path.write_bytes(head)
        log = UndoLog(Path(store.folder), KEEP)
        assert log.entries() == [] and "damaged" in caplog.text
        assert "the undo log reaches 3" in back(store, log, 2).stuck


class TestNoSpace:
    def test_the_oldest_go_and_then_nothing_is_begun(self, store, oracle, monkeypatch, caplog):
        log = UndoLog(Path(store.folder), KEEP)
        for sequence in (1, 2, 3):
            apply(store, log, sequence, PACKETS[sequence])
        rename, room = Path.replace, 0

        def full(self, target):
            if len(list(self.parent.glob("0*"))) > room:
                raise OSError(28, "No space left on device", str(self))
            return rename(self, target)

        room = 1
        monkeypatch.setattr(Path, "replace", full)
        log.begin(store, "b", 4, PACKETS[4], SequencePosition(store))
        assert [entry.sequence for entry in log.entries()] == [3, 4]
        assert "cannot be taken back any more" in caplog.text
        log.revert(store, SequencePosition(store))
        room = -1
        with pytest.raises(NoSpaceError, match="No space left"):
            log.begin(store, "b", 4, PACKETS[4], SequencePosition(store))
        monkeypatch.undo()
        assert log.entries() == [] and list((Path(store.folder) / "undo").iterdir()) == []
        assert (contents(store), store.applied) == oracle[3]


class AppliedFiles:
    """PERSIA's applied set, kept in a file by rename as the server's is."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "applied-of-test"

    def _names(self) -> list[str]:
        return self._path.read_text().split() if self._path.exists() else []

    def _write(self, names) -> None:
        unnamed = self._path.with_suffix(".new")
        unnamed.write_text("\n".join(names))
        unnamed.replace(self._path)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def add(self, name: str) -> None:
        self._write([*self._names(), name])

    def discard(self, name: str) -> None:
        self._write([other for other in self._names() if other != name])


def test_files_without_sequences(store):
    """Several of one second, and one that came late: taken back in the order of application."""
    files, log = AppliedFiles(Path(store.folder)), UndoLog(Path(store.folder), KEEP)
    position = FilePosition(store, files)
    states = [(contents(store), store.applied)]
    order = [("a/0.inc", 10), ("a/1.inc", 10), ("b/0.inc", 20), ("late/0.inc", 15)]
    for number, (name, seconds) in enumerate(order):
        parts = [part(4, range(number * 3, number * 3 + 10), float(number))]
        log.begin(store, name, seconds, parts, position)
        table = store.tables[4] if store.tables else store.add_table(4, "float32", 64)
        table.upsert(parts[0].signs, parts[0].rows, seconds)
        files.add(name)
        store.set_applied(max(seconds, store.applied[0]), 0)
        states.append((contents(store), store.applied))
    assert log.reaches(20) == 0
    assert back(store, log, 20, position).undo == ()
    # The late one lies above the one that has to go: it is taken back too, and comes again.
    assert [entry.name for entry in back(store, log, 15, position).undo] == ["late/0.inc", "b/0.inc"]
    assert (contents(store), store.applied) == states[2]
    assert "late/0.inc" not in files and "a/1.inc" in files
    back(store, log, 9, position)
    assert (contents(store), store.applied) == states[0]


STEPS = ["undo_written", "part_written", "watermark_written", "pruned"]
BACK_STEPS = ["undo_stepped_back", "undo_restored", "undo_removed"]


class Killer:
    """Kills its process at the n-th step of a name."""

    def __init__(self, name: str, occurrence: int = 1) -> None:
        self._name, self._left = name, occurrence

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def killed(work) -> bool:
    """Run `work` in a process of its own; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
class TestKills:
    """SIGKILL in the middle, another process takes over: forward and back."""

    def advance(self, folder, to, on_step=lambda name: None):
        """What a server does at a start and then: take back what is unfinished, go to `to`."""
        store = recover(folder)
        log, position = UndoLog(folder, KEEP), SequencePosition(store)
        log.revert(store, position)
        if to < store.applied[0]:
            roll_back(
                store, log, position, plan_rollback(to, log.entries(), store.applied[0], []).undo, on_step
            )
        for sequence in range(store.applied[0] + 1, to + 1):
            apply(store, log, sequence, PACKETS[sequence], on_step=on_step)
        state = contents(store), store.applied
        store.close()
        return state

    @pytest.fixture
    def folder(self, table_directory):
        folder = table_directory / "00000001"
        store = create(folder)
        store.serve()
        store.close()
        return folder

    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("after", [3, 6, 2])
    def test_forward(self, folder, oracle, step, after):
        assert killed(lambda: self.advance(folder, 7, Killer(step, 4)))
        assert self.advance(folder, after) == oracle[after]
        assert self.advance(folder, 7) == oracle[7]

    @pytest.mark.parametrize("step", BACK_STEPS)
    @pytest.mark.parametrize("occurrence", [1, 3])
    @pytest.mark.parametrize("after", [2, 0, 7])
    def test_back(self, folder, oracle, step, occurrence, after):
        """Also where the hold is gone, or another, when the next process starts."""
        self.advance(folder, 7)
        assert killed(lambda: self.advance(folder, 2, Killer(step, occurrence)))
        assert self.advance(folder, after) == oracle[after]
        assert self.advance(folder, 7) == oracle[7]

    @pytest.mark.slow
    def test_anywhere(self, folder, oracle):
        """Cuts at random moments, forth and back, until each walk ends where it should."""
        chance = random.Random(20261121)
        for _ in range(60):
            to = chance.randrange(8)
            seeds = iter(
                chance.random, None
            )  # drawn here: the process that is killed would take its draw along
            while killed(functools.partial(self.advance, folder, to, RandomKiller(next(seeds)))):
                pass
            assert self.advance(folder, to) == oracle[to]


class RandomKiller:
    """Kills at one step in twelve, and after as many by a timer, in the middle of something."""

    def __init__(self, seed: float) -> None:
        self._chance = random.Random(seed)

    def __call__(self, name: str) -> None:
        drawn = self._chance.random()
        if drawn < 1 / 12:
            os.kill(os.getpid(), signal.SIGKILL)
        if drawn < 1 / 6:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(1e-5, 1e-3))


def entry(number, sequence, previous) -> UndoEntry:
    return UndoEntry(number, f"p{number}", sequence, Watermark(previous, 0))


class TestPlan:
    LOG = (entry(1, 5, 4), entry(2, 6, 5), entry(3, 9, 6), entry(4, 10, 9))

    @pytest.mark.parametrize(
        ("to", "undone"),
        [(12, []), (10, []), (9, [4]), (8, [4, 3]), (6, [4, 3]), (5, [4, 3, 2]), (4, [4, 3, 2, 1])],
    )
    def test_undo(self, to, undone):
        assert [one.number for one in plan_rollback(to, self.LOG, 10, [3]).undo] == undone

    def test_further_back(self):
        assert plan_rollback(3, self.LOG, 10, [1, 3, 7]) == Rollback(reload=3)
        assert plan_rollback(3, self.LOG, 10, [7]).stuck.startswith(
            "cannot go back to 3: the undo log reaches 4"
        )

    def test_a_broken_chain_is_not_followed(self):
        log = (self.LOG[0], *self.LOG[2:])  # what 6 changed is not known
        assert plan_rollback(5, log, 10, [2]) == Rollback(reload=2)
        assert [one.number for one in plan_rollback(6, log, 10, [2]).undo] == [4, 3]
        assert plan_rollback(8, self.LOG, 11, []).stuck  # 11 was applied without a record

    def test_nothing(self):
        assert plan_rollback(0, [], 5, []).stuck
        assert plan_rollback(5, [], 5, []) == Rollback()

    @given(
        st.lists(st.integers(0, 30), max_size=12),
        st.integers(0, 30),
        st.integers(0, 40),
        st.sets(st.integers(0, 40)),
    )
    def test_a_plan_ends_at_or_below(self, sequences, start, to, checkpoints):
        """Any order of times, as PERSIA's files have them: what is left is at or below, and no more goes than must."""
        log, watermark = [], start
        for number, sequence in enumerate(sequences, 1):
            log.append(entry(number, sequence, watermark))
            watermark = log[-1].after
        plan = plan_rollback(to, log, watermark, checkpoints)
        assert usable_entries(log, watermark) == log
        if watermark <= to:
            assert plan == Rollback()
        elif start <= to:
            left = log[: len(log) - len(plan.undo)]
            assert list(plan.undo) == log[len(left) :][::-1] and plan.reload is None and not plan.stuck
            assert (left[-1].after if left else start) <= to
            assert plan.undo[-1].after > to
        elif plan.reload is not None:
            assert plan.reload == max(one for one in checkpoints if one <= to)
        else:
            assert plan.stuck and all(one > to for one in checkpoints)
