"""PERSIA's packets from a real directory: what is read, what is believed, and the list of applied files."""

import json
import logging
import os
import shutil
import time

import numpy as np
import pytest
from persia_packets import PersiaTrainer, inc_bytes, rows_of

import satrap.embedding_server.updates.persia_ledger as module
from satrap.embedding_server.updates.decide import Apply, PassOver, Refuse, RollBack
from satrap.embedding_server.updates.feed import Standing
from satrap.embedding_server.updates.persia import PersiaSettings, Settled
from satrap.embedding_server.updates.persia_feed import PersiaFeed
from satrap.embedding_server.updates.persia_ledger import AppliedFiles
from satrap.errors import GuardrailError, MissingFileError, StorageError, TableFolderError, TruncatedFileError
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_packet import PersiaFile
from satrap.storage import open_storage

SECOND = 1_000_000_000


@pytest.fixture
def trainer(tmp_path):
    return PersiaTrainer(tmp_path / "packets")


@pytest.fixture
def feed_of(tmp_path):
    def feed(root, *, route=ShardRoute(), name="generation", poll_seconds=0.0, **settings) -> PersiaFeed:  # noqa: B008
        (tmp_path / name).mkdir(exist_ok=True)
        return PersiaFeed(
            open_storage(str(root)), route, PersiaSettings(**settings), tmp_path / name, poll_seconds
        )

    return feed


def settled(name: str, unix_seconds: int) -> Settled:
    return Settled(PersiaFile(name, 30, 7), unix_seconds, "xxh3_64:00")


def look(feed: PersiaFeed, now_ns: int | None = None, **standing: object):
    now_ns = time.time_ns() if now_ns is None else now_ns
    feed.list(0, now_ns)
    return feed.decide(Standing(**{"applied": 0, **standing}), now_ns)


def names(decision, kind=Apply) -> list[str]:
    return [step.name for step in decision.steps if isinstance(step, kind)]


def apply_all(feed: PersiaFeed, now_ns: int | None = None) -> list[str]:
    applied = []
    while todo := names(look(feed, now_ns)):
        for name in todo:
            feed.fetch(name)
            feed.applied([name])
        applied += todo
    return applied


class TestFetch:
    def test_a_packet(self, trainer, feed_of):
        path = trainer.write("s0/inc_a", "0_0.inc", [*rows_of([1, 2], 3.0), *rows_of([9], 1.0, dim=2)], 100)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        assert names(look(feed)) == ["s0/inc_a/0_0.inc"]
        packet = feed.fetch("s0/inc_a/0_0.inc")
        assert (packet.stream, packet.sequence, packet.ordinal) == ("persia", 100, 100)
        assert packet.newest_event_ns == packet.oldest_event_ns == 100 * SECOND
        assert packet.published_ns == max(
            path.stat().st_mtime_ns, (path.parent / "inc_update_done").stat().st_mtime_ns
        )
        assert [(part.dim, part.signs.tolist()) for part in packet.parts] == [(2, [9]), (4, [1, 2])]
        assert packet.parts[1].rows.tolist() == [[3.0] * 4] * 2

    def test_shards_share_it(self, trainer, feed_of):
        trainer.write("s0/inc_a", "0_0.inc", rows_of(range(60), 3.0), 100)
        trainer.mark("s0/inc_a")
        signs = []
        for index in range(3):
            feed = feed_of(trainer.root, route=ShardRoute(index, 3), name=f"generation{index}")
            (name,) = names(look(feed))
            signs += [sign for part in feed.fetch(name).parts for sign in part.signs.tolist()]
        assert sorted(signs) == list(range(60))

    def test_read_once_if_it_is_fetched_soon_and_again_if_not(self, trainer, feed_of):
        path = trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 3.0), 100)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        (name,) = names(look(feed))
        path.chmod(0)
        first = feed.fetch(name)
        path.chmod(0o600)
        again = feed.fetch(name)
        assert first.parts[0].rows.tobytes() == again.parts[0].rows.tobytes()

    def test_changed_or_gone_between_look_and_fetch(self, trainer, feed_of):
        path = trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 3.0), 100)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        (name,) = names(look(feed))
        feed.fetch(name)
        path.write_bytes(inc_bytes(rows_of([1, 2], 4.0), 101))
        with pytest.raises(TruncatedFileError) as caught:
            feed.fetch(name)
        assert not feed.failed(name, caught.value, time.time_ns())
        path.write_bytes(inc_bytes(rows_of([1], 5.0), 101))  # of the old size
        (name,) = names(look(feed))
        assert feed.fetch(name).sequence == 101
        path.unlink()
        with pytest.raises(MissingFileError) as missing:
            feed.fetch(name)
        assert not feed.failed(name, missing.value, time.time_ns())
        with pytest.raises(MissingFileError):
            feed.fetch(name)
        assert names(look(feed)) == []


