"""Full checkpoints: exactly the rows of one moment, whatever is committed meanwhile; and going on from one."""

import threading

import numpy as np
import pytest

from satrap.config import EmbeddingConfig, GlobalConfig
from satrap.errors import (
    CheckpointCorruptError,
    CheckpointError,
    ChecksumError,
    ConflictError,
    DeadlineError,
    ForeignConfigError,
    ForkedStreamError,
    InvalidInputError,
    MissingFileError,
    StorageError,
)
from satrap.formats.checkpoint import CheckpointWriter, open_checkpoint
from satrap.formats.decisions import Hold, write_hold
from satrap.formats.packet import PacketContent, publish_packet
from satrap.storage import open_storage
from satrap.trainer import DumpProgress, TrainCtx, write_persia_checkpoint

USER = 1 << 56
PERSIA_CONFIG = EmbeddingConfig.model_validate(
    {"slots_config": {"a": {"dim": 8}, "b": {"dim": 16}, "c": {"dim": 32}}}
)


def rows(n: int, value: float = 0.0) -> np.ndarray:
    return np.full((n, 4), value, np.float32)


class Gate:
    """Lets a dump come to its first page, and no further until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        write = CheckpointWriter.write

        def held(writer, dim, signs, values):
            self.reached.set()
            assert self.opened.wait(60)
            write(writer, dim, signs, values)

        monkeypatch.setattr(CheckpointWriter, "write", held)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def test_a_dump_is_the_state_of_its_sequence(train, config, gate, published, checkpoint_rows, tmp_path):
    ctx = train(config(buffer_size=3))
    ctx.commit("user", range(100), rows(100, 1), event_time_ns=70)
    ctx.commit("user", range(2), rows(2, 2), event_time_ns=90)
    handle = ctx.dump(tmp_path / "c", blocking=False)
    assert handle.sequence == ctx.sequence == 2
    assert gate.reached.wait(30)
    ctx.commit("user", range(50, 150), rows(100, 3))
    ctx.delete("user", range(10))
    ctx.commit("tags", [1], np.ones((1, 2), np.float32))
    later = ctx.flush()  # packets go on
    assert later > 2
    assert not handle.done
    assert handle.progress == DumpProgress(0, 100)
    with pytest.raises(DeadlineError, match="not written after"):
        handle.wait(0.01)
    gate.opened.set()
    manifest = handle.wait()
    assert handle.done
    assert (manifest.sequence, manifest.oldest_event_ns, manifest.newest_event_ns) == (2, 70, 90)
    assert manifest.limits[4].rows == 100
    states = published.states()
    assert checkpoint_rows(tmp_path / "c") == states[2]
    assert states[later] != states[2]
    # What came meanwhile is in the trainer's rows once the dump has ended.
    assert checkpoint_rows(ctx.dump(tmp_path / "d").url) == states[later]
    assert ctx.row_count == len(states[later]) == 141


def test_progress_is_told(train, tmp_path):
    ctx = train()
    ctx.commit("user", range(200_000), rows(200_000))
    told: list[DumpProgress] = []
    ctx.dump(tmp_path / "c", progress=told.append)
    assert told[-1] == DumpProgress(200_000, 200_000)
    assert len(told) > 2
    assert [p.rows for p in told] == sorted(p.rows for p in told)


def test_a_second_dump_waits_for_the_first(train, gate, tmp_path):
    ctx = train()
    ctx.commit("user", [1], rows(1))
    first = ctx.dump(tmp_path / "a", blocking=False)
    second: list = []
    thread = threading.Thread(target=lambda: second.append(ctx.dump(tmp_path / "b")))
    thread.start()
    assert gate.reached.wait(30)
    assert second == []
    gate.opened.set()
    thread.join(30)
    assert first.done
    assert second[0].wait().records == 1


def test_closing_waits_for_a_dump(train, gate, tmp_path):
    ctx = train()
    ctx.commit("user", [1], rows(1))
    handle = ctx.dump(tmp_path / "a", blocking=False)
    closer = threading.Thread(target=ctx.close)
    closer.start()
    gate.opened.set()
    closer.join(30)
    assert handle.done


@pytest.mark.parametrize("there", ["ours", "persia"])
def test_a_checkpoint_is_never_overwritten(train, tmp_path, there):
    ctx = train()
    ctx.commit("user", [1], rows(1))
    if there == "ours":
        ctx.dump(tmp_path / "c")
    else:
        write_persia_checkpoint(tmp_path / "c", {}, num_shards=1)
    with pytest.raises(CheckpointError, match="never overwritten"):
        ctx.dump(tmp_path / "c")


@pytest.mark.parametrize("there", ["ours", "persia"])
def test_no_checkpoint_is_written_into_another_one(train, tmp_path, there):
    """PERSIA's `embedding_checkpoint` names one checkpoint, not a folder of them."""
    if there == "ours":
        with train() as ctx:
            ctx.commit("user", [1], rows(1))
            ctx.dump(tmp_path / "c")
    else:
        write_persia_checkpoint(tmp_path / "c", {}, num_shards=1)
    again = train(stream="second", checkpoint_directory=tmp_path / "c")
    again.commit("user", [1], rows(1))
    with pytest.raises(InvalidInputError, match="checkpoint_directory"):
        again.dump()


