"""PERSIA's .emb files: one class of tests over the native decoder and a twin written from the format's description."""

import re
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import lookup_twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap._core import DecodeError, embedding_file
from satrap._core.table import Table


def twin_read(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    nodes = struct.unpack_from("<QIIIII", data)[5]
    signs, dims, inner_lens, values = [], [], [], []
    at = 28
    for _ in range(nodes):
        live = data[at + 8]
        at += 9
        if live:
            (inner_len,) = struct.unpack_from("<I", data, at)
            inner = np.frombuffer(data, np.float32, inner_len, at + 4)
            dim, sign = struct.unpack_from("<QQ", data, at + 4 + 4 * inner_len)
            at += 20 + 4 * inner_len
            signs.append(sign)
            dims.append(dim)
            inner_lens.append(inner_len)
            values.append(inner[:dim])
    assert at == len(data)
    return (
        np.array(signs, np.uint64),
        np.array(dims, np.uint32),
        np.array(inner_lens, np.uint32),
        np.concatenate([*values, np.empty(0, np.float32)]),
    )


def twin_read_packet(data: bytes, replica_index: int = 0, replica_size: int = 1):
    (n,) = struct.unpack_from("<I", data)
    at, signs, rows, entries = 4, {}, {}, {}
    for _ in range(n):
        (inner_len,) = struct.unpack_from("<I", data, at)
        inner = np.frombuffer(data, np.float32, inner_len, at + 4)
        dim, sign = struct.unpack_from("<QQ", data, at + 4 + 4 * inner_len)
        at += 20 + 4 * inner_len
        entries[dim] = entries.get(dim, 0) + 1
        if lookup_twin.farmhash64(np.array([sign], np.uint64))[0] % np.uint64(replica_size) == replica_index:
            signs.setdefault(dim, []).append(sign)
            rows.setdefault(dim, []).append(inner[:dim])
    (unix_seconds,) = struct.unpack_from("<Q", data, at)
    assert at + 8 == len(data)
    return (
        unix_seconds,
        {dim: (np.array(signs[dim], np.uint64), np.array(rows[dim])) for dim in signs},
        entries,
    )


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("s*/*.emb"))


class ReadTests:
    read: Callable

    @pytest.mark.parametrize("name", ["ckpt_1x1", "ckpt_2x4"])
    def test_contents_bit_for_bit(self, persia_data, name):
        contents = np.load(persia_data / f"{name}_contents.npz")
        expected = {
            int(sign): (int(dim), int(inner), values.tobytes())
            for sign, dim, inner, values in zip(
                contents["sign"],
                contents["dim"],
                contents["inner_len"],
                np.split(contents["values"], contents["offsets"][1:-1]),
                strict=True,
            )
        }
        got = {}
        for file in files_of(persia_data / name):
            signs, dims, inner_lens, values = type(self).read(file.read_bytes())
            rows = np.split(values, np.cumsum(dims)[:-1]) if len(dims) else []
            for sign, dim, inner, row in zip(
                signs.tolist(), dims.tolist(), inner_lens.tolist(), rows, strict=True
            ):
                assert sign not in got
                got[sign] = (dim, inner, row.tobytes())
        assert got == expected

    def test_every_live_node_of_a_damaged_list(self, persia_data):
        contents = np.load(persia_data / "ckpt_evicted_lru_corrupt_contents.npz")
        (file,) = files_of(persia_data / "ckpt_evicted_lru_corrupt")
        signs, dims, _, values = type(self).read(file.read_bytes())
        assert signs.tolist() == contents["scan_sign"].tolist()
        assert values.tobytes() == contents["scan_values"].tobytes()
        assert set(dims.tolist()) == {8}

    def test_a_file_without_entries(self, persia_data):
        data = (persia_data / "ckpt_2x4/s1/replica_1_shard_3.emb").read_bytes()
        assert [len(array) for array in type(self).read(data)] == [0, 0, 0, 0]


class TestTwin(ReadTests):
    read = twin_read


class TestRead(ReadTests):
    read = embedding_file.read


