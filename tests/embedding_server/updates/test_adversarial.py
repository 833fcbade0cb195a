"""What an enemy, or a bad day, does to tables that follow packets: nothing is lost, doubled, or believed by half."""

import errno
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from persia_packets import PersiaTrainer, rows_of

from satrap.config import UpdatesConfig
from satrap.embedding_server import checkpoint_watch
from satrap.embedding_server import state as state_module
from satrap.embedding_server.candidates import Candidate, choose
from satrap.embedding_server.checkpoint_folder import CheckpointFolder
from satrap.embedding_server.checkpoint_watch import CheckpointWatch
from satrap.embedding_server.updates import follower as follower_module
from satrap.embedding_server.updates.decide import Head, Memory, Seen, StreamState, Wait, decide
from satrap.embedding_server.updates.feed import Standing
from satrap.embedding_server.updates.follower import Follower
from satrap.embedding_server.updates.following import Following
from satrap.embedding_server.updates.persia import PersiaSettings
from satrap.embedding_server.updates.persia_feed import PersiaFeed
from satrap.embedding_server.updates.quarantine import Quarantine
from satrap.errors import ConflictError
from satrap.formats.decisions import Hold, Skip, add_skip, remove_hold, write_hold
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.protos import embedding_pb2 as pb
from satrap.storage import open_storage

SIGNS = list(range(100, 120))


class TestPersiaDirectoriesThatGo:
    """A trainer, or a cron job, removes old directories, whose rows stay."""

    @pytest.fixture
    def trainer(self, tmp_path) -> PersiaTrainer:
        (tmp_path / "packets").mkdir()
        return PersiaTrainer(tmp_path / "packets")

    def publish(self, trainer: PersiaTrainer, second: int, sign: int) -> None:
        directory = f"s0/inc_{second}"
        trainer.write(directory, "0_0.inc", rows_of([sign], float(second)), second)
        trainer.mark(directory)

    def now(self, server) -> pb.UpdateStatus:
        server.stub.FollowNow(pb.FollowNowRequest(), timeout=30)
        return server.status().updates

    def values(self, server) -> dict[int, float]:
        rows = np.frombuffer(server.lookup((4, SIGNS)).groups[0].rows, np.float32).reshape(-1, 4)
        return {sign: float(row[0]) for sign, row in zip(SIGNS, rows, strict=True) if row.any()}

    def test_rows_of_the_last_packet_stay_when_its_directory_goes(self, serve, trainer):
        server = serve(packets=str(trainer.root), updates=UpdatesConfig(poll_seconds=0.05))
        self.publish(trainer, 1000, 100)
        assert self.now(server).applied_packets == 1 and self.values(server) == {100: 1000}
        trainer.write("s0/inc_2000", "0_0.inc", rows_of([101], 2000.0), 2000)  # begun
        shutil.rmtree(trainer.root / "s0/inc_1000")
        self.now(server)
        trainer.mark("s0/inc_2000")
        assert self.now(server).applied_packets == 2
        assert self.values(server) == {100: 1000, 101: 2000}

    def test_also_after_a_restart(self, serve, trainer, table_directory):
        settings = {
            "packets": str(trainer.root),
            "updates": UpdatesConfig(poll_seconds=0.05),
            "table_directory": table_directory,
        }
        server = serve(**settings)
        self.publish(trainer, 1000, 100)
        self.now(server)
        trainer.write("s0/inc_2000", "0_0.inc", rows_of([101], 2000.0), 2000)
        shutil.rmtree(trainer.root / "s0/inc_1000")
        self.now(server)
        server.close()
        server = serve(**settings)
        assert self.now(server) and self.values(server) == {100: 1000}

    def test_also_when_what_came_after_it_is_taken_back(self, serve, trainer):
        server = serve(packets=str(trainer.root), updates=UpdatesConfig(poll_seconds=0.05))
        self.publish(trainer, 1000, 100)
        self.now(server)
        self.publish(trainer, 2000, 101)
        self.now(server)
        shutil.rmtree(trainer.root / "s0/inc_1000")
        self.now(server)
        storage = open_storage(trainer.root)
        write_hold(storage, Hold("persia", 1500, "me", "bad", 1))
        assert self.now(server).applied_sequence == 1000
        assert self.values(server) == {100: 1000}
        remove_hold(storage, "persia")
        self.now(server)
        assert self.values(server) == {100: 1000, 101: 2000}