def test_a_dump_needs_a_place(train):
    ctx = train(checkpoint_directory=None)
    ctx.commit("user", [1], rows(1))
    with pytest.raises(InvalidInputError, match="checkpoint_directory"):
        ctx.dump()


def test_a_dump_that_cannot_be_written_leaves_training_as_it_was(train, tmp_path, published, checkpoint_rows):
    (tmp_path / "file").write_bytes(b"")
    ctx = train()
    ctx.commit("user", [1], rows(1, 1))
    with pytest.raises(StorageError):
        ctx.dump(tmp_path / "file" / "c")
    ctx.commit("user", [2], rows(1, 2))
    assert len(checkpoint_rows(ctx.dump(tmp_path / "c").url)) == 2


def test_a_dump_that_fails_on_the_way_says_so(train, tmp_path, monkeypatch, checkpoint_rows):
    ctx = train()
    ctx.commit("user", [1], rows(1, 1))

    def full(writer, dim, signs, values):
        raise StorageError("there", "the disk is full")

    monkeypatch.setattr(CheckpointWriter, "write", full)
    handle = ctx.dump(tmp_path / "c", blocking=False)
    with pytest.raises(StorageError, match="the disk is full"):
        handle.wait()
    monkeypatch.undo()
    ctx.commit("user", [2], rows(1, 2))
    assert len(checkpoint_rows(ctx.dump(tmp_path / "c").url)) == 2


def test_an_empty_checkpoint(train, tmp_path, checkpoint_rows):
    ctx = train()
    assert ctx.dump(tmp_path / "c").wait().sequence == 0
    assert checkpoint_rows(tmp_path / "c") == {}


# ---- going on ----


def trained(train, config, **arguments) -> TrainCtx:
    ctx = train(config(**arguments))
    ctx.commit("user", range(10), rows(10, 1), event_time_ns=50)
    return ctx


@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint_is_loaded_again(train, config, checkpoints, published, shards, checkpoint_rows):
    with trained(train, config, num_shards=shards) as ctx:
        first = ctx.dump().wait()
    again = train()
    told: list[DumpProgress] = []
    again.load(checkpoints, progress=told.append)
    assert told[-1] == DumpProgress(10, 10)
    assert again.row_count == 10
    assert again.lookup("user", [3])[0].tolist() == [[1.0] * 4]
    again.commit("user", [3], rows(1, 2), event_time_ns=60)
    assert again.flush() == 2  # nothing was published since: no full checkpoint is needed
    packet = published.manifests()[-1]
    assert (packet.sequence, packet.previous, packet.writer) == (2, 1, again.writer)
    second = again.dump().wait()
    assert (second.sequence, second.oldest_event_ns, second.newest_event_ns) == (2, 50, 60)
    assert first.sequence == 1