class TestBadFiles:
    def test_a_link_that_leads_out(self, trainer, feed_of, tmp_path):
        (tmp_path / "secret").write_bytes(inc_bytes(rows_of([1], 1.0), 50))
        trainer.mark("s0/inc_a")
        (trainer.root / "s0/inc_a/0_0.inc").symlink_to(tmp_path / "secret")
        feed = feed_of(trainer.root)
        assert [names(look(feed), Refuse), names(look(feed), Refuse)] == [[], []]
        decision = look(feed)
        assert names(decision) == [] and names(decision, Refuse) == ["s0/inc_a/0_0.inc"]
        assert decision.steps[0].error.code == "path_escape"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_permission_denied(self, trainer, feed_of):
        path = trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        trainer.mark("s0/inc_a")
        path.chmod(0)
        feed = feed_of(trainer.root)
        assert [alarm.code for alarm in look(feed).alarms] == ["storage"]
        path.chmod(0o600)
        assert apply_all(feed) == ["s0/inc_a/0_0.inc"]

    def test_a_file_that_cannot_be_read_is_read_again(self, trainer, feed_of):
        """A folder where a file was when it was listed: what root may not read either."""
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        feed.list(0, 1)
        path = trainer.root / "s0/inc_a/0_0.inc"
        path.unlink()
        path.mkdir()
        decision = feed.decide(Standing(0), 1)
        assert names(decision) == [] and [alarm.code for alarm in decision.alarms] == ["storage"]
        path.rmdir()
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        assert apply_all(feed) == ["s0/inc_a/0_0.inc"]

    def test_an_empty_file(self, trainer, feed_of):
        trainer.write("s0/inc_a", "0_0.inc", [], 1, cut=0)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        kinds = [names(look(feed), Refuse) for _ in range(3)]
        assert kinds == [[], [], ["s0/inc_a/0_0.inc"]]

    def test_waited_for_as_long_as_two_polls_take(self, trainer, feed_of):
        path = trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50, cut=30)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root, poll_seconds=1.0)
        start = time.time_ns()
        for wake in range(20):  # inotify tells of every write
            assert names(look(feed, start + wake * SECOND // 10), Refuse) == []
        assert names(look(feed, start + 2 * SECOND), Refuse) == ["s0/inc_a/0_0.inc"]
        path.write_bytes(inc_bytes(rows_of([1, 2], 1.0), 50)[:40])  # it changes: the time begins anew
        assert names(look(feed, start + 3 * SECOND), Refuse) == []

    def test_refused_copied_retried_repaired(self, trainer, feed_of, tmp_path):
        path = trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50, cut=30)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        for _ in range(3):
            decision = look(feed)
        (step,) = [step for step in decision.steps if isinstance(step, Refuse)]
        assert step.error.code == "bad_persia_packet"
        feed.copy(step.name, tmp_path)
        assert (tmp_path / "0_0.inc").read_bytes() == path.read_bytes()
        waiting = look(feed, verdicts={step.name: "waiting"})
        assert names(waiting) == [] and [alarm.code for alarm in waiting.alarms] == ["quarantined"]
        path.write_bytes(inc_bytes(rows_of([1], 1.0), 50))
        decision = look(feed, verdicts={step.name: "waiting"})
        assert names(decision) == [step.name] and decision.changed == (step.name,)

    def test_guards_refusal_and_no_room(self, trainer, feed_of):
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        trainer.write("s0/inc_a", "0_1.inc", rows_of([2], 1.0), 50)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root, poll_seconds=1.0)
        first, second = names(look(feed, SECOND))
        assert not feed.failed(first, StorageError("x", "the disk is slow"), SECOND)
        decision = look(feed, SECOND)
        assert names(decision) == [] and decision.steps[-1].until_ns == 2 * SECOND
        assert [alarm.message for alarm in decision.alarms] == ["x: the disk is slow"]
        assert names(look(feed, 2 * SECOND)) == [first, second]
        assert feed.failed(first, GuardrailError("x", "too large"), 2 * SECOND)
        assert names(look(feed, 2 * SECOND, verdicts={first: "waiting"})) == []
        decision = look(feed, 2 * SECOND, verdicts={first: "dropped"})
        assert names(decision, PassOver) == [first] and names(decision) == [second]


