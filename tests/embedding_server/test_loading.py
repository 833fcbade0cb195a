"""Loading: what is served while it runs, what it refuses, and the switch."""

import shutil
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import pytest

import satrap.embedding_server.loading as loading
from satrap._core.embedding_file import EmbeddingFileSummary
from satrap._core.table import Table
from satrap.embedding_server import EmbeddingServerSettings, run
from satrap.embedding_server.loading import LoadCancelled, LoadProgress, load_checkpoint
from satrap.embedding_server.snapshot import Phase
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.errors import (
    CheckpointCorruptError,
    CheckpointIncompleteError,
    NoSpaceError,
    ShardUnavailableError,
)
from satrap.formats.persia_checkpoint import ShardRoute, file_name
from satrap.protos import embedding_pb2 as pb
from satrap.trainer import write_persia_checkpoint

NEVER = threading.Event()


def ignore(_: LoadProgress) -> None:
    """Nobody watches."""


def private(rows: Mapping[int, int]) -> dict[int, Table]:
    """Tables that belong to no generation."""
    return {dim: Table(dim, "float32", count) for dim, count in rows.items()}


@pytest.fixture
def shard_state(table_directory):
    """shard_state(owner) -> ShardState."""
    with ExitStack() as stack:

        def make(owner: ShardRoute) -> ShardState:
            directory = TableDirectory(TablePlace(table_directory), owner)
            stack.callback(directory.close)
            state = ShardState(directory, "float32", 1)
            stack.callback(state.close)
            return state

        yield make