def test_a_trainer_older_than_its_stream_publishes_a_full_checkpoint_first(
    train, config, checkpoints, published
):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        for value in (2, 3):
            ctx.commit("user", [1, 20 + value], rows(2, value))
            ctx.flush()
    assert ctx.sequence == 3
    again = train(config(buffer_size=1))
    again.load(checkpoints / "first")
    again.commit("user", [5, 6], rows(2, 9))  # enough for PERSIA's rule
    again.commit("user", [7], rows(1, 9))
    assert again.flush() == 5
    ((_, first), (full, state)) = published.full()
    assert (full.sequence, full.previous, full.writer) == (4, None, again.writer)
    assert state == {**first, (4, USER + 5): [9.0] * 4, (4, USER + 6): [9.0] * 4}
    assert [(m.sequence, m.previous) for m in published.manifests()][-1] == (5, 4)
    states = published.states()
    assert states[5] == {**state, (4, USER + 7): [9.0] * 4}
    assert (4, USER + 22) in states[3]
    assert (4, USER + 22) not in states[5]  # what the loaded state never knew is gone


def test_a_trainer_that_catches_up_needs_no_full_checkpoint(train, config, checkpoints, published):
    with trained(train, config, num_shards=2) as ctx:
        ctx.dump(checkpoints / "first")
        for value in (2, 3):
            ctx.commit("user", [1, 20 + value], rows(2, value), event_time_ns=value)
            ctx.delete("user", [value])
            ctx.flush()
    again = train(config())
    again.load(checkpoints / "first", catch_up=True)
    assert again.lookup("user", [1, 2, 3, 22, 23])[0][:, 0].tolist() == [3.0, 0.0, 0.0, 2.0, 3.0]
    again.commit("user", [5], rows(1, 9))
    assert again.flush() == 4
    assert published.manifests()[-1].previous == 3
    assert len(published.full()) == 1
    published.shards = 2
    assert len(published.states()[4]) == 10


def test_catching_up_ends_at_a_gap(train, config, checkpoints, published, packets, caplog):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        for value in (2, 3, 4):
            ctx.commit("user", [1], rows(1, value))
            ctx.flush()
    (packets / published.manifests()[2].name).unlink()
    again = train()
    again.load(checkpoints / "first", catch_up=True)
    assert "missing after 2" in caplog.text
    assert again.lookup("user", [1])[0].tolist() == [[2.0] * 4]
    again.commit("user", [5], rows(1, 9))
    assert again.flush() == 5  # servers may have packet 4: a full checkpoint
    assert published.full()[-1][0].sequence == 5


def test_catching_up_takes_nothing_that_an_operator_took_back(
    train, config, checkpoints, published, packets, caplog
):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        for value in (2, 3, 4):
            ctx.commit("user", [1], rows(1, value))
            ctx.flush()
    write_hold(open_storage(packets), Hold("default", 2, "anna", "bad labels", 1))
    again = train()
    again.load(checkpoints / "first", catch_up=True)
    assert "held at 2 by anna (bad labels)" in caplog.text
    assert again.lookup("user", [1])[0].tolist() == [[2.0] * 4]
    again.commit("user", [5], rows(1, 9))
    assert again.flush() == 5  # a full checkpoint, for when it is released
    assert published.full()[-1][0].sequence == 5