def test_packets_of_ours_among_them_are_told_of(trainer, feed_of):
    trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
    trainer.mark("s0/inc_a")
    (trainer.root / f"{1:020d}-w.json").write_text("{}")
    decision = look(feed_of(trainer.root))
    assert names(decision) == ["s0/inc_a/0_0.inc"]
    assert [alarm.code for alarm in decision.alarms] == ["foreign_stream"]


class TestUnmarked:
    def test_applied_with_a_warning(self, trainer, feed_of, caplog):
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        feed = feed_of(trainer.root)
        now = time.time_ns()
        assert names(look(feed, now)) == []
        with caplog.at_level(logging.WARNING):
            decision = look(feed, now + 61 * SECOND)
        assert names(decision) == ["s0/inc_a/0_0.inc"] and decision.unmarked == {"s0/inc_a/0_0.inc"}
        assert "has no marker; its files are whole" in caplog.text

    def test_watched_folders(self, trainer, feed_of):
        for number in range(70):
            trainer.mark(f"s0/inc_{number:03d}")
        trainer.write("s1/inc_000", "1_0.inc", [], 5)
        feed = feed_of(trainer.root)
        feed.list(0, 1)
        watched = {str(path.relative_to(trainer.root)) for path in feed.folders()}
        assert watched >= {".", "s0", "s1", "s1/inc_000", "s0/inc_069", "s0/inc_006"}
        assert "s0/inc_005" not in watched

    def test_a_shards_folder_is_watched_before_there_is_anything_in_it(self, trainer, feed_of):
        (trainer.root / "s0").mkdir(parents=True)
        feed = feed_of(trainer.root)
        feed.list(0, 1)
        assert set(feed.folders()) == {trainer.root, trainer.root / "s0"}


