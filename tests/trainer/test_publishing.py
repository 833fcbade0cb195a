"""What publishing does when the storage does not: nothing is dropped, and the training job hears of it."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from satrap.errors import ForkedStreamError, InvalidInputError, StorageError
from satrap.formats.manifest import Manifest, manifest_name
from satrap.formats.packet import PacketContent, publish_packet, read_manifest
from satrap.storage import open_storage
from satrap.trainer.packets import newest_checkpoint, newest_sequence
from satrap.trainer.publisher import Publisher, retry_delay

USER = 1 << 56


def rows(n: int, value: float = 0.0) -> np.ndarray:
    return np.full((n, 4), value, np.float32)


def foreign(folder: Path, sequence: int, writer: str = "other", stream: str = "default") -> Manifest:
    """A packet by another trainer."""
    return publish_packet(
        open_storage(folder),
        stream=stream,
        writer=writer,
        sequence=sequence,
        previous=sequence - 1,
        parts=[PacketContent(4, np.array([1], np.uint64), rows(1))],
    )


class Away:
    """A directory that cannot be written while it is `away`: a file lies in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_bytes(b"")

    def come_back(self) -> None:
        self.folder.unlink()


@pytest.fixture
def away(tmp_path: Path) -> Away:
    return Away(tmp_path / "away" / "packets")


@pytest.fixture
def lost(train, away, config):
    """A TrainCtx that has begun, and whose directory has gone away since."""

    def make(**arguments):
        away.come_back()
        ctx = train(config(**arguments), directory=away.folder, retry_seconds=0.2)
        ctx.flush()
        Away(away.folder)
        return ctx

    return make


def test_retries_wait_longer_each_time():
    assert [retry_delay(n) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert retry_delay(1000) == 10.0


def test_a_failure_is_raised_and_nothing_is_lost(lost, away, published):
    ctx = lost(buffer_size=1)
    ctx.commit("user", [1, 2], rows(2, 1))  # the thread begins to fail
    with pytest.raises(StorageError, match=r"sequence 1 could not be published.*Nothing is lost.*1 waits"):
        ctx.flush()
    with pytest.raises(StorageError, match="could not be published"):
        ctx.commit("user", [3, 4], rows(2, 2))  # taken all the same
    assert ctx.row_count == 4
    away.come_back()
    with ctx._writer.lock:
        assert ctx._writer.lock.wait_for(lambda: ctx.published == 1, 30)
    ctx.flush()
    states = type(published)(away.folder).states()
    assert sorted(states) == [0, 1, 2]
    assert len(states[2]) == 4


def test_the_caller_waits_when_too_many_packets_do(lost, away, published):
    ctx = lost(buffer_size=0, waiting_packets=2)
    ctx._writer.publisher._retry_seconds = 3600.0
    done = threading.Event()

    def commit() -> None:
        for i in range(5):
            ctx.commit("user", [i], rows(1, i))
        done.set()

    thread = threading.Thread(target=commit)
    thread.start()
    with ctx._writer.lock:
        assert ctx._writer.lock.wait_for(lambda: ctx._writer.publisher.waiting == 2, 30)
    assert not done.wait(0.3)
    assert ctx._writer.publisher.waiting == 2
    away.come_back()
    thread.join(30)
    ctx.flush()
    assert sorted(type(published)(away.folder).states()[5]) == [(4, USER + i) for i in range(5)]


def test_a_large_commit_is_taken_whole_though_publishing_fails(lost, away, published, monkeypatch):
    monkeypatch.setattr("satrap.trainer.stream_writer.StreamWriter.chunk_rows", 10)
    ctx = lost(buffer_size=5, waiting_packets=1)
    with pytest.raises(StorageError, match="could not be published"):
        ctx.commit("user", range(95), rows(95, 1))
    assert ctx.row_count == 95
    away.come_back()
    assert ctx.flush() >= 2
    states = type(published)(away.folder).states()
    assert len(states[max(states)]) == 95


def test_closing_says_what_could_not_be_published(lost, away):
    ctx = lost()
    ctx.commit("user", [1], rows(1))
    with pytest.raises(StorageError, match="could not be published"):
        ctx.close()
    away.come_back()
    ctx.close()
    assert newest_sequence(open_storage(away.folder), "default") == 1


def test_a_storage_that_is_away_at_the_start(train, away):
    ctx = train(directory=away.folder, retry_seconds=0.1)
    with pytest.raises(StorageError):
        ctx.commit("user", [1], rows(1))
    assert ctx.row_count == 0
    away.come_back()
    ctx.commit("user", [1], rows(1))
    assert ctx.flush() == 1


def test_a_full_disk(train, published, monkeypatch):
    """The disk is full for the third write and the fifth; both packets are whole in the end."""
    ctx = train()
    count = 0
    write = os.write

    def sometimes(descriptor, data):
        nonlocal count
        count += 1
        if count in (3, 5):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", sometimes)
    for i in (1, 2):
        ctx.commit("user", [i], rows(1, i))
        ctx.flush()
    monkeypatch.undo()
    assert count > 5
    assert sorted(published.states()) == [0, 1, 2]
    assert [path for path in published.storage.local.iterdir() if path.name.startswith(".")] == []


def test_a_publication_whose_answer_was_lost_is_not_repeated(train, published, monkeypatch):
    import satrap.trainer.packets as module

    publish, calls = module.publish_packet, []

    def answer_lost(*args, **kwargs):
        calls.append(publish(*args, **kwargs))
        if len(calls) == 1:
            raise StorageError("s3://bucket", "the connection broke")

    monkeypatch.setattr(module, "publish_packet", answer_lost)
    ctx = train()
    ctx.commit("user", [1], rows(1))
    assert ctx.flush() == 1
    assert len(calls) == 1
    assert [manifest.sequence for manifest in published.manifests()] == [1]


@pytest.mark.parametrize("ahead", [2, 5])
def test_another_trainer_on_the_stream_is_found_before_anything_is_published(
    train, packets, published, ahead
):
    ctx = train()
    ctx.commit("user", [1], rows(1))
    ctx.flush()
    foreign(packets, ahead)
    ctx.commit("user", [2], rows(1))
    with pytest.raises(ForkedStreamError, match=rf"writer other\) has published sequence {ahead}.*is at 2"):
        ctx.flush()
    with pytest.raises(ForkedStreamError):
        ctx.commit("user", [3], rows(1))
    with pytest.raises(ForkedStreamError):
        ctx.dump()
    with pytest.raises(ForkedStreamError):
        ctx.close()
    assert [manifest.writer for manifest in published.manifests()] == [ctx.writer, "other"]


def test_two_trainers_that_publish_at_once_both_learn_of_it(train, packets, monkeypatch):
    import satrap.trainer.packets as module

    publish = module.publish_packet

    def at_once(storage, *, before_manifest, **kwargs):
        publish(storage, before_manifest=lambda: (before_manifest(), foreign(packets, 1)), **kwargs)

    monkeypatch.setattr(module, "publish_packet", at_once)
    ctx = train()
    ctx.commit("user", [1], rows(1))
    with pytest.raises(ForkedStreamError):
        ctx.flush()


def test_another_stream_in_the_directory_is_nobodys_business(train, packets, published):
    foreign(packets, 3, stream="theirs")
    ctx = train()
    for i in (1, 2, 3, 4):
        ctx.commit("user", [i], rows(1))
        assert ctx.flush() == i
    assert len([m for m in published.manifests() if m.stream == "default"]) == 4


def test_the_newest_sequence_of_a_stream(tmp_path):
    storage = open_storage(tmp_path)
    assert newest_sequence(storage, "default") == 0
    foreign(tmp_path, 3)
    foreign(tmp_path, 11)
    foreign(tmp_path, 12, stream="theirs")
    assert newest_sequence(storage, "default") == 11
    assert newest_sequence(storage, "theirs") == 12
    assert newest_sequence(storage, "nobodys") == 0


def test_a_manifest_that_cannot_be_read_is_counted(tmp_path):
    """Its sequence may be the stream's own: it is never given a second time."""
    storage = open_storage(tmp_path)
    foreign(tmp_path, 3)
    storage.publish(manifest_name(9, "broken"), b"{}")
    assert newest_sequence(storage, "default") == 9


def test_no_checkpoints(tmp_path):
    assert newest_checkpoint(open_storage(tmp_path / "none"), "default") == 0


def test_what_cannot_be_published_ever_ends_publishing(train, monkeypatch):
    import satrap.trainer.packets as module

    def refused(*args, **kwargs):
        raise InvalidInputError("never")

    monkeypatch.setattr(module, "publish_packet", refused)
    ctx = train()
    ctx.commit("user", [1], rows(1))
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="never"):
            ctx.flush()