class TestHeld:
    """What an operator took back is not gone on from."""

    @pytest.fixture
    def two(self, train, config, checkpoints):
        """Checkpoints of sequence 1 and 2."""
        with trained(train, config) as ctx:
            ctx.dump(checkpoints / "first")
            ctx.commit("user", [1], rows(1, 2))
            ctx.dump(checkpoints / "second")

    def hold(self, packets, through: int, stream: str = "default") -> None:
        write_hold(open_storage(packets), Hold(stream, through, "anna", "bad labels", 1))

    def test_the_newest_of_a_folder_that_is_not_beyond(self, two, train, checkpoints, packets, caplog):
        self.hold(packets, 1)
        again = train()
        again.load(checkpoints)
        assert again.lookup("user", [1])[0].tolist() != [[2.0] * 4]
        assert "second is passed over" in caplog.text and "held at 1 by anna (bad labels)" in caplog.text

    def test_one_that_is_named_is_refused(self, two, train, checkpoints, packets):
        self.hold(packets, 1)
        with pytest.raises(CheckpointError, match=r"it reaches 2, and .* is held at 1 by anna"):
            train().load(checkpoints / "second")

    def test_none_is_left(self, two, train, checkpoints, packets):
        self.hold(packets, 0)
        with pytest.raises(MissingFileError, match=r"every checkpoint in it is beyond 0.*--release"):
            train().load(checkpoints)

    @pytest.mark.parametrize(("stream", "through"), [("default", 2), ("another", 0)])
    def test_holds_that_do_not_matter(self, two, train, checkpoints, packets, stream, through):
        self.hold(packets, through, stream)
        again = train()
        again.load(checkpoints)
        assert again.lookup("user", [1])[0].tolist() == [[2.0] * 4]


def test_catching_up_refuses_a_fork(train, config, checkpoints, packets):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        ctx.commit("user", [1], rows(1, 2))
    publish_packet(
        open_storage(packets),
        stream="default",
        writer="other",
        sequence=2,
        previous=1,
        parts=[PacketContent(4, np.array([1], np.uint64), rows(1))],
    )
    with pytest.raises(ForkedStreamError, match="as another packet does"):
        train().load(checkpoints / "first", catch_up=True)


@pytest.mark.parametrize("catch_up", [False, True])
def test_rows_of_half_precision_are_loaded_by_a_trainer_of_full(train, config, checkpoints, catch_up):
    with trained(train, config, row_dtype="float16") as ctx:
        ctx.dump(checkpoints / "first")
        ctx.commit("user", [1], rows(1, 0.1))
    again = train()
    again.load(checkpoints / "first", catch_up=catch_up)
    assert again.lookup("user", [1])[0][0, 0] == (np.float16(0.1) if catch_up else 1.0)


def test_a_dump_is_the_full_checkpoint_that_is_due(train, config, checkpoints, published, tmp_path):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        ctx.commit("user", [1], rows(1, 2))
    again = train(config(buffer_size=0), checkpoint_directory=None)
    again.load(checkpoints / "first")
    again.commit("user", [5], rows(1, 9))
    assert published.manifests()[-1].sequence == 2  # nothing says where the checkpoint is to go
    assert again.dump(checkpoints / "second").wait().sequence == 3
    again.commit("user", [6], rows(1, 9))
    assert again.flush() == 4
    assert published.manifests()[-1].previous == 3
    assert len(published.states()[4]) == 10


def test_a_full_checkpoint_that_is_due_is_tried_again(train, config, checkpoints, published, monkeypatch):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        ctx.commit("user", [1], rows(1, 2))
    again = train(config(buffer_size=0), retry_seconds=0.1)
    again.load(checkpoints / "first")
    write, broken = CheckpointWriter.write, threading.Event()

    def full(writer, dim, signs, values):
        if not broken.is_set():
            raise StorageError("there", "the disk is full")
        write(writer, dim, signs, values)

    monkeypatch.setattr(CheckpointWriter, "write", full)
    again.commit("user", [5], rows(1, 9))
    with pytest.raises(StorageError, match="the disk is full"):
        again.flush()
    broken.set()
    with again._writer.lock:
        assert again._writer.lock.wait_for(lambda: again.published == 3, 30)
    again.commit("user", [6], rows(1, 9))
    assert again.flush() == 4
    assert sorted(published.states()) == [0, 1, 2, 3, 4]