class TestListOfAppliedFiles:
    def test_survives_a_restart(self, trainer, feed_of):
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        trainer.write("s0/inc_a", "0_1.inc", rows_of([2], 1.0), 40)
        trainer.mark("s0/inc_a")
        assert apply_all(feed_of(trainer.root)) == ["s0/inc_a/0_1.inc", "s0/inc_a/0_0.inc"]
        again = feed_of(trainer.root)
        assert apply_all(again) == [] and len(again.ledger) == 2
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 2.0), 60)
        assert apply_all(feed_of(trainer.root)) == ["s0/inc_a/0_0.inc"]

    def test_old_files_are_settled_without_rows(self, trainer, feed_of):
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        trainer.write("s0/inc_a", "0_1.inc", rows_of([2], 1.0), 60)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root, replay_from=60)
        assert apply_all(feed) == ["s0/inc_a/0_1.inc"]
        assert feed.ledger.names == {"s0/inc_a/0_0.inc", "s0/inc_a/0_1.inc"}

    def test_goes_with_its_directories_but_not_with_a_mount_that_is_away(self, trainer, feed_of):
        for directory in ("s0/inc_a", "s0/inc_b"):
            trainer.write(directory, "0_0.inc", rows_of([1], 1.0), 50)
            trainer.mark(directory)
        feed = feed_of(trainer.root)
        apply_all(feed)
        trainer.root.rename(trainer.root.with_name("away"))
        assert apply_all(feed) == [] and len(feed.ledger) == 2
        trainer.root.with_name("away").rename(trainer.root)
        for path in sorted((trainer.root / "s0/inc_a").iterdir()):
            path.unlink()
        (trainer.root / "s0/inc_a").rmdir()
        assert apply_all(feed) == [] and feed.ledger.names == {"s0/inc_b/0_0.inc"}

    def test_a_rollback_takes_names_out(self, trainer, feed_of):
        trainer.write("s0/inc_a", "0_0.inc", rows_of([1], 1.0), 50)
        trainer.mark("s0/inc_a")
        feed = feed_of(trainer.root)
        apply_all(feed)
        assert look(feed, applied=50, holds={"persia": 49}).steps == (RollBack(49),)
        feed.ledger.discard("s0/inc_a/0_0.inc")
        assert names(look(feed, applied=0, holds={"persia": 49})) == []
        assert apply_all(feed_of(trainer.root)) == ["s0/inc_a/0_0.inc"]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b'{"format": "other"}',
            b'{"format": "satrap-persia-applied", "version": 1}',
            b"\xff",
        ],
    )
    def test_one_that_cannot_be_read_is_none(self, tmp_path, data, caplog):
        (tmp_path / "applied.json").write_bytes(data)
        assert len(AppliedFiles(tmp_path)) == 0
        assert "all packets in it are applied again" in caplog.text

    def test_its_form(self, tmp_path):
        ledger = AppliedFiles(tmp_path)
        ledger.add([settled("s0/inc_a/0_0.inc", 50)])
        assert json.loads((tmp_path / "applied-recent.json").read_bytes()) == {
            "format": "satrap-persia-applied",
            "version": 1,
            "files": {"s0/inc_a": {"0_0.inc": [50, 30, 7, "xxh3_64:00"]}},
        }
        assert AppliedFiles(tmp_path).settled == ledger.settled

    def test_many_files_are_written_in_two_parts(self, tmp_path):
        ledger = AppliedFiles(tmp_path)
        for number in range(1000):
            ledger.add([settled(f"s0/inc_{number // 10}/{number}.inc", 50 + number)])
            assert (tmp_path / "applied-recent.json").stat().st_size < 30_000
        assert AppliedFiles(tmp_path).settled == ledger.settled and len(ledger) == 1000
        ledger.discard("s0/inc_0/0.inc", "s0/inc_99/999.inc")
        again = AppliedFiles(tmp_path)
        assert len(again) == 998 and "s0/inc_0/0.inc" not in again and "s0/inc_99/999.inc" not in again
        ledger.add([settled("s0/inc_0/0.inc", 51)])  # before 1.inc, of its second
        assert "s0/inc_0/1.inc" not in ledger and "s0/inc_0/1.inc" not in AppliedFiles(tmp_path)

    @pytest.mark.parametrize("writes", range(4))
    def test_killed_between_two_writes(self, tmp_path, monkeypatch, writes):
        """Nothing is known as applied that is not; what is forgotten is applied again."""
        ledger = AppliedFiles(tmp_path)
        ledger.add([settled(f"s0/inc_a/{number:03d}.inc", 50 + number) for number in range(255)])
        left = iter(range(writes))
        real = module._write

        def write(path, names):
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(path, names)

        monkeypatch.setattr(module, "_write", write)
        with pytest.raises(KeyboardInterrupt):
            for number in (255, 256, 257):
                ledger.add([settled(f"s0/inc_a/{number:03d}.inc", 50 + number)])
        assert len(AppliedFiles(tmp_path)) == 255 + min(writes, 1) + (writes == 3)

    @pytest.mark.parametrize("writes", [0, 1])
    def test_killed_while_names_are_taken_out(self, tmp_path, monkeypatch, writes):
        ledger = AppliedFiles(tmp_path)
        for number in range(300):
            ledger.add([settled(f"s0/inc_a/{number:03d}.inc", 50 + number)])
        left = iter(range(writes))
        real = module._write
        monkeypatch.setattr(
            module,
            "_write",
            lambda path, names: real(path, names) if next(left, None) is not None else exit(),
        )
        with pytest.raises(SystemExit):
            ledger.discard("s0/inc_a/000.inc")
        again = AppliedFiles(tmp_path)
        assert "s0/inc_a/000.inc" in again  # it is taken out once more
        monkeypatch.setattr(module, "_write", real)
        again.discard("s0/inc_a/000.inc")
        assert "s0/inc_a/000.inc" not in AppliedFiles(tmp_path) and len(AppliedFiles(tmp_path)) == 299

    def test_nothing_changes_if_it_cannot_be_written(self, tmp_path):
        (tmp_path / "generation").mkdir()
        ledger = AppliedFiles(tmp_path / "generation")
        (tmp_path / "generation").rmdir()
        with pytest.raises(TableFolderError, match="cannot be written"):
            ledger.add([settled("s0/inc_a/0_0.inc", 50)])
        assert len(ledger) == 0