class TestHoldsAndCheckpoints:
    """What must not be served any more is known while a checkpoint that has it is on its way in."""

    @pytest.mark.parametrize("switch", ["beside", "in_place"])
    def test_a_hold_that_appears_while_a_checkpoint_is_loaded(
        self, packets, shard_state, write_ours, tmp_path, monkeypatch, switch
    ):
        folder = tmp_path / "checkpoints"
        signs = packets.signs

        def checkpoint(sequence: int) -> None:
            rows = np.full((len(signs), 4), sequence, np.float32)
            write_ours(folder / f"c{sequence}", {4: (signs, rows)}, sequence, stream="main")

        def value() -> set[float]:
            found = np.empty((len(signs), 4), np.float32)
            assert state.generation().tables[4].lookup(signs, found) == 0
            return set(found.ravel().tolist())

        checkpoint(4)
        state = shard_state(checkpoint_switch=switch)
        storage = open_storage(packets.directory)
        follower = Follower(state, Following(storage, UpdatesConfig()), Quarantine(tmp_path / "quarantine"))
        state.holds = lambda: follower.holds
        state.start(folder, lambda progress: None, threading.Event(), follower.catch_up)
        packets.last = 4
        packets.publish(2)
        follower.catch_up(state.target())
        assert value() == {6}
        checkpoint(8)

        def chosen(*arguments: object) -> Candidate | None:
            found = choose(*arguments)
            write_hold(storage, Hold("main", 6, "me", "bad", 1))
            if switch == "in_place":  # what there is already is not kept aside, so it has to be known
                follower.read_holds()
            return found

        monkeypatch.setattr(checkpoint_watch, "choose", chosen)
        candidates = CheckpointFolder(folder, state.checkpoints)
        watch = CheckpointWatch(candidates, state, poll_seconds=60, catch_up=follower.catch_up)
        if switch == "beside":
            with pytest.raises(ConflictError, match="held at 6"):
                watch.look()
        else:
            assert not watch.look()
        assert value() == {6} and state.applied()[0] == 6
        follower.read_holds()
        assert not watch.look() and value() == {6}
        remove_hold(storage, "main")
        follower.read_holds()
        monkeypatch.undo()
        assert watch.look() and value() == {8}  # nothing was wrong with it

    def test_in_place_never_goes_back_by_itself(
        self, packets, shard_state, write_ours, tmp_path, monkeypatch
    ):
        """Packets go on while a checkpoint is verified, and pass it."""
        folder = tmp_path / "checkpoints"

        def checkpoint(sequence: int) -> None:
            rows = np.full((len(packets.signs), 4), sequence, np.float32)
            write_ours(folder / f"c{sequence}", {4: (packets.signs, rows)}, sequence, stream="main")

        checkpoint(4)
        state = shard_state(checkpoint_switch="in_place")
        following = Following(open_storage(packets.directory), UpdatesConfig())
        follower = Follower(state, following, Quarantine(tmp_path / "quarantine"))
        state.start(folder, lambda progress: None, threading.Event(), follower.catch_up)
        packets.last = 4
        checkpoint(6)
        verify = state_module.verify

        def verified(*arguments):
            packets.publish(3)
            follower.catch_up(state.target())
            return verify(*arguments)

        monkeypatch.setattr(state_module, "verify", verified)
        candidates = CheckpointFolder(folder, state.checkpoints)
        watch = CheckpointWatch(candidates, state, poll_seconds=60, catch_up=follower.catch_up)
        with pytest.raises(ConflictError, match="reaches 6, and what is served is at 7"):
            watch.look()
        assert state.applied()[0] == 7 and state.target() is not None
        assert not watch.look()

    def test_what_was_put_in_place_when_the_server_died_is_not_gone_on_with(
        self, shard_state, write_ours, tmp_path, monkeypatch
    ):
        folder = tmp_path / "checkpoints"
        for sequence in (4, 8):
            rows = np.full((3, 4), sequence, np.float32)
            write_ours(folder / f"c{sequence}", {4: (np.arange(3, dtype=np.uint64), rows)}, sequence)
        state = shard_state(checkpoint_switch="in_place")
        state.start(folder / "c4", lambda progress: None, threading.Event())
        with monkeypatch.context() as patch:
            patch.setattr(state_module, "replace_rows", lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                state.load(folder / "c8", lambda progress: None, threading.Event())
        state = shard_state(checkpoint_switch="in_place")
        state.holds = lambda: {"ads": 6}
        state.start(folder, lambda progress: None, threading.Event())
        assert state.applied()[0] == 4 and state.snapshot.started.startswith("cold: ")

    @pytest.mark.parametrize("switch", ["beside", "in_place"])
    def test_a_checkpoint_comes_before_the_packets_that_it_replaces(
        self, following, packets, write_ours, tmp_path, switch
    ):
        """Whoever releases a hold must not see for a moment what it was there for."""

        def checkpoint(sequence: int) -> Path:
            rows = np.full((len(packets.signs), 4), sequence, np.float32)
            folder = tmp_path / "checkpoints" / f"c{sequence}"
            write_ours(folder, {4: (packets.signs, rows)}, sequence, stream="main")
            return folder

        checkpoint(2)
        packets.last = 2
        packets.publish(4)
        # What polls is the follower; checkpoints are looked for when they have to be.
        config = {"checkpoint_switch": switch, "poll_seconds": 30.0}
        server = following(config, checkpoint=tmp_path / "checkpoints")
        assert server.follow_until(lambda status: status.applied_sequence == 6)
        storage = open_storage(packets.directory)
        write_hold(storage, Hold("main", 4, "me", "bad", 1))
        before = server.follow_until(lambda status: status.applied_sequence == 4)
        bad = checkpoint(8)
        path = max(bad.glob("*.arrow"))
        path.write_bytes(path.read_bytes()[:-1])
        checkpoint(7)
        remove_hold(storage, "main")
        after = server.follow_until(lambda status: status.applied_sequence > 4)
        assert after.applied_sequence == 7 and server.value() == 7
        assert after.applied_packets == before.applied_packets  # none of those that were held back

    def test_without_one_packets_go_on(self, following, packets, write_ours, tmp_path):
        rows = np.full((len(packets.signs), 4), 2, np.float32)
        write_ours(tmp_path / "checkpoints" / "c2", {4: (packets.signs, rows)}, 2, stream="main")
        packets.last = 2
        packets.publish(4)
        server = following(checkpoint=tmp_path / "checkpoints")
        server.follow_until(lambda status: status.applied_sequence == 6)
        storage = open_storage(packets.directory)
        write_hold(storage, Hold("main", 4, "me", "bad", 1))
        server.follow_until(lambda status: status.applied_sequence == 4)
        write_hold(storage, Hold("main", 5, "me", "better", 2))  # in part
        server.follow_until(lambda status: status.applied_sequence == 5)
        remove_hold(storage, "main")
        server.follow_until(lambda status: status.applied_sequence == 6)


class TestOneSequenceTwice:
    """Another writer has the sequence of what is in the tables, and the first one is not there to tell."""

    def test_the_one_that_is_in_the_tables_was_removed(self, packets, following):
        packets.publish(2)
        server = following()
        for path in packets.directory.glob(f"{2:020d}-*"):
            path.unlink()
        packets.put(packets.files(2, writer="other", parts=packets.parts(7)))
        packets.put(packets.files(3, writer="other", parts=[]))
        status = server.follow()
        assert status.applied_sequence == 2 and server.codes() == ["forked_stream"]
        assert f"({2:020d}-w.json is in the tables)" in status.alarms[0].message
        add_skip(open_storage(packets.directory), "main", Skip(2, "anna", "both are fine", 1))
        assert server.follow().applied_sequence == 3 and not server.codes()

    def test_what_cannot_be_read_was_passed_over(self, packets, following):
        packets.publish()
        server = following({"quarantine": "skip"})
        packets.put({f"{2:020d}-x.json": b"{"})
        server.follow_until(lambda status: status.applied_sequence == 2)
        packets.publish()  # the real one
        assert server.follow().applied_sequence == 2 and server.codes() == ["forked_stream"]


class TestAnUndoFileThatIsDamaged:
    def test_the_last_one_and_those_before_it_are_not_taken_for_later_ones(self, packets, following):
        packets.publish(4)
        server = following(table_directory=packets.directory.parent / "tables")
        folder = Path(server.server.status().table_path) / "undo"
        server.server.close()
        (folder / f"{4:020d}").write_bytes(b"cut")
        server = following(table_directory=packets.directory.parent / "tables")
        packets.publish()
        server.follow()
        server.server.close()
        server = following(table_directory=packets.directory.parent / "tables")
        assert server.follow().undo_reaches == 4
        write_hold(open_storage(packets.directory), Hold("main", 4, "me", "bad", 1))
        assert server.follow().applied_sequence == 4 and server.value() == 4


class TestTheFollowersThread:
    def test_outlives_what_fails_after_a_look(self, packets, shard_state, tmp_path, monkeypatch):
        """A mount that answers a listing, and is stale when it is asked whether the directory is there."""
        state = shard_state()
        state.start(None, lambda progress: None, threading.Event())
        following = Following(open_storage(packets.directory), UpdatesConfig(poll_seconds=0.01))
        follower = Follower(state, following, Quarantine(tmp_path / "quarantine"))
        is_dir, failures = Path.is_dir, []

        def stale(path: Path) -> bool:
            if path == packets.directory and not failures and threading.current_thread().name == "follower":
                failures.append(path)
                raise OSError(errno.ESTALE, "Stale file handle")
            return is_dir(path)

        monkeypatch.setattr(follower_module.FolderWatch, "watch", lambda watch, folders: None)
        monkeypatch.setattr(Path, "is_dir", stale)
        follower.start()
        packets.publish()
        try:
            while follower.status.applied < 1:
                assert follower._thread.is_alive()
                follower.follow_now(1)
        finally:
            follower.stop()
        assert failures


class TestNamesThatLeadAstray:
    @pytest.mark.parametrize("target", ["/etc/hostname", "00000000000000000001-link.json", "nowhere"])
    def test_a_link_under_an_old_name_stops_nothing(self, packets, following, target):
        packets.publish(3)
        server = following()
        (packets.directory / "00000000000000000001-link.json").symlink_to(target)
        server.follow()
        packets.publish()
        assert server.follow().applied_sequence == 4 and not server.codes()

    @pytest.mark.parametrize("target", ["/etc/hostname", "00000000000000000009-link.json", "nowhere"])
    def test_nor_under_a_later_one(self, packets, following, target):
        packets.publish(3)
        server = following()
        (packets.directory / "00000000000000000009-link.json").symlink_to(target)
        server.follow()
        packets.publish()
        assert server.follow_until(lambda status: status.applied_sequence == 4)


class TestClocksThatAreSetBack:
    HOUR = 3600 * 10**9

    def test_the_alarm_of_a_gap_comes_all_the_same(self):
        state = StreamState(applied=1, stream="main", gap_alarm_ns=10**9)
        listing = [Seen("3-w", 3, Head("main", 2))]
        decision = decide(state, listing, Memory(), 2 * self.HOUR)
        decision = decide(state, listing, decision.memory, self.HOUR)
        assert decision.steps == (Wait(self.HOUR + 10**9),)
        decision = decide(state, listing, decision.memory, self.HOUR + 10**9)
        assert [alarm.code for alarm in decision.alarms] == ["gap"]

    def test_a_directory_without_a_marker_rests_no_longer(self, tmp_path):
        trainer = PersiaTrainer(tmp_path / "packets")
        path = trainer.write("s0/inc_1", "0_0.inc", rows_of([1], 1.0), 1000)
        now = path.stat().st_mtime_ns + self.HOUR
        (tmp_path / "generation").mkdir()
        settings = PersiaSettings(unmarked_ns=60 * 10**9)
        feed = PersiaFeed(open_storage(trainer.root), ShardRoute(), settings, tmp_path / "generation")
        trainer.write("s0/inc_1", "0_1.inc", rows_of([2], 1.0), 1000)
        for at in (now, now - self.HOUR, now - self.HOUR + 60 * 10**9):
            feed.list(0, at)
        decision = feed.decide(Standing(0), now - self.HOUR + 60 * 10**9)
        assert [step.name for step in decision.steps] == ["s0/inc_1/0_0.inc", "s0/inc_1/0_1.inc"]