class Gate:
    """Holds a load between making its tables and filling them until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        real = loading.load_file

        def wait(*arguments: object, **options: object) -> EmbeddingFileSummary:
            self.reached.set()
            assert self.opened.wait(30)
            return real(*arguments, **options)

        monkeypatch.setattr(loading, "load_file", wait)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def ones_and_twos(tmp_path):
    """Two checkpoints of the same signs whose rows are all ones, and all twos."""
    signs = np.arange(1000, dtype=np.uint64)
    for name, value in (("ones", 1), ("twos", 2)):
        rows = np.full((1000, 4), value, np.float32)
        write_persia_checkpoint(tmp_path / name, {4: (signs, rows)}, num_shards=1)
    return tmp_path / "ones", tmp_path / "twos"


class TestLoadCheckpoint:
    @pytest.mark.parametrize("threads", [1, 3])
    def test_progress_ends_at_one(self, persia_data, threads):
        told: list[LoadProgress] = []
        generation = load_checkpoint(
            persia_data / "ckpt_2x4", ShardRoute(), threads, private, told.append, NEVER
        )
        fractions = [progress.fraction for progress in told]
        assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == pytest.approx(1)
        assert told[-1] == LoadProgress(8, 8, 434, fractions[-1])
        rows = {dim: len(table) for dim, table in generation.tables.items()}
        assert rows == {8: 138, 16: 153, 32: 143}

    def test_tables_are_made_in_their_size(self, ones_and_twos):
        generation = load_checkpoint(ones_and_twos[0], ShardRoute(), 2, private, ignore, NEVER)
        before = generation.tables[4].bytes
        generation.tables[4].reserve(1000)
        assert generation.tables[4].bytes == before

    def test_files_whose_rows_are_alike_are_read_once(self, ones_and_twos, monkeypatch):
        counted = []
        monkeypatch.setattr(loading, "summarize_file", lambda file, route: counted.append(file))
        loaded = load_checkpoint(ones_and_twos[0], ShardRoute(), 2, private, ignore, NEVER)
        assert len(loaded.tables[4]) == 1000 and counted == []

    @pytest.mark.parametrize("size", [2, 3, 7])
    def test_every_row_is_of_one_of_any_number_of_servers(self, ones_and_twos, size):
        told = [
            load_checkpoint(ones_and_twos[0], ShardRoute(index, size), 2, private, ignore, NEVER)
            for index in range(size)
        ]
        assert sum(len(loaded.tables[4]) for loaded in told) == 1000

    def test_a_dim_that_the_sizes_hide(self, ones_and_twos):
        # Behind a hundred rows of dim 2 with three floats of the optimizer's, fifty of dim 3 with two.
        data = struct.pack("<QIIIII", 150, 1, 150, 0, 0, 150)
        for number in range(150):
            dim = 2 if number < 100 else 3
            data += struct.pack("<IIBI5fQQ", 0, 0, 1, 5, *range(5), dim, 5000 + number)
        (ones_and_twos[0] / "s0" / file_name(0, 1)).write_bytes(data)
        told: list[LoadProgress] = []
        loaded = load_checkpoint(ones_and_twos[0], ShardRoute(), 2, private, told.append, NEVER)
        assert (len(loaded.tables[2]), len(loaded.tables[3])) == (100, 50)
        assert told[-1].rows == sum(map(len, loaded.tables.values())) and told[-1].files_done == 4
        fractions = [progress.fraction for progress in told]
        assert fractions == sorted(fractions) and fractions[-1] == 1
        out = np.empty((1, 3), np.float32)
        assert loaded.tables[3].lookup(np.array([5149], np.uint64), out) == 0 and out.tolist() == [[0, 1, 2]]

    def test_what_was_recovered_is_told(self, persia_data):
        loaded = load_checkpoint(
            persia_data / "ckpt_evicted_lru_corrupt", ShardRoute(), 1, private, ignore, NEVER
        )
        (warning,) = loaded.warnings
        assert "links lead to 11" in warning and "95 are there" in warning and len(loaded.tables[8]) == 95

    @pytest.mark.parametrize(("dtype", "count"), [("float32", 2), ("float16", 3)])
    def test_rows_that_are_not_finite_are_served_and_told(self, tmp_path, dtype, count):
        """PERSIA serves them."""
        signs = np.arange(1, 101, dtype=np.uint64)
        rows = np.ones((100, 4), np.float32)
        rows[3], rows[7, 2], rows[9, 1] = np.nan, np.inf, 65520
        write_persia_checkpoint(tmp_path / "ckpt", {4: (signs, rows)}, num_shards=1)

        def tables(expected: Mapping[int, int]) -> dict[int, Table]:
            return {dim: Table(dim, dtype) for dim in expected}

        loaded = load_checkpoint(tmp_path / "ckpt", ShardRoute(), 2, tables, ignore, NEVER)
        (warning,) = loaded.warnings
        assert f"of 100 rows that were looked at, {count} have values that are not finite" in warning
        assert ("float16" in warning) == (dtype == "float16")
        out = np.empty((100, 4), dtype)
        assert loaded.tables[4].lookup(signs, out) == 0
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(out, rows.astype(dtype))

    def test_of_a_large_table_a_part_is_looked_at(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loading, "_PAGE", 100)
        monkeypatch.setattr(loading, "_PAGES_LOOKED_AT", 3)
        signs = np.arange(1, 5001, dtype=np.uint64)
        write_persia_checkpoint(
            tmp_path / "ckpt", {4: (signs, np.full((5000, 4), np.nan, np.float32))}, num_shards=1
        )
        (warning,) = load_checkpoint(tmp_path / "ckpt", ShardRoute(), 2, private, ignore, NEVER).warnings
        looked_at = int(warning.partition(": of ")[2].split()[0])
        assert 300 <= looked_at < 400 and f"{looked_at} have values" in warning

    def test_cancelled_between_two_files(self, persia_data):
        cancelled = threading.Event()
        with pytest.raises(LoadCancelled):
            load_checkpoint(
                persia_data / "ckpt_2x4",
                ShardRoute(),
                1,
                private,
                lambda _: cancelled.set(),
                cancelled,
            )

    def test_tables_that_do_not_fit(self, persia_data):
        def no_memory(rows: Mapping[int, int]) -> dict[int, Table]:
            raise NoSpaceError(f"no room for {rows[8]} rows")

        with pytest.raises(NoSpaceError, match="no room for 138 rows"):
            load_checkpoint(persia_data / "ckpt_2x4", ShardRoute(), 1, no_memory, ignore, NEVER)

    def test_nothing_for_this_shard(self, tmp_path):
        write_persia_checkpoint(tmp_path / "ckpt", {}, num_shards=2)
        generation = load_checkpoint(tmp_path / "ckpt", ShardRoute(1, 2), 2, private, ignore, NEVER)
        assert generation.tables == {}


class TestShardState:
    def test_phases(self, ones_and_twos, tmp_path, shard_state):
        state = shard_state(ShardRoute(1, 3))
        assert state.snapshot.phase is Phase.LOADING
        with pytest.raises(ShardUnavailableError, match=r"embedding shard 1 of 3.*it is starting"):
            state.generation()
        with pytest.raises(CheckpointIncompleteError):
            state.load(tmp_path / "nowhere", ignore, NEVER)
        assert state.snapshot.phase is Phase.FAILED and "no such directory" in state.snapshot.message
        state.load(ones_and_twos[0], ignore, NEVER)
        assert state.snapshot.phase is Phase.READY and state.snapshot.message == ""

    def test_lookups_meet_the_progress_while_nothing_is_served(self, ones_and_twos, gate, shard_state):
        state = shard_state(ShardRoute())
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(state.load, ones_and_twos[0], ignore, NEVER)
            assert gate.reached.wait(30)
            with pytest.raises(ShardUnavailableError, match=r"loading .*ones: 0%, 0 of 4 files, 0 rows"):
                state.generation()
            gate.opened.set()
            assert load.result() is state.generation()


class TestOverTheWire:
    def test_a_load_switches_and_tells(self, serve, ones_and_twos, rows_of):
        server = serve(checkpoint=ones_and_twos[0])
        told = server.load(ones_and_twos[1])
        assert [message.done for message in told] == [False] * (len(told) - 1) + [True]
        assert (told[-1].files_done, told[-1].files_total, told[-1].rows) == (4, 4, 1000)
        assert set(rows_of(server.lookup((4, range(1000))).groups[0]).ravel()) == {2}
        assert server.status().checkpoint == str(ones_and_twos[1])

    def test_lookups_beside_loads_see_one_checkpoint_or_the_other(self, serve, ones_and_twos, rows_of):
        server = serve(checkpoint=ones_and_twos[0])
        done, seen = threading.Event(), []

        def ask() -> None:
            while not done.is_set():
                seen.append(frozenset(rows_of(server.lookup((4, range(1000))).groups[0]).ravel().tolist()))

        asker = threading.Thread(target=ask)
        asker.start()
        for turn in range(6):
            server.load(ones_and_twos[(turn + 1) % 2])
        done.set()
        asker.join()
        assert seen and set(seen) <= {frozenset({1.0}), frozenset({2.0})}

    def test_what_was_served_goes_on_during_a_load(self, serve, ones_and_twos, gate, refused, rows_of):
        gate.opened.set()
        server = serve(checkpoint=ones_and_twos[0])
        gate.opened.clear()
        gate.reached.clear()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(server.load, ones_and_twos[1])
            assert gate.reached.wait(30)
            status = server.status()
            assert status.state == pb.STATE_READY and status.progress == 0
            assert "loading" in status.message and status.checkpoint == str(ones_and_twos[0])
            assert set(rows_of(server.lookup((4, [1])).groups[0]).ravel()) == {1}
            code, details = refused(lambda: server.load(ones_and_twos[1]))
            assert code is grpc.StatusCode.ABORTED and "being loaded already" in details
            gate.opened.set()
            assert load.result()[-1].done

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("ckpt_no_done", "embedding_dump_done: the marker is missing"),
            ("ckpt_truncated", "replica_0_shard_0.emb: node 26"),
            ("nowhere", "no such directory"),
        ],
    )
    def test_a_refused_checkpoint_changes_nothing(
        self, serve, persia_data, ones_and_twos, name, sentence, refused, rows_of
    ):
        server = serve(checkpoint=ones_and_twos[0])
        code, details = refused(lambda: server.load(persia_data / name))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and sentence in details
        status = server.status()
        assert status.state == pb.STATE_READY and sentence in status.message
        assert status.checkpoint == str(ones_and_twos[0])
        assert set(rows_of(server.lookup((4, [1])).groups[0]).ravel()) == {1}
        assert server.load(ones_and_twos[1])[-1].done

    def test_a_file_that_is_gone_in_the_second_pass(
        self, serve, ones_and_twos, tmp_path, gate, refused, rows_of
    ):
        gate.opened.set()
        server = serve(checkpoint=ones_and_twos[0])
        gate.opened.clear()
        gate.reached.clear()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(lambda: refused(lambda: server.load(ones_and_twos[1])))
            assert gate.reached.wait(30)
            shutil.rmtree(ones_and_twos[1] / "s0")
            gate.opened.set()
            code, details = load.result()
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "cannot be read: No such file" in details
        assert set(rows_of(server.lookup((4, [1])).groups[0]).ravel()) == {1}

    def test_an_empty_path(self, serve, refused):
        code, details = refused(lambda: serve().load(""))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "path is empty" in details


class TestFirstLoad:
    @pytest.mark.parametrize(
        ("name", "error"),
        [("ckpt_no_done", CheckpointIncompleteError), ("ckpt_truncated", CheckpointCorruptError)],
    )
    def test_a_refused_checkpoint_ends_the_server(self, serve, persia_data, name, error):
        server = serve(checkpoint=persia_data / name)
        assert isinstance(server.failure, error) and server.lines == []

    def test_missing_file_is_named(self, serve, persia_data, tmp_path):
        shutil.copytree(persia_data / "ckpt_2x4", tmp_path / "ckpt")
        (tmp_path / "ckpt/s0" / file_name(0, 3)).unlink()
        server = serve(checkpoint=tmp_path / "ckpt")
        assert isinstance(server.failure, CheckpointIncompleteError)
        assert server.failure.path == tmp_path / "ckpt/s0" / file_name(0, 3)

    def test_a_stop_in_the_middle_is_no_error(self, ones_and_twos, table_directory):
        stop, ready = threading.Event(), []
        settings = EmbeddingServerSettings(
            port=0, checkpoint=ones_and_twos[0], table_directory=table_directory
        )
        run(settings, stop, ready.append, lambda fraction, rows: stop.set())
        assert ready == []