def read_by_descriptor(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return embedding_file.read(file.fileno())


class TestReadByDescriptor(ReadTests):
    read = read_by_descriptor

    def test_a_descriptor_that_is_none(self):
        with pytest.raises(OSError, match="Bad file descriptor"):
            embedding_file.read(-1)

    def test_no_file_at_all(self):
        with pytest.raises(TypeError, match="a descriptor, or a contiguous buffer"):
            embedding_file.read("replica_0_shard_0.emb")

    def test_same_dtypes_as_the_twin(self, persia_data):
        data = files_of(persia_data / "ckpt_2x4")[0].read_bytes()
        for native, twin in zip(embedding_file.read(data), twin_read(data), strict=True):
            assert native.dtype == twin.dtype
            assert native.tobytes() == twin.tobytes()


class TestSummarize:
    @pytest.mark.parametrize("name", ["ckpt_1x1", "ckpt_2x4"])
    def test_a_whole_file_agrees_with_itself(self, persia_data, name):
        for file in files_of(persia_data / name):
            data = file.read_bytes()
            summary = embedding_file.summarize(data)
            signs, dims, _, _ = twin_read(data)
            assert summary.count == summary.live == len(signs)
            assert summary.linked is None
            assert summary.nodes == struct.unpack_from("<I", data, 24)[0]
            assert summary.rows_by_dim == {int(d): int((dims == d).sum()) for d in np.unique(dims)}

    def test_damage_is_measured(self, persia_data):
        contents = np.load(persia_data / "ckpt_evicted_lru_corrupt_contents.npz")
        (file,) = files_of(persia_data / "ckpt_evicted_lru_corrupt")
        summary = embedding_file.summarize(file.read_bytes())
        assert summary.count == len(contents["expected_lru_sign"])
        assert summary.live == len(contents["scan_sign"])
        assert summary.linked == len(contents["walk_sign"])

    @pytest.mark.parametrize("replica_size", [1, 2, 3, 7])
    def test_every_row_belongs_to_one_shard(self, persia_data, replica_size):
        data = files_of(persia_data / "ckpt_2x4")[0].read_bytes()
        rows = [
            sum(embedding_file.summarize(data, index, replica_size).rows_by_dim.values())
            for index in range(replica_size)
        ]
        assert sum(rows) == 60

    def test_the_routing_is_persias(self, persia_data):
        for replica in (0, 1):
            for file in (persia_data / f"ckpt_2x4/s{replica}").glob("*.emb"):
                data = file.read_bytes()
                own = embedding_file.summarize(data, replica, 2)
                assert own.rows_by_dim == embedding_file.summarize(data).rows_by_dim
                assert embedding_file.summarize(data, 1 - replica, 2).rows_by_dim == {}


class TestLoad:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_rows_are_found_in_the_table_of_their_dim(self, persia_data, dtype):
        tables = {dim: Table(dim, dtype) for dim in (8, 16, 32)}
        contents = np.load(persia_data / "ckpt_2x4_contents.npz")
        rows = [
            embedding_file.load(f.read_bytes(), list(tables.values())).rows_by_dim
            for f in files_of(persia_data / "ckpt_2x4")
        ]
        assert {dim: sum(one.get(dim, 0) for one in rows) for dim in tables} == {
            dim: len(table) for dim, table in tables.items()
        }
        assert sum(map(len, tables.values())) == len(contents["sign"])
        for sign, dim, values in zip(
            contents["sign"],
            contents["dim"],
            np.split(contents["values"], contents["offsets"][1:-1]),
            strict=True,
        ):
            out = np.empty((1, dim), dtype)
            assert tables[int(dim)].lookup(np.array([sign], np.uint64), out) == 0
            with np.errstate(over="ignore", invalid="ignore"):
                assert out.tobytes() == values.astype(dtype).tobytes()

    def test_one_shard_only(self, persia_data):
        data = files_of(persia_data / "ckpt_1x1")[0].read_bytes()
        tables = [Table(8, "float32") for _ in range(3)]
        counts = [
            embedding_file.load(data, [table], index, 3).rows_by_dim for index, table in enumerate(tables)
        ]
        assert counts == [{8: len(table)} for table in tables] and sum(map(len, tables)) == 48

    def test_ordinal_is_the_rows(self, persia_data):
        table = Table(8, "float32")
        embedding_file.load(files_of(persia_data / "ckpt_1x1")[0].read_bytes(), [table], ordinal=9)
        assert set(table.scan()[2].tolist()) == {9}

    def test_a_dim_without_a_table(self, persia_data):
        data = files_of(persia_data / "ckpt_2x4")[0].read_bytes()
        with pytest.raises(embedding_file.MissingDimError, match=r"no table of dim \d+ was given"):
            embedding_file.load(data, [Table(64, "float32")])

    def test_a_shard_that_cannot_be(self):
        with pytest.raises(ValueError, match="replica_index must be below replica_size: 2 of 2"):
            embedding_file.load(b"", [], 2, 2)


@pytest.fixture
def data(persia_data) -> bytes:
    return files_of(persia_data / "ckpt_1x1")[0].read_bytes()


class TestBadFiles:
    def test_file_cut_at_any_length(self, data):
        for size in range(len(data)):
            with pytest.raises(DecodeError) as caught:
                embedding_file.summarize(data[:size])
            assert 0 <= caught.value.offset <= size
            assert caught.value.message and caught.value.field

    def test_file_longer_than_its_nodes(self, data):
        with pytest.raises(DecodeError, match="3 bytes follow the last node") as caught:
            embedding_file.read(data + b"abc")
        assert caught.value.offset == len(data)

    def test_four_billion_nodes(self, data):
        inflated = data[:24] + b"\xff\xff\xff\xff" + data[28:]
        with pytest.raises(DecodeError, match="promises 4294967295 nodes") as caught:
            embedding_file.summarize(inflated)
        assert (caught.value.offset, caught.value.field) == (24, "nodes")

    def test_four_billion_floats(self, data):
        inflated = data[:37] + b"\xff\xff\xff\xff" + data[41:]
        with pytest.raises(DecodeError, match="node 1 promises 4294967295 floats") as caught:
            embedding_file.summarize(inflated)
        assert (caught.value.offset, caught.value.field) == (37, "inner_len")

    def test_a_flag_that_is_neither(self, data):
        with pytest.raises(DecodeError, match="neither 0 nor 1") as caught:
            embedding_file.summarize(data[:36] + b"\x02" + data[37:])
        assert caught.value.offset == 36

    def test_an_error_is_a_value_error_with_one_sentence(self, data):
        with pytest.raises(ValueError, match="the file ends inside its header of 28 bytes"):
            embedding_file.read(data[:5])


@st.composite
def emb_files(draw: st.DrawFn) -> bytes:
    """A file whose nodes are free, alike, or not, in runs; longer than what is read at once only by chance."""
    nodes = []
    for _ in range(draw(st.integers(0, 6))):
        run = draw(st.integers(1, 40))
        if draw(st.booleans()):
            nodes.append((run, bytes(9)))
        else:
            dim = draw(st.integers(1, 5))
            inner = np.arange(dim + draw(st.integers(0, 3)), dtype=np.float32).tobytes()
            sign = draw(st.integers(0, 2**64 - 1))
            entry = struct.pack("<I", len(inner) // 4) + inner + struct.pack("<QQ", dim, sign)
            nodes.append((run, struct.pack("<IIB", 0, 0, 1) + entry))
    count = sum(run for run, _ in nodes)
    return struct.pack("<QIIIII", draw(st.integers(0, 300)), 1, 1, 0, 0, count) + b"".join(
        run * node for run, node in nodes
    )


def damaged(data: bytes, flips: list[int], cut: int | None) -> bytes:
    changed = bytearray(data)
    for flip in flips:
        changed[flip % (8 * len(data)) // 8] ^= 1 << flip % 8
    return bytes(changed if cut is None else changed[: cut % (len(data) + 1)])


@given(emb_files(), st.lists(st.integers(0, 2**20), max_size=3), st.none() | st.integers(0, 2**20))
@settings(deadline=None, max_examples=300)
def test_decoder_equals_the_twin_on_whole_and_damaged_files(data, flips, cut):
    """By bytes and by descriptor, the native decoder takes what the twin takes, and refuses everything else alike."""
    data = damaged(data, flips, cut)
    try:
        native = embedding_file.read(data)
    except DecodeError as error:
        with pytest.raises(DecodeError) as again:
            read_by_descriptor(data)
        assert (again.value.message, again.value.offset, again.value.field) == (
            error.message,
            error.offset,
            error.field,
        )
        assert 0 <= error.offset <= len(data)
        for use in (embedding_file.summarize, lambda file: embedding_file.load(file, tables_of(range(1, 9)))):
            with pytest.raises(DecodeError, match="^" + re.escape(error.message)):
                use(data)
        return
    for ours, by_descriptor, theirs in zip(native, read_by_descriptor(data), twin_read(data), strict=True):
        assert ours.tobytes() == by_descriptor.tobytes() == theirs.tobytes()
    summary = embedding_file.summarize(data)
    tables = tables_of(set(native[1].tolist()))
    loaded = embedding_file.load(data, tables)
    assert (loaded.live, loaded.rows_by_dim) == (summary.live, summary.rows_by_dim)
    assert loaded.linked == summary.linked and summary.live == len(native[0])
    last = dict(zip(native[0].tolist(), native[1].tolist(), strict=True))
    if len(last) == len(native[0]):  # a sign that occurs with two dims has a row in two tables
        assert sum(map(len, tables)) == len(last)
    estimate = embedding_file.estimate(data)
    if estimate is not None and len(set(zip(native[1].tolist(), native[2].tolist(), strict=True))) <= 1:
        assert estimate == (int(native[1][0]) if summary.live else 0, summary.live)


def tables_of(dims: Iterable[int]) -> list[Table]:
    return [Table(dim, "float32") for dim in dims]


def packet_of(entries: Iterable[tuple[int, np.ndarray, int]], unix_seconds: int = 1_700_000_000) -> bytes:
    """A .inc file of (sign, floats, dim)."""
    body = [
        struct.pack("<I", len(inner)) + inner.astype(np.float32).tobytes() + struct.pack("<QQ", dim, sign)
        for sign, inner, dim in entries
    ]
    return struct.pack("<I", len(body)) + b"".join(body) + struct.pack("<Q", unix_seconds)


SMALL_PACKET = packet_of(
    [
        (5, np.arange(4), 2),
        (2**64 - 1, np.array([np.nan, np.inf, -0.0]), 3),
        (5, np.arange(4) + 10, 2),  # again: both are kept, in order
        (0, np.arange(2) - 1, 2),
    ]
)


class PacketTests:
    read: Callable

    def test_packets_of_persia_bit_for_bit(self, persia_data):
        for second in ("00", "10", "20"):
            contents = np.load(persia_data / f"inc_202601010000{second}_contents.npz")
            got = {}
            for file in sorted((persia_data / "inc_dir").glob(f"s*/inc_202601010000{second}/*.inc")):
                unix_seconds, rows, entries = type(self).read(file.read_bytes())
                assert {dim: len(signs) for dim, (signs, _) in rows.items()} == entries
                assert 1_700_000_000 < unix_seconds < 2**32
                for dim, (signs, values) in rows.items():
                    assert signs.dtype == np.uint64 and values.dtype == np.float32 and values.shape[1] == dim
                    got |= {sign: row.tobytes() for sign, row in zip(signs.tolist(), values, strict=True)}
            values = np.split(contents["values"], contents["offsets"][1:-1])
            expected = {int(sign): row.tobytes() for sign, row in zip(contents["sign"], values, strict=True)}
            assert got == expected

    def test_order_and_repeated_signs_are_the_files(self):
        unix_seconds, rows, entries = type(self).read(SMALL_PACKET)
        assert unix_seconds == 1_700_000_000 and entries == {2: 3, 3: 1}
        signs, values = rows[2]
        assert signs.tolist() == [5, 5, 0] and values.tolist() == [[0, 1], [10, 11], [-1, 0]]
        assert rows[3][1].tobytes() == np.array([[np.nan, np.inf, -0.0]], np.float32).tobytes()

    def test_every_row_belongs_to_one_shard(self):
        packet = packet_of((sign, np.array([sign]), 1) for sign in range(100))
        parts = [type(self).read(packet, index, 3) for index in range(3)]
        signs = np.concatenate([rows[1][0] for _, rows, _ in parts])
        assert sorted(signs.tolist()) == list(range(100))
        assert all(entries == {1: 100} and len(rows[1][0]) < 60 for _, rows, entries in parts)

    def test_a_packet_without_entries(self):
        assert type(self).read(packet_of([], 7)) == (7, {}, {})


class TestTwinPacket(PacketTests):
    read = twin_read_packet


class TestReadPacket(PacketTests):
    read = embedding_file.read_packet

    @pytest.mark.parametrize("wrap", [bytearray, memoryview])
    def test_buffers(self, wrap):
        assert embedding_file.read_packet(wrap(SMALL_PACKET))[2] == {2: 3, 3: 1}

    def test_a_shard_that_cannot_be(self):
        with pytest.raises(ValueError, match="replica_index must be below replica_size: 2 of 2"):
            embedding_file.read_packet(SMALL_PACKET, 2, 2)

    @given(
        st.lists(
            st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 9), st.integers(0, 9)),
            max_size=20,
        ),
        st.sampled_from([(0, 1), (1, 2), (2, 3)]),
    )
    @settings(deadline=None)
    def test_same_as_its_twin(self, entries, shard):
        packet = packet_of(
            (sign, np.random.default_rng(sign).standard_normal(dim + more), dim)
            for sign, dim, more in entries
        )
        native, twin = embedding_file.read_packet(packet, *shard), twin_read_packet(packet, *shard)
        assert native[0] == twin[0] and native[2] == twin[2] and native[1].keys() == twin[1].keys()
        for dim, (signs, rows) in native[1].items():
            assert signs.tolist() == twin[1][dim][0].tolist() and rows.tobytes() == twin[1][dim][1].tobytes()


class TestBadPackets:
    def test_cut_at_any_length(self):
        for size in range(len(SMALL_PACKET)):
            with pytest.raises(DecodeError) as caught:
                embedding_file.read_packet(SMALL_PACKET[:size])
            assert 0 <= caught.value.offset <= size and caught.value.message and caught.value.field

    def test_the_one_that_persia_cut(self, persia_data):
        data = (persia_data / "inc_dir/s0/inc_20260101000040/0_0.inc").read_bytes()
        with pytest.raises(DecodeError):
            embedding_file.read_packet(data)

    def test_longer_than_its_time(self):
        with pytest.raises(DecodeError, match="3 bytes follow the time") as caught:
            embedding_file.read_packet(SMALL_PACKET + b"abc")
        assert caught.value.offset == len(SMALL_PACKET)

    @pytest.mark.parametrize(
        ("at", "value", "message"),
        [
            (0, b"\xff" * 4, "entries says 4294967295 items"),
            (0, b"\x03\0\0\0", "bytes follow the time"),
            (4, b"\xff" * 4, "entry 0 promises 4294967295 floats"),
            (24, b"\0" * 8, "entry 0 has an embedding of dim 0 in 4 floats"),
            (24, b"\x05" + b"\0" * 7, "dim 5 in 4 floats"),
            (24, b"\xff" * 8, "dim 18446744073709551615"),
        ],
    )
    def test_lies_about_counts(self, at, value, message):
        data = SMALL_PACKET[:at] + value + SMALL_PACKET[at + len(value) :]
        with pytest.raises(DecodeError, match=message):
            embedding_file.read_packet(data)

    @given(st.integers(0, len(SMALL_PACKET) * 8 - 1))
    def test_a_flipped_bit_is_an_error_or_another_packet(self, bit):
        data = bytearray(SMALL_PACKET)
        data[bit // 8] ^= 1 << bit % 8
        try:
            _, rows, entries = embedding_file.read_packet(bytes(data))
        except DecodeError:
            return
        assert sum(len(signs) for signs, _ in rows.values()) == sum(entries.values()) == 4