def test_a_rule_that_fails_ends_publishing():
    def due(now: float) -> float | None:
        raise MemoryError("no room")

    publisher = Publisher("here", 1, 1.0, due)
    publisher.start()
    with publisher.lock:
        assert publisher.lock.wait_for(lambda: publisher._fatal, 30)
    with pytest.raises(MemoryError, match="no room"):
        publisher.wait_for(1)
    with publisher.lock, pytest.raises(MemoryError):
        publisher.wait_for_room()
    publisher.stop()


def test_over_a_url(train, published):
    ctx = train(directory="memory://trainer-test/packets", checkpoint_directory="memory://trainer-test/all")
    ctx.commit("user", [1], rows(1, 4))
    handle = ctx.dump()
    assert handle.wait().sequence == 1
    ctx.close()
    storage = open_storage("memory://trainer-test/packets")
    assert newest_sequence(storage, "default") == 1
    assert newest_checkpoint(open_storage("memory://trainer-test/all"), "default") == 1
    assert read_manifest(storage, manifest_name(1, ctx.writer)).records == 1


def test_a_trainer_that_was_thought_dead_takes_the_sequence_of_a_full_checkpoint(train, packets, checkpoints):
    """Servers have its packet: what follows on the checkpoint must not be applied to that."""
    first = train()
    first.commit("user", [1], rows(1))
    first.dump(checkpoints / "c")
    first.commit("user", [2], rows(1))
    first.flush()
    second = train()
    second.load(checkpoints / "c", catch_up=False)
    second.commit("user", [2], rows(1))
    foreign(packets, 3)  # 3 is the full checkpoint's
    with pytest.raises(ForkedStreamError, match="has published sequence 3"):
        second.flush()
    assert [path.name for path in checkpoints.iterdir() if any(path.glob("*.json"))] == ["c"]