def test_rows_are_bit_for_bit(persia_data, feed_of):
    feed = feed_of(persia_data / "inc_dir", unmarked_ns=0)
    found: dict[int, bytes] = {}
    while todo := names(look(feed, time.time_ns())):
        for name in todo:
            for part in feed.fetch(name).parts:
                found |= {int(sign): row.tobytes() for sign, row in zip(part.signs, part.rows, strict=True)}
            feed.applied([name])
    expected: dict[int, bytes] = {}
    for label in ("00", "10", "20"):
        with np.load(persia_data / f"inc_202601010000{label}_contents.npz") as contents:
            values = np.split(contents["values"], contents["offsets"][1:-1])
            expected |= {int(sign): row.tobytes() for sign, row in zip(contents["sign"], values, strict=True)}
    assert found == expected


class TestManyDirectories:
    """Directories that are done with are listed in turn, and at once when something happens to them."""

    @pytest.fixture
    def feed(self, trainer, feed_of):
        for number in range(200):
            trainer.write(f"s0/inc_{number:03d}", "0_0.inc", rows_of([number], 1.0), 1000 + number)
            trainer.mark(f"s0/inc_{number:03d}")
        for path in trainer.root.rglob("*"):
            os.utime(path, (1000, 1000))
        feed = feed_of(trainer.root)
        assert len(apply_all(feed)) == 200
        look(feed)
        return feed

    def test_a_late_file_is_seen_at_once(self, trainer, feed):
        trainer.write("s0/inc_000", "0_1.inc", rows_of([1], 1.0), 5000)
        assert apply_all(feed) == ["s0/inc_000/0_1.inc"]

    def test_a_file_that_is_written_in_place_is_seen_in_turn(self, trainer, feed):
        folder = trainer.root / "s0/inc_001"
        (folder / "0_0.inc").write_bytes(inc_bytes(rows_of([1], 2.0), 5000))
        os.utime(folder, (1000, 1000))
        looks = 0
        while not (found := apply_all(feed)):
            looks += 1
        assert found == ["s0/inc_001/0_0.inc"] and looks <= 200 // 64 + 1

    def test_or_when_somebody_asks(self, trainer, feed):
        folder = trainer.root / "s0/inc_001"
        (folder / "0_0.inc").write_bytes(inc_bytes(rows_of([1], 2.0), 5000))
        os.utime(folder, (1000, 1000))
        feed.arrived("")
        assert apply_all(feed) == ["s0/inc_001/0_0.inc"]

    def test_what_was_rolled_back_is_applied_again(self, feed):
        feed.ledger.discard("s0/inc_000/0_0.inc", "s0/inc_150/0_0.inc")
        assert apply_all(feed) == ["s0/inc_000/0_0.inc", "s0/inc_150/0_0.inc"]

    def test_a_late_file_lets_others_of_its_second_follow_again(self, trainer, feed):
        trainer.write("s0/inc_199", "0_1.inc", rows_of([1], 1.0), 1000)
        trainer.write("s0/inc_000", "0_0.inc", rows_of([1], 2.0), 1199)
        assert apply_all(feed) == ["s0/inc_199/0_1.inc", "s0/inc_000/0_0.inc", "s0/inc_199/0_0.inc"]

    def test_one_that_is_removed(self, trainer, feed):
        shutil.rmtree(trainer.root / "s0/inc_000")
        assert apply_all(feed) == [] and len(feed.ledger) == 199
        trainer.write("s0/inc_000", "0_0.inc", rows_of([0], 1.0), 1000)
        trainer.mark("s0/inc_000")
        assert apply_all(feed) == ["s0/inc_000/0_0.inc"]
