"""Checkpoints of ours become tables: every row with its ordinal, for any number of shards, or an error and nothing."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from table_content import content, expected_content, rows_of

from satrap.embedding_server.loading import LoadCancelled, LoadProgress
from satrap.embedding_server.origin import DimLimits
from satrap.errors import (
    CheckpointIncompleteError,
    ChecksumError,
    ConflictError,
    ForeignConfigError,
    GuardrailError,
    ManifestError,
    MissingFileError,
    NoSpaceError,
    TruncatedFileError,
)
from satrap.formats.persia_checkpoint import ShardRoute

NEVER = threading.Event()
SIGNS = np.random.default_rng(4).integers(0, 2**64, 5000, np.uint64)


def ignore(_: LoadProgress) -> None:
    """Nobody watches."""


ROWS = {4: (SIGNS, rows_of(SIGNS, 4)), 8: (SIGNS[:700], rows_of(SIGNS[:700], 8))}


def expected(dim: int, ordinal: int, dtype: str = "float32") -> dict[int, tuple[bytes, int]]:
    signs, rows = ROWS[dim]
    return expected_content(signs, rows.astype(dtype), ordinal)


class TestLoad:
    @pytest.mark.parametrize("shards", [1, 2, 3])
    @pytest.mark.parametrize("replica_size", [1, 2])
    def test_every_row_is_on_its_shard(self, shard_state, write_ours, tmp_path, shards, replica_size):
        write_ours(tmp_path / "c", ROWS, 7, num_shards=shards)
        found: dict[int, dict[int, tuple[bytes, int]]] = {4: {}, 8: {}}
        for index in range(replica_size):
            state = shard_state(ShardRoute(index, replica_size))
            generation = state.load(tmp_path / "c", ignore, NEVER)
            for dim, table in generation.tables.items():
                of_shard = content(table)
                assert not found[dim].keys() & of_shard.keys()
                found[dim] |= of_shard
        assert found == {dim: expected(dim, 7) for dim in ROWS}

    @pytest.mark.parametrize("written", ["float32", "float16"])
    @pytest.mark.parametrize("held", ["float32", "float16"])
    def test_row_dtypes(self, shard_state, write_ours, tmp_path, written, held):
        signs, rows = SIGNS[:100], rows_of(SIGNS[:100], 4)
        write_ours(tmp_path / "c", {4: (signs, rows)}, 1, dtype=written)
        table = shard_state(row_dtype=held).load(tmp_path / "c", ignore, NEVER).tables[4]
        told = rows.astype(written).astype(held)
        assert content(table) == {int(s): (r.tobytes(), 1) for s, r in zip(signs, told, strict=True)}

    def test_where_it_began(self, shard_state, write_ours, tmp_path):
        manifest = write_ours(
            tmp_path / "c", ROWS, 7, oldest_event_ns=5, newest_event_ns=9, published_ns=11, num_shards=2
        )
        state = shard_state()
        origin = state.load(tmp_path / "c", ignore, NEVER).origin
        assert (origin.format, origin.stream, origin.base_sequence) == ("satrap", "ads", 7)
        assert (origin.base_event_ns, origin.published_ns, origin.writer) == (9, 11, "w")
        assert origin.limits == {
            dim: DimLimits(limits.rows, limits.norm_p999) for dim, limits in manifest.limits.items()
        }
        assert origin.limits[4].rows == len(SIGNS) and state.applied() == (7, 9)

    def test_without_rows(self, shard_state, write_ours, tmp_path):
        write_ours(tmp_path / "c", {}, 0)
        state = shard_state()
        assert state.load(tmp_path / "c", ignore, NEVER).tables == {} and state.applied() == (0, 0)

    def test_its_progress(self, shard_state, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7, num_shards=3)
        told: list[LoadProgress] = []
        shard_state(ShardRoute(0, 2)).load(tmp_path / "c", told.append, NEVER)
        fractions = [progress.fraction for progress in told]
        assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0, 1)
        assert told[-1].files_done == told[-1].files_total == 6
        assert 0 < told[-1].rows < len(SIGNS) + 700

    def test_through_a_url(self, shard_state, write_ours):
        write_ours("memory://loading/c", ROWS, 7)
        generation = shard_state().load("memory://loading/c", ignore, NEVER)
        assert content(generation.tables[4]) == expected(4, 7)
        assert generation.checkpoint == "memory://loading/c"

    def test_memory_stays_bounded(self, shard_state, write_ours, tmp_path):
        """Tables have their size at once: no segment was split or grown."""
        write_ours(tmp_path / "c", ROWS, 7)
        table = shard_state().load(tmp_path / "c", ignore, NEVER).tables[4]
        assert table.bytes < 3 * len(SIGNS) * (8 + 16) + (1 << 20)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


class TestRefused:
    """Whatever is wrong, what was served goes on, and nothing is left."""

    @pytest.fixture
    def served(self, shard_state, write_ours, tmp_path):
        write_ours(tmp_path / "old", ROWS, 3)
        state = shard_state(config_digest="mine")
        state.load(tmp_path / "old", ignore, NEVER)
        yield state
        assert content(state.generation().tables[4]) == expected(4, 3)
        folder = state.target().folder
        assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
        assert state.target().store.state == "serving"

    def file(self, folder: Path, pattern: str = "*.arrow") -> Path:
        return sorted(folder.glob(pattern))[0]

    def test_a_flipped_bit_in_a_row(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7)
        path = self.file(tmp_path / "c")
        flip(path, path.stat().st_size // 2)
        with pytest.raises(ChecksumError):
            served.load(tmp_path / "c", ignore, NEVER)
        assert "checksum" in served.snapshot.failure

    def test_a_truncated_file(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7)
        path = self.file(tmp_path / "c")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(TruncatedFileError):
            served.load(tmp_path / "c", ignore, NEVER)

    def test_a_missing_file(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7)
        self.file(tmp_path / "c").unlink()
        with pytest.raises(MissingFileError):
            served.load(tmp_path / "c", ignore, NEVER)

    def test_a_broken_manifest(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7)
        self.file(tmp_path / "c", "*.json").write_text("{")
        with pytest.raises(ManifestError):
            served.load(tmp_path / "c", ignore, NEVER)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_row_that_is_not_finite(self, served, write_ours, tmp_path, value):
        rows = rows_of(SIGNS, 4)
        rows[len(rows) // 2, 1] = value
        write_ours(tmp_path / "c", {4: (SIGNS, rows)}, 7)
        with pytest.raises(GuardrailError, match=r"\.arrow: the row of sign \d+ .* is not finite"):
            served.load(tmp_path / "c", ignore, NEVER)

    def test_another_embedding_config(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7, embedding_config="theirs")
        with pytest.raises(ForeignConfigError, match="theirs"):
            served.load(tmp_path / "c", ignore, NEVER)

    def test_nothing_there(self, served, tmp_path):
        with pytest.raises(CheckpointIncompleteError):
            served.load(tmp_path / "nowhere", ignore, NEVER)
        with pytest.raises(CheckpointIncompleteError, match="no manifest"):
            served.load("memory://loading/nowhere", ignore, NEVER)

    def test_cancelled(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7)
        stop = threading.Event()
        with pytest.raises(LoadCancelled):
            served.load(tmp_path / "c", lambda progress: stop.set(), stop)

    def test_no_room(self, served, write_ours, tmp_path, monkeypatch):
        """It is asked before anything is made or read."""
        from satrap.embedding_server import room as module
        from satrap.embedding_server.room import Room

        write_ours(tmp_path / "c", ROWS, 7)
        monkeypatch.setattr(module, "present_room", lambda folder: (Room("the machine", 1000, "buy more"),))
        with pytest.raises(NoSpaceError, match="and the machine has room for 1,000; buy more"):
            served.load(tmp_path / "c", ignore, NEVER)

    def test_while_another_is_loaded(self, served, write_ours, tmp_path):
        write_ours(tmp_path / "c", ROWS, 7)
        caught = []

        def meanwhile(progress: LoadProgress) -> None:
            with pytest.raises(ConflictError) as refused:
                served.load(tmp_path / "c", ignore, NEVER)
            caught.append(refused)
            raise LoadCancelled

        with pytest.raises(LoadCancelled):
            served.load(tmp_path / "c", meanwhile, NEVER)
        assert caught


def test_a_value_that_float16_cannot_hold(shard_state, write_ours, tmp_path):
    rows = rows_of(SIGNS, 4)
    rows[3] = [65519, 65519, 0, -65519]  # rounds to what float16 has
    write_ours(tmp_path / "most", {4: (SIGNS, rows)}, 7)
    rows[3, 2] = -65520
    write_ours(tmp_path / "more", {4: (SIGNS, rows)}, 8)
    state = shard_state(row_dtype="float16")
    state.load(tmp_path / "most", ignore, NEVER)
    with pytest.raises(GuardrailError, match=r"float16 .* cannot hold"):
        state.load(tmp_path / "more", ignore, NEVER)
    assert state.applied() == (7, 0)
    shard_state(row_dtype="float32").load(tmp_path / "more", ignore, NEVER)


@pytest.mark.slow
def test_no_more_is_held_than_a_page_for_each_thread(table_directory, write_ours, tmp_path):
    """128 MB of rows in four files: two threads hold some batches of 4 MiB, besides the table, which is shared."""
    signs = np.arange(500_000, dtype=np.uint64)
    rows = np.ones((len(signs), 64), np.float32)
    write_ours(tmp_path / "c", {64: (signs, rows)}, 7, num_shards=4, page=50_000)
    write_ours(tmp_path / "small", {4: (signs[:10], np.ones((10, 4), np.float32))}, 1)
    # a process of its own: what other tests have allocated and freed would count
    script = Path(__file__).with_name("loading_process.py")
    command = [
        sys.executable,
        str(script),
        str(table_directory),
        str(tmp_path / "small"),
        str(tmp_path / "c"),
    ]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert told["rows"] == len(signs)
    assert told["most"] < 48 << 20


@pytest.fixture
def bucket(monkeypatch):
    """The URL of a bucket at moto's S3 server."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="rows")
    yield "s3://rows"
    server.stop()
    S3FileSystem.clear_instance_cache()


