"""Checkpoints written by us: what PERSIA's format says, whole or not at all."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import satrap.trainer.persia_checkpoint as module
from satrap._core import embedding_file
from satrap.errors import CheckpointError, InvalidInputError
from satrap.formats.persia_checkpoint import ShardRoute, file_name, open_checkpoint
from satrap.formats.persia_marker import MARKER, Marker, parse_marker
from satrap.trainer import write_persia_checkpoint

RANDOM = np.random.default_rng(7)


def table(dim: int, rows: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    signs = (np.arange(first, first + rows, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return signs, RANDOM.standard_normal((rows, dim)).astype(np.float32)


def contents(path: Path) -> dict[int, tuple[int, int, bytes]]:
    """sign -> replica, dim, row bytes, read file by file."""
    got = {}
    for file in sorted(path.glob("s*/*.emb")):
        signs, dims, _, values = embedding_file.read(file.read_bytes())
        rows = np.split(values, np.cumsum(dims)[:-1]) if len(dims) else []
        for sign, dim, row in zip(signs.tolist(), dims.tolist(), rows, strict=True):
            assert sign not in got
            got[sign] = (int(file.parent.name[1:]), dim, row.tobytes())
    return got


def expected(tables, shard_of) -> dict[int, tuple[int, int, bytes]]:
    return {
        sign: (shard_of[sign], dim, row.tobytes())
        for dim, (signs, rows) in tables.items()
        for sign, row in zip(signs.tolist(), rows, strict=True)
    }


def test_rows_and_shards_are_those_that_persia_wrote(persia_data, tmp_path):
    persia = np.load(persia_data / "ckpt_2x4_contents.npz")
    rows = np.split(persia["values"], persia["offsets"][1:-1])
    tables = {}
    for dim in (8, 16, 32):
        chosen = np.flatnonzero(persia["dim"] == dim)
        tables[dim] = (persia["sign"][chosen], np.stack([rows[i] for i in chosen]))
    write_persia_checkpoint(tmp_path / "ckpt", tables, num_shards=2)
    shard_of = dict(zip(persia["sign"].tolist(), persia["replica"].tolist(), strict=True))
    assert contents(tmp_path / "ckpt") == expected(tables, shard_of) == contents(persia_data / "ckpt_2x4")


@given(
    st.dictionaries(st.integers(1, 9), st.integers(0, 40), max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 5),
    st.integers(0, 20),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_whole(tmp_path_factory, sizes, num_shards, num_internal_shards, floats, free):
    path = tmp_path_factory.mktemp("written") / "ckpt"
    tables = {dim: table(dim, rows, 1000 * dim) for dim, rows in sizes.items()}
    write_persia_checkpoint(
        path,
        tables,
        num_shards=num_shards,
        num_internal_shards=num_internal_shards,
        optimizer_floats=floats,
        free_nodes=free,
        written_ns=123_456_789_000,
    )
    assert {sign: row[1:] for sign, row in contents(path).items()} == {
        sign: row[1:] for sign, row in expected(tables, dict.fromkeys(_signs(tables), 0)).items()
    }
    for index in range(num_shards):
        plan = open_checkpoint(path, ShardRoute(index, num_shards))
        assert len(plan.files) == num_internal_shards and plan.warnings == ()
        for file in plan.files:
            summary = embedding_file.summarize(file.path.read_bytes(), index, num_shards)
            assert summary.count == summary.live == sum(summary.rows_by_dim.values())
            assert summary.nodes == summary.live + free
    assert parse_marker(path / MARKER, (path / MARKER).read_bytes()) == Marker(
        num_shards, num_internal_shards, 123_456_789_000
    )


def _signs(tables) -> list[int]:
    return [sign for signs, _ in tables.values() for sign in signs.tolist()]


def test_the_links_are_those_of_a_list(tmp_path):
    write_persia_checkpoint(
        tmp_path / "ckpt",
        {2: table(2, 3), 4: table(4, 2, 50)},
        num_shards=1,
        num_internal_shards=1,
        free_nodes=3,
        optimizer_floats=1,
    )
    data = (tmp_path / "ckpt/s0" / file_name(0, 0)).read_bytes()
    assert struct.unpack_from("<QIIIII", data) == (5, 1, 5, 6, 8, 8)
    at, nodes = 28, []
    for _ in range(8):
        following, previous, live = struct.unpack_from("<IIB", data, at)
        nodes.append((following, previous, live))
        at += 9
        if live:
            at += 20 + 4 * struct.unpack_from("<I", data, at)[0]
    assert at == len(data)
    assert nodes[:5] == [(2, 0, 1), (3, 1, 1), (4, 2, 1), (5, 3, 1), (0, 4, 1)]
    assert nodes[5:] == [(7, 0, 0), (8, 0, 0), (0, 0, 0)]


class TestPublication:
    def test_an_existing_directory_is_refused(self, tmp_path):
        (tmp_path / "ckpt").mkdir()
        with pytest.raises(CheckpointError, match="exists already"):
            write_persia_checkpoint(tmp_path / "ckpt", {}, num_shards=1)
        assert list((tmp_path / "ckpt").iterdir()) == []

    def test_nothing_is_left_of_a_failure(self, tmp_path, monkeypatch):
        def full(path: Path, blocks: object) -> None:
            if path.name == MARKER:
                raise OSError(28, "No space left on device")
            path.write_bytes(b"".join(blocks))

        monkeypatch.setattr(module, "_write_synced", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            write_persia_checkpoint(tmp_path / "ckpt", {2: table(2, 3)}, num_shards=1)
        assert list(tmp_path.iterdir()) == []

    def test_markers_come_last(self, tmp_path, monkeypatch):
        order = []
        real = module._write_synced
        monkeypatch.setattr(
            module, "_write_synced", lambda path, blocks: (order.append(path.name), real(path, blocks))[1]
        )
        write_persia_checkpoint(tmp_path / "ckpt", {}, num_shards=2, num_internal_shards=1)
        assert order == [file_name(0, 0), MARKER, file_name(1, 0), MARKER, MARKER]

    def test_folders_above_are_made(self, tmp_path):
        write_persia_checkpoint(tmp_path / "a/b/ckpt", {}, num_shards=1)
        assert (tmp_path / "a/b/ckpt" / MARKER).is_file()


class TestBadInput:
    @pytest.mark.parametrize(
        ("tables", "options", "reason"),
        [
            ({0: table(1, 1)}, {}, "dim must be at least 1, not 0"),
            ({2: (np.zeros(3, np.int64), np.zeros((3, 2), np.float32))}, {}, "signs of dim 2 must be uint64"),
            (
                {2: (np.arange(3, dtype=np.uint64), np.zeros((3, 2)))},
                {},
                r"must be float32 \[3, 2\], not float64",
            ),
            ({2: (np.arange(3, dtype=np.uint64), np.zeros((3, 3), np.float32))}, {}, r"not float32 \[3, 3\]"),
            ({2: table(2, 3), 4: table(4, 3)}, {}, "the sign 0 occurs twice"),
            ({}, {"num_shards": 0}, "num_shards must be at least 1, not 0"),
            ({}, {"num_internal_shards": 0}, "num_internal_shards must be at least 1"),
            ({}, {"free_nodes": -1}, "free_nodes must be at least 0"),
        ],
    )
    def test_refused_with_the_reason(self, tmp_path, tables, options, reason):
        with pytest.raises(InvalidInputError, match=reason):
            write_persia_checkpoint(tmp_path / "ckpt", tables, **{"num_shards": 1, **options})
        assert not (tmp_path / "ckpt").exists()