def test_a_trainer_that_loaded_nothing_is_stopped(train, config, published):
    with trained(train, config):
        pass
    again = train()
    with pytest.raises(ConflictError, match=r"sequence 1.*load\(checkpoint\)"):
        again.commit("user", [1], rows(1))
    again.close()
    assert len(published.manifests()) == 1


def test_starting_over(train, config, published):
    with trained(train, config):
        pass
    again = train(config(buffer_size=0, seconds=0.001), start_over=True)
    for i in range(3):
        again.commit("user", [i], rows(1, 5))
    assert published.full() == []  # not before all of it is there, which only the caller knows
    assert again.dump().wait().sequence == 2
    again.commit("user", [9], rows(1, 6))
    assert again.flush() == 3
    assert published.states()[3] == {
        **{(4, USER + i): [5.0] * 4 for i in range(3)},
        (4, USER + 9): [6.0] * 4,
    }


def test_starting_over_without_a_dump_publishes_nothing(train, config, published, caplog):
    with trained(train, config):
        pass
    with train(start_over=True) as again:
        again.commit("user", [1], rows(1))
    assert "1 rows were never published" in caplog.text
    assert len(published.manifests()) == 1


def test_another_streams_checkpoint_begins_this_one_with_a_full_one(train, config, checkpoints, published):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
    again = train(stream="second")
    again.load(checkpoints / "first")
    again.commit("user", [1], rows(1, 2))
    assert again.flush() == 1
    full = [manifest for manifest, _ in published.full() if manifest.stream == "second"]
    assert [(manifest.sequence, manifest.kind) for manifest in full] == [(1, "full")]


def test_persias_checkpoint_is_loaded(train, persia_data, checkpoints, published):
    contents = np.load(persia_data / "ckpt_2x4_contents.npz")
    with TrainCtx(
        GlobalConfig(),
        PERSIA_CONFIG,
        directory=checkpoints / "p",
        checkpoint_directory=checkpoints / "c",
    ) as ctx:
        ctx.load(persia_data / "ckpt_2x4")
        assert ctx.row_count == len(contents["sign"])
        ctx.commit("a", [1], np.ones((1, 8), np.float32))
        assert ctx.flush() == 1
    (folder,) = (checkpoints / "c").iterdir()
    assert open_checkpoint(open_storage(folder)).manifest.sequence == 1


def test_load_comes_first_and_once(train, config, checkpoints):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
        with pytest.raises(ConflictError, match="before the first commit"):
            ctx.load(checkpoints / "first")
    again = train()
    again.load(checkpoints / "first")
    with pytest.raises(ConflictError, match="once"):
        again.load(checkpoints / "first")


def test_checkpoints_that_are_refused(train, config, checkpoints, tmp_path, persia_data):
    with trained(train, config) as ctx:
        ctx.dump(checkpoints / "first")
    again = train()
    with pytest.raises(MissingFileError, match="no checkpoint"):
        again.load(tmp_path / "nowhere")
    with pytest.raises(ForeignConfigError, match="dim 8"):
        again.load(persia_data / "ckpt_2x4")
    with pytest.raises(CheckpointCorruptError):
        TrainCtx(GlobalConfig(), PERSIA_CONFIG).load(persia_data / "ckpt_truncated")
    other = EmbeddingConfig.model_validate({"slots_config": {"user": {"dim": 8}}})
    with pytest.raises(ForeignConfigError, match="another embedding config"):
        TrainCtx(GlobalConfig(), other).load(checkpoints / "first")
    (file,) = (checkpoints / "first").glob("*.arrow")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ChecksumError):
        again.load(checkpoints / "first")
    assert again.row_count == 0