@pytest.mark.slow
class TestS3:
    def test_one_checkpoint(self, shard_state, write_ours, bucket):
        write_ours(f"{bucket}/c", ROWS, 7, num_shards=3)
        found = {}
        for index in range(2):
            state = shard_state(ShardRoute(index, 2))
            found |= content(state.start(f"{bucket}/c", ignore, NEVER).tables[4])
        assert found == expected(4, 7)
        state = shard_state(ShardRoute(1, 2))
        state.start(f"{bucket}/c", ignore, NEVER)
        assert state.snapshot.started == "warm"

    def test_a_folder_of_them_through_the_server(self, serve, write_ours, bucket, table_directory):
        from satrap.config import UpdatesConfig

        options = {"checkpoint": f"{bucket}/all", "updates": UpdatesConfig(poll_seconds=0.1)}
        server = serve(**options, table_directory=table_directory)
        assert server.status().checkpoint == "" and server.status().tables == []
        for sequence in (3, 5):
            write_ours(f"{bucket}/all/c{sequence}", ROWS, sequence)
            for _ in range(200):
                if server.status().checkpoint == f"{bucket}/all/c{sequence}":
                    break
                NEVER.wait(0.05)
            assert server.status().checkpoint == f"{bucket}/all/c{sequence}"
        (group,) = server.lookup((4, SIGNS)).groups
        assert group.rows == ROWS[4][1].tobytes()
