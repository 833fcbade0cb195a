"""A folder of checkpoints: what is loaded at the start and while serving, what is passed over, and restarts."""

import shutil
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from satrap.config import UpdatesConfig
from satrap.embedding_server import room
from satrap.embedding_server import state as state_module
from satrap.embedding_server.checkpoint_folder import CheckpointFolder
from satrap.embedding_server.checkpoint_watch import CheckpointWatch
from satrap.embedding_server.loading import LoadProgress
from satrap.embedding_server.room import Room
from satrap.errors import CheckpointError, CheckpointIncompleteError, NoSpaceError, StorageError
from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.formats.manifest import manifest_name
from satrap.formats.packet import PacketContent, publish_packet
from satrap.storage import open_storage
from satrap.trainer import write_persia_checkpoint

NEVER = threading.Event()
SIGNS = np.arange(2000, dtype=np.uint64)
DIM = 4


def ignore(_: LoadProgress) -> None:
    """Nobody watches."""


def rows(value: float) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    return {DIM: (SIGNS, np.full((len(SIGNS), DIM), value, np.float32))}


@pytest.fixture
def add(write_ours, tmp_path):
    """add(sequence, ...) -> a checkpoint in the folder whose rows all hold its sequence; appears whole."""
    moment = iter(range(1, 10**6))

    def checkpoint(sequence: int, name: str = "", value: float | None = None, **options: object) -> Path:
        name = name or f"c{sequence}"
        begun, whole = tmp_path / "begun" / name, tmp_path / "checkpoints" / name
        options.setdefault("published_ns", next(moment))
        write_ours(begun, rows(sequence if value is None else value), sequence, **options)
        whole.parent.mkdir(exist_ok=True)
        begun.rename(whole)
        return whole

    (tmp_path / "checkpoints").mkdir()
    return checkpoint


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def flip(checkpoint: Path) -> None:
    """A bit of a row."""
    path = next(checkpoint.glob("*.arrow"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def value_of(state) -> float:
    """The one value that all rows have."""
    found = np.empty((len(SIGNS), DIM), np.float32)
    assert state.generation().tables[DIM].lookup(SIGNS, found) == 0
    (value,) = set(found.ravel())
    return float(value)


class TestStart:
    def test_the_newest(self, shard_state, add, folder):
        for sequence in (3, 12, 7):
            add(sequence)
        state = shard_state()
        assert state.start(folder, ignore, NEVER).checkpoint == str(folder / "c12")
        assert value_of(state) == 12 and state.applied() == (12, 0)

    def test_a_bad_one_is_passed_over(self, shard_state, add, folder, caplog):
        add(3)
        flip(add(7))
        next(add(12).glob("*.arrow")).unlink()
        state = shard_state()
        state.start(folder, ignore, NEVER)
        assert value_of(state) == 3
        assert sum("passed over" in record.message for record in caplog.records) == 2

    def test_all_are_bad(self, shard_state, add, folder):
        flip(add(7))
        with pytest.raises(Exception, match="checksum"):
            shard_state().start(folder, ignore, NEVER)

    def test_none_is_there_yet(self, shard_state, add, folder, caplog):
        state = shard_state()
        assert state.start(folder, ignore, NEVER).tables == {}
        assert "holds no checkpoint yet" in caplog.text
        add(3)
        state = shard_state()
        state.start(folder, ignore, NEVER)
        assert state.snapshot.started == "warm"

    def test_a_hold(self, shard_state, add, folder):
        add(3)
        add(12)
        state = shard_state()
        state.holds = lambda: {"ads": 11}
        state.start(folder, ignore, NEVER)
        assert value_of(state) == 3

    @pytest.mark.parametrize("named", ["", "c12"])
    def test_all_are_beyond_a_hold(self, shard_state, add, folder, named):
        add(12)
        state = shard_state()
        state.holds = lambda: {"ads": 11}
        with pytest.raises(CheckpointError, match="it reaches 12, and stream ads is held at 11"):
            state.start(folder / named, ignore, NEVER)

    def test_no_such_folder(self, shard_state, tmp_path):
        with pytest.raises(CheckpointIncompleteError, match="no such directory"):
            shard_state().start(tmp_path / "nowhere", ignore, NEVER)


class TestWarmStart:
    @pytest.fixture
    def again(self, shard_state, add, folder):
        """A server was started with the folder and 7 in it."""
        add(7)
        shard_state().start(folder, ignore, NEVER)
        return shard_state

    @pytest.mark.parametrize("named", ["", "c7", None])
    def test_the_same(self, again, folder, named):
        state = again()
        state.start(None if named is None else folder / named, ignore, NEVER)
        assert state.snapshot.started == "warm"

    def test_a_newer_one_came(self, again, add, folder):
        """It is loaded while the tables that are there are served."""
        add(12)
        state = again()
        state.start(folder, ignore, NEVER)
        assert state.snapshot.started == "warm" and value_of(state) == 7
        watch = CheckpointWatch(CheckpointFolder(folder, state.checkpoints), state, poll_seconds=60)
        assert watch.look() and value_of(state) == 12

    def test_the_loaded_one_is_gone(self, again, folder):
        shutil.rmtree(folder / "c7")
        state = again()
        state.start(folder, ignore, NEVER)
        assert state.snapshot.started == "warm" and value_of(state) == 7

    def test_a_member_is_named_and_then_the_folder(self, again, shard_state, add, folder):
        add(9)
        state = shard_state()
        state.start(folder / "c9", ignore, NEVER)
        assert state.snapshot.started.startswith("cold: ")
        state = shard_state()
        state.start(folder, ignore, NEVER)
        assert state.snapshot.started == "warm" and value_of(state) == 9

    def test_another_folder(self, again, write_ours, tmp_path):
        write_ours(tmp_path / "others" / "c", rows(1), 1)
        state = again()
        state.start(tmp_path / "others", ignore, NEVER)
        assert state.snapshot.started.startswith("cold: ") and value_of(state) == 1


@pytest.fixture
def watched(shard_state, add, folder):
    """watched(...) -> (state, watch): 7 is served."""
    add(7)
    state = shard_state()
    state.start(folder, ignore, NEVER)

    def make(**options: object) -> CheckpointWatch:
        found = CheckpointFolder(folder, state.checkpoints)
        return CheckpointWatch(found, state, poll_seconds=60, **options)

    return state, make


class TestLook:
    def test_what_is_not_better_is_left_alone(self, watched, add):
        state, make = watched
        add(5)
        state.target().store.set_applied(20, 0)
        add(20)
        before = state.generation()
        assert not make().look() and state.generation() is before
        add(21)
        assert make().look() and value_of(state) == 21

    def test_a_bad_one_and_then_the_next(self, watched, add, caplog):
        state, make = watched
        add(8)
        flip(add(9))
        changed = []
        watch = make(on_change=lambda: changed.append(1))
        assert watch.look() and value_of(state) == 8
        assert "c9 cannot be loaded, and is passed over" in caplog.text
        (alarm,) = watch.alarms
        assert alarm.code == "checkpoint" and "c9" in alarm.message and changed
        caplog.clear()
        assert not watch.look() and not caplog.records  # told once

    def test_another_stream(self, watched, add):
        state, make = watched
        state.target().store.set_applied(1000, 0)
        add(2, stream="new")
        assert make().look()
        assert state.generation().origin.stream == "new" and state.applied() == (2, 0)

    def test_a_hold(self, watched, add, folder):
        state, make = watched
        add(9)
        add(12)
        state.holds = lambda: {"ads": 10}
        assert make().look() and value_of(state) == 9
        with pytest.raises(CheckpointError, match="held at 10"):
            state.load(folder / "c12", ignore, NEVER)
        assert value_of(state) == 9

    def test_back_behind_a_hold(self, watched, add):
        """What is served is beyond it, and the undo log does not reach."""
        state, make = watched
        add(9)
        add(12)
        watch = make()
        watch.look()
        assert sorted(watch.sequences()) == [7, 9, 12] and value_of(state) == 12
        watch.reload(10)
        assert watch.look() and value_of(state) == 9 and state.applied() == (9, 0)
        assert watch.look() and value_of(state) == 12  # nobody holds it any more

    def test_a_single_one_behind_a_hold(self, shard_state, add):
        """It is loaded again because a hold needs it, and not by itself."""
        path = add(9)
        state = shard_state()
        state.start(path, ignore, NEVER)
        state.target().table_for(DIM).upsert(SIGNS, np.full((len(SIGNS), DIM), 15, np.float32), 15)
        state.target().store.set_applied(15, 0)
        watch = CheckpointWatch(CheckpointFolder(path, state.checkpoints), state, poll_seconds=60)
        assert not watch.look() and watch.sequences() == [9]
        watch.reload(9)
        assert watch.look() and value_of(state) == 9
        assert not watch.look()
        shutil.rmtree(path)
        add(20, name=path.name)
        assert not watch.look() and value_of(state) == 9

    def test_what_somebody_named_stays(self, watched, add, shard_state, folder):
        """Until there is a newer one than there was then; a restart changes nothing about that."""
        state, make = watched
        for sequence in (9, 12):
            add(sequence)
        watch = make()
        watch.look()
        state.load(folder / "c9", ignore, NEVER)
        assert not watch.look() and value_of(state) == 9
        state = shard_state()
        state.start(folder, ignore, NEVER)
        watch = CheckpointWatch(CheckpointFolder(folder, state.checkpoints), state, poll_seconds=60)
        assert state.snapshot.started == "warm" and not watch.look() and value_of(state) == 9
        add(13)
        assert watch.look() and value_of(state) == 13

    def test_not_to_fewer_packets(self, watched, add):
        """What follows the checkpoint is not there any more: the tables in use are better."""
        state, make = watched
        add(9)

        def catch_up(target) -> None:
            state.target().store.set_applied(15, 0)  # meanwhile
            target.store.set_applied(11, 0)

        watch = make(catch_up=catch_up)
        with pytest.raises(StorageError, match="up to 11 only, and what is served is at 15"):
            watch.look()
        assert value_of(state) == 7 and state.applied() == (15, 0)

    def test_persias_packets_may_be_gone(self, shard_state, folder, add):
        """A later checkpoint contains them, though its watermark is a margin before it was written."""
        write_persia_checkpoint(folder / "p1", rows(1), num_shards=1)
        state = shard_state()
        state.start(folder, ignore, NEVER)
        write_persia_checkpoint(folder / "p2", rows(2), num_shards=1)
        watch = CheckpointWatch(CheckpointFolder(folder, state.checkpoints), state, poll_seconds=60)
        written = state.generation().origin.published_ns // 10**9
        state.target().store.set_applied(written, 0)
        assert watch.look() and value_of(state) == 2
        assert state.applied()[0] < written

    def test_no_room(self, watched, add, monkeypatch):
        state, make = watched
        add(9)
        watch = make()
        with monkeypatch.context() as patch:
            patch.setattr(room, "present_room", lambda folder: (Room("the machine", 5, "buy more"),))
            with pytest.raises(NoSpaceError):
                watch.look()
            assert watch._round() > 0
            (alarm,) = watch.alarms
            assert alarm.code == "no_room" and "has room for 5; buy more" in alarm.message
            assert value_of(state) == 7
        watch._round()
        assert value_of(state) == 9 and watch.alarms == ()

    def test_what_is_half_changed_is_replaced(self, shard_state, add, folder, monkeypatch):
        add(7)
        state = shard_state(checkpoint_switch="in_place")
        state.start(folder, ignore, NEVER)
        watch = CheckpointWatch(CheckpointFolder(folder, state.checkpoints), state, poll_seconds=60)
        bad = add(9)
        add(8)
        real = state_module.clear_records
        with monkeypatch.context() as patch:
            patch.setattr(state_module, "clear_records", lambda target: (real(target), flip(bad)))
            with pytest.raises(Exception, match=r"not there|checksum"):
                state.load(bad, ignore, NEVER)
        assert state.target() is None
        assert watch.look()
        assert value_of(state) == 8 and state.applied() == (8, 0)


@pytest.mark.slow
class TestServer:
    """The real server, with the watch's own thread."""

    @pytest.fixture
    def start(self, serve, folder, table_directory):
        def server(**options: object):
            updates = UpdatesConfig(poll_seconds=0.05, **options.pop("updates", {}))
            options.setdefault("checkpoint", folder)
            return serve(table_directory=table_directory, updates=updates, **options)

        return server

    def wait(self, server, checkpoint: str) -> float:
        """Until it serves that checkpoint; the one value of its rows."""
        for _ in range(600):
            status = server.status()
            if status.checkpoint == checkpoint:
                break
            NEVER.wait(0.05)
        assert status.checkpoint == checkpoint
        (group,) = server.lookup((DIM, SIGNS)).groups
        (value,) = set(np.frombuffer(group.rows, np.float32))
        return float(value)

    @pytest.mark.parametrize("switch", ["beside", "in_place"])
    def test_checkpoints_that_appear(self, start, add, folder, switch):
        add(1)
        server = start(updates={"checkpoint_switch": switch})
        instance = server.status().instance_id
        for sequence in (3, 8):
            path = add(sequence)
            assert self.wait(server, str(path)) == sequence
        assert (server.status().instance_id == instance) == (switch == "in_place")

    def test_one_of_persias_after_another(self, start, folder, tmp_path):
        for value in (1, 2):
            path = folder.parent / f"p{value}"
            write_persia_checkpoint(path, rows(value), num_shards=2)
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
            if value == 1:
                server = start()
            assert self.wait(server, str(folder / path.name)) == value

    def test_a_lower_one_that_is_named(self, start, add):
        add(9)
        server = start()
        lower = add(5)
        assert server.load(lower)[-1].done
        NEVER.wait(0.3)  # some polls
        assert self.wait(server, str(lower)) == 5
        newer = add(10)
        assert self.wait(server, str(newer)) == 10

    def test_while_packets_are_followed(self, start, add, tmp_path):
        """The checkpoint beside is brought up to what is served: no packet is lost in the switch."""
        packets = open_storage(str(tmp_path / "packets"))
        (tmp_path / "packets").mkdir()
        add(1)

        def publish(sequence: int) -> None:
            part = PacketContent(DIM, SIGNS[:3], np.full((3, DIM), 100 + sequence, np.float32))
            publish_packet(
                packets, stream="ads", writer="w", sequence=sequence, previous=sequence - 1, parts=[part]
            )

        server = start(packets=str(tmp_path / "packets"))
        for sequence in range(2, 30):
            publish(sequence)
            if sequence == 10:
                add(9, name="c9")
            if sequence == 20:
                packets.remove(manifest_name(2, "w"))
        for _ in range(400):
            if server.status().updates.applied_sequence == 29:
                break
            NEVER.wait(0.05)
        (group,) = server.lookup((DIM, SIGNS[:3])).groups
        assert set(np.frombuffer(group.rows, np.float32)) == {129}
        # a jump over packets that are missing, which is what ends a gap
        publish_packet(packets, stream="ads", writer="w", sequence=40, previous=39, parts=[])
        path = add(39)
        self.wait(server, str(path))
        for _ in range(400):
            if server.status().updates.applied_sequence == 40:
                break
            NEVER.wait(0.05)
        assert server.status().updates.applied_sequence == 40

    @pytest.mark.parametrize("switch", ["beside", "in_place"])
    @pytest.mark.parametrize("single", [True, False])
    def test_back_behind_a_hold_and_forward_again(self, start, add, tmp_path, folder, switch, single):
        """The undo log reaches two packets: a checkpoint and the packets after it are what is left."""
        location = tmp_path / "packets"
        location.mkdir()
        packets = open_storage(str(location))
        signs = np.append(SIGNS[:3], np.uint64(10**6))
        for sequence in range(2, 30):
            part = PacketContent(DIM, signs, np.full((4, DIM), 100 + sequence, np.float32))
            publish_packet(
                packets, stream="ads", writer="w", sequence=sequence, previous=sequence - 1, parts=[part]
            )
        path = add(1)
        updates = {"undo_packets": 2, "checkpoint_switch": switch}
        server = start(packets=str(location), updates=updates, checkpoint=path if single else folder)

        def settle(sequence: int) -> None:
            for _ in range(400):
                if server.status().updates.applied_sequence == sequence:
                    break
                NEVER.wait(0.05)
            status = server.status()
            assert status.updates.applied_sequence == sequence
            (group,) = server.lookup((DIM, signs)).groups
            assert group.missing == 0
            assert set(np.frombuffer(group.rows, np.float32)) == {100 + sequence}

        settle(29)
        write_hold(packets, Hold("ads", 10, "test", "bad rows", 1))
        settle(10)
        assert "no_room" not in {alarm.code for alarm in server.status().updates.alarms}
        server.close()
        server = start(packets=str(location), updates=updates, checkpoint=path if single else folder)
        settle(10)
        assert server.status().started == "warm"
        remove_hold(packets, "ads")
        settle(29)

    def test_a_bad_path(self, start, add, refused, tmp_path, folder):
        add(9)
        server = start()
        code, details = refused(lambda: server.load(tmp_path / "nowhere"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "no such directory" in details
        code, details = refused(lambda: server.load(folder))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "name one of them" in details
