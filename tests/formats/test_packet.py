"""Packets: published whole, read by any number of shards, refused by name, with nothing changed."""

import io
import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap._core import ids
from satrap.errors import (
    ChecksumError,
    InvalidInputError,
    ManifestError,
    MisroutedSignError,
    MissingFileError,
    OrdinalRangeError,
    PathEscapeError,
    RowCountError,
    RowFileError,
    StorageError,
    TruncatedFileError,
)
from satrap.formats.manifest import Dense, FileEntry, format_manifest, manifest_name
from satrap.formats.packet import (
    PacketContent,
    data_file_name,
    entries_of,
    manifest_of_data_file,
    publish_packet,
    read_manifest,
    read_shard,
)
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.row_file import checksum_of
from satrap.storage import open_storage

SIGNS = np.arange(100, 160, dtype=np.uint64)
ROWS = np.outer(SIGNS, [1.0, 0.5]).astype(np.float32)
ALL = ShardRoute()


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path / "packets")


def publish(storage, parts=None, **options):
    options = {"stream": "ads", "writer": "5a1c", "sequence": 3, "previous": 2} | options
    return publish_packet(
        storage, parts=[PacketContent(2, SIGNS, ROWS)] if parts is None else parts, **options
    )


def names(storage, **options):
    return [entry.name for entry in storage.list(**options)]


def table_of(parts):
    """What a table is after the records, in their order: sign -> row, or None if deleted last."""
    table = {}
    for dim, signs, rows in parts:
        for index, sign in enumerate(signs.tolist()):
            table[dim, sign] = None if rows is None else tuple(rows[index].tolist())
    return table


def test_files_first_then_the_manifest(storage):
    seen = []
    manifest = publish(storage, num_shards=2, before_manifest=lambda: seen.extend(names(storage)))
    assert seen == [data_file_name(3, "5a1c", 2, "float32", shard, 2) for shard in range(2)]
    assert seen[0] == "00000000000000000003-5a1c.2-float32.0-of-2.arrow"
    assert names(storage) == [*seen, "00000000000000000003-5a1c.json"]
    assert names(storage, temporary=True) == names(storage)
    assert read_manifest(storage, manifest.name) == manifest
    assert manifest.records == 60 and manifest.published_ns > 1_600_000_000 * 10**9


def test_a_manifest_sorts_after_no_manifest_of_a_later_sequence(storage):
    for sequence in (9, 10, 11):
        publish(storage, sequence=sequence)
    manifests = [name for name in names(storage) if name.endswith(".json")]
    assert manifests == [f"{sequence:020d}-5a1c.json" for sequence in (9, 10, 11)]


def test_what_the_publisher_says_is_in_the_manifest(storage):
    manifest = publish(
        storage,
        oldest_event_ns=5,
        newest_event_ns=6,
        embedding_config="ab" * 32,
        dense=Dense("ctr", "7"),
        published_ns=8,
        dtype="float16",
    )
    read = read_manifest(storage, manifest.name)
    assert (read.stream, read.writer, read.sequence, read.previous) == ("ads", "5a1c", 3, 2)
    assert (read.oldest_event_ns, read.newest_event_ns, read.published_ns) == (5, 6, 8)
    assert (read.embedding_config, read.dense, read.files[0].dtype) == (
        "ab" * 32,
        Dense("ctr", "7"),
        "float16",
    )


@pytest.mark.parametrize("num_shards", [1, 2, 5])
@pytest.mark.parametrize("replica_size", [1, 2, 3])
def test_every_shard_reads_its_own_rows(storage, num_shards, replica_size):
    parts = [
        PacketContent(2, SIGNS, ROWS),
        PacketContent(2, SIGNS[:9]),
        PacketContent(1, SIGNS[:5], ROWS[:5, :1]),
    ]
    manifest = publish(storage, parts, num_shards=num_shards)
    found = {}
    for index in range(replica_size):
        own = read_shard(storage, manifest, ShardRoute(index, replica_size))
        for _, signs, _ in own:
            assert (ids.farmhash64(signs) % np.uint64(replica_size) == index).all()
        found |= table_of(own)
    assert found == table_of([(part.dim, part.signs, part.rows) for part in parts])
    assert sum(value is None for value in found.values()) == 9


def test_equal_numbers_of_shards_read_one_file(storage):
    manifest = publish(storage, num_shards=4)
    assert [entry.shard for entry in entries_of(manifest, ShardRoute(2, 4))] == [2]
    assert [entry.shard for entry in entries_of(manifest, ShardRoute(2, 3))] == [0, 1, 2, 3]


def test_records_keep_their_order(storage):
    sign = SIGNS[:1]
    parts = [
        PacketContent(2, sign, ROWS[:1]),
        PacketContent(2, sign),
        PacketContent(2, sign, ROWS[1:2]),
        PacketContent(2, sign, ROWS[2:3]),
        PacketContent(1, sign, ROWS[:1, :1]),
    ]
    manifest = publish(storage, parts, num_shards=3)
    assert len({entry.name for entry in manifest.files}) == 4
    for route in (ALL, ShardRoute(int(ids.farmhash64(sign)[0] % 3), 3)):
        read = read_shard(storage, manifest, route)
        assert [(dim, None if rows is None else rows[:, 0].tolist()) for dim, _, rows in read] == [
            (2, [100.0]),
            (2, None),
            (2, [101.0, 102.0]),
            (1, [100.0]),
        ]


@pytest.mark.parametrize("parts", [[], [PacketContent(2, SIGNS[:0], ROWS[:0])]])
def test_a_packet_without_records(storage, parts):
    manifest = publish(storage, parts)
    assert manifest.files == () and read_shard(storage, manifest, ALL) == []
    assert names(storage) == [manifest.name]


def test_a_packet_is_published_once(storage):
    first = publish(storage)
    with pytest.raises(FileExistsError, match="published already"):
        publish(storage, [PacketContent(2, SIGNS, ROWS + 1)])
    assert read_manifest(storage, first.name) == first
    [(_, _, rows)] = read_shard(storage, first, ALL)
    np.testing.assert_array_equal(rows, ROWS)


def test_a_publication_that_was_cut_off_is_repeated(storage):
    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(storage, before_manifest=die)
    assert len(names(storage)) == 1
    manifest = publish(storage, [PacketContent(2, SIGNS[:5], ROWS[:5] + 1)])
    [(_, signs, rows)] = read_shard(storage, manifest, ALL)
    np.testing.assert_array_equal(signs, SIGNS[:5])
    np.testing.assert_array_equal(rows, ROWS[:5] + 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sequence": 0, "previous": 0}, ManifestError),
        ({"sequence": 2**32, "previous": 2**32 - 1}, OrdinalRangeError),
        ({"previous": 3}, ManifestError),
        ({"stream": "a/b"}, ManifestError),
        ({"writer": ""}, ManifestError),
        ({"num_shards": 65_537, "parts": []}, ManifestError),
        ({"oldest_event_ns": 2, "newest_event_ns": 1}, ManifestError),
        ({"parts": [PacketContent(3, SIGNS, ROWS)]}, InvalidInputError),
        ({"parts": [PacketContent(2, SIGNS.astype(np.int64), ROWS)]}, InvalidInputError),
        ({"parts": [PacketContent(0, SIGNS)]}, InvalidInputError),
        ({"parts": [PacketContent(4097, SIGNS)]}, InvalidInputError),
        ({"parts": [PacketContent(2, SIGNS, ROWS.astype(np.int32))]}, InvalidInputError),
        ({"dtype": "float64"}, InvalidInputError),
        ({"num_shards": 0}, InvalidInputError),
    ],
)
def test_what_readers_would_refuse_is_not_written(storage, options, error):
    with pytest.raises(error):
        publish(storage, **options)
    assert names(storage, temporary=True) == []


# Every way in which a packet can be bad: one error each, no row.


def broken(storage, change, *, num_shards=1):
    """A packet whose first file is `change(bytes)`, with the manifest as it was."""
    manifest = publish(storage, num_shards=num_shards)
    name = manifest.files[0].name
    storage.publish(name, change(storage.read(name)), replace=True)
    return manifest


def lying(storage, manifest, **change):
    """The same packet with another entry in its manifest."""
    manifest = replace(manifest, files=(replace(manifest.files[0], **change), *manifest.files[1:]))
    storage.publish(manifest.name, format_manifest(manifest), replace=True)
    return read_manifest(storage, manifest.name)


def with_content(storage, manifest, data, **change):
    """The same packet with other bytes, and a manifest that knows them."""
    storage.publish(manifest.files[0].name, data, replace=True)
    return lying(storage, manifest, bytes=len(data), checksum=checksum_of(data), **change)


def test_a_missing_file(storage):
    manifest = publish(storage)
    storage.remove(manifest.files[0].name)
    with pytest.raises(MissingFileError, match=r"0003-5a1c\.json names this file"):
        read_shard(storage, manifest, ALL)


def test_a_file_of_another_shard_may_be_missing(storage):
    manifest = publish(storage, num_shards=2)
    storage.remove(manifest.files[1].name)
    assert read_shard(storage, manifest, ShardRoute(0, 2))
    with pytest.raises(MissingFileError):
        read_shard(storage, manifest, ShardRoute(1, 2))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[:-1], TruncatedFileError),
        (lambda data: b"", TruncatedFileError),
        (lambda data: data + b"\0", TruncatedFileError),
        (lambda data: data + bytes(1 << 20), TruncatedFileError),
        (lambda data: bytes(len(data)), ChecksumError),
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], ChecksumError),
    ],
)
def test_other_bytes(storage, change, error):
    with pytest.raises(error, match=r"float32\.0-of-1\.arrow"):
        read_shard(storage, broken(storage, change), ALL)


def test_not_an_arrow_file(storage):
    manifest = with_content(storage, publish(storage), b"sign,embedding\n" * 100)
    with pytest.raises(RowFileError, match="does not begin as an Arrow file does"):
        read_shard(storage, manifest, ALL)


@pytest.mark.parametrize("rows", [59, 0])
def test_a_lying_count(storage, rows):
    manifest = lying(storage, publish(storage), rows=rows)
    with pytest.raises(RowCountError):
        read_shard(storage, manifest, ALL)


def test_an_enormous_count_takes_no_memory(storage):
    manifest = publish(storage)
    with pytest.raises(RowCountError, match="is said to have"):
        lying(storage, manifest, rows=2**60)
    large = lying(storage, manifest, rows=2**50, bytes=2**60)
    with pytest.raises(TruncatedFileError):
        read_shard(storage, large, ALL)


@pytest.mark.parametrize("change", [{"dim": 1}, {"dtype": "float16"}, {"kind": "deletes", "dtype": None}])
def test_a_lying_schema(storage, change):
    manifest = lying(storage, publish(storage), **change)
    with pytest.raises(RowFileError, match="columns"):
        read_shard(storage, manifest, ALL)


def test_a_lying_shard(storage):
    manifest = publish(storage, num_shards=2)
    swapped = lying(storage, manifest, shard=1)
    for route in (ShardRoute(1, 2), ALL):
        with pytest.raises(RowFileError, match=r"satrap\.shard is 0 in the file and 1 in the manifest"):
            read_shard(storage, swapped, route)


@pytest.mark.parametrize("route", [ShardRoute(0, 2), ShardRoute(1, 3), ALL])
def test_a_row_of_another_shard(storage, route):
    """Whoever reads the file refuses it, so that all servers judge alike."""
    manifest = publish(storage, num_shards=2)
    owners = ids.farmhash64(SIGNS) % np.uint64(2)
    assert len(set(owners.tolist())) == 2
    data = storage.read(manifest.files[0].name)
    own, foreign = SIGNS[owners == 0][-1:].tobytes(), SIGNS[owners == 1][-1:].tobytes()
    assert data.count(own) == 1
    manifest = with_content(storage, manifest, data.replace(own, foreign))
    with pytest.raises(
        MisroutedSignError, match=rf"the sign {int.from_bytes(foreign, 'little')} and 0 others"
    ):
        read_shard(storage, manifest, route)


def test_a_link_out_of_the_folder(storage, tmp_path):
    manifest = publish(storage)
    name = manifest.files[0].name
    moved = (storage.local / name).rename(tmp_path / "elsewhere.arrow")
    (storage.local / name).symlink_to(moved)
    with pytest.raises(PathEscapeError, match="leads out of"):
        read_shard(storage, manifest, ALL)


def test_a_manifest_that_is_a_link_out_of_the_folder(storage, tmp_path):
    manifest = publish(storage)
    moved = (storage.local / manifest.name).rename(tmp_path / "elsewhere.json")
    (storage.local / manifest.name).symlink_to(moved)
    with pytest.raises(PathEscapeError, match="leads out of"):
        read_manifest(storage, manifest.name)


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "sub/file.arrow"])
def test_a_name_out_of_the_folder(storage, name):
    manifest = publish(storage)
    with pytest.raises(PathEscapeError, match="not one of its own folder"):
        lying(storage, manifest, name=name)


def test_a_file_that_is_a_folder_or_a_pipe(storage):
    manifest = publish(storage)
    place = storage.local / manifest.files[0].name
    place.unlink()
    place.mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        read_shard(storage, manifest, ALL)
    place.rmdir()
    os.mkfifo(place)
    with pytest.raises(StorageError, match="is not a file"):
        read_shard(storage, manifest, ALL)


def test_a_manifest_that_goes_away(storage):
    with pytest.raises(FileNotFoundError):
        read_manifest(storage, "00000000000000000003-5a1c.json")


def test_an_enormous_manifest_is_not_held(storage, monkeypatch):
    monkeypatch.setattr("satrap.formats.packet.MAX_JSON_BYTES", 100)
    monkeypatch.setattr("satrap.formats.strict_json.MAX_JSON_BYTES", 100)
    storage.publish("00000000000000000003-5a1c.json", b" " * 10_000)
    with pytest.raises(ManifestError, match="more than 100 bytes"):
        read_manifest(storage, "00000000000000000003-5a1c.json")


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_file(storage, compression):
    manifest = publish(storage)
    table = pa.ipc.open_file(pa.py_buffer(storage.read(manifest.files[0].name))).read_all()
    sink = io.BytesIO()
    with pa.ipc.new_file(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_table(table)
    manifest = with_content(storage, manifest, sink.getvalue())
    with pytest.raises(RowFileError, match="compressed"):
        read_shard(storage, manifest, ALL)


def test_disk_full_while_publishing(storage, monkeypatch):
    publish(storage)
    real, calls = os.fsync, []

    def fail(descriptor):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    before = names(storage)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="the disk is full"):
        publish(storage, sequence=4, previous=3, num_shards=4)
    assert names(storage, temporary=True) == before


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.booleans(), st.lists(st.integers(0, 20), max_size=12)), max_size=5
    ),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["float32", "float16"]),
)
@settings(max_examples=60, deadline=None)
def test_any_packet_reaches_its_shards(content, num_shards, replica_size, dtype):
    storage = open_storage(f"memory://{secrets.token_hex(8)}")
    parts = []
    for number, (dim, deletes, signs) in enumerate(content):
        signs = np.array(signs, np.uint64)
        rows = (
            None
            if deletes
            else (np.arange(len(signs) * dim).reshape(-1, dim) + 100 * number).astype(np.float32)
        )
        parts.append(PacketContent(dim, signs, rows))
    manifest = publish(storage, parts, num_shards=num_shards, dtype=dtype)
    manifest = read_manifest(storage, manifest.name)
    found = {}
    for index in range(replica_size):
        found |= table_of(read_shard(storage, manifest, ShardRoute(index, replica_size)))
    assert found == table_of([(part.dim, part.signs, part.rows) for part in parts])
    for entry in storage.list():
        storage.remove(entry.name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_publisher_that_is_killed_anywhere(storage, seed):
    """What is visible is whole, and its successor goes on with the next sequence, or with the same one again."""
    code = """
import sys
import numpy as np
from satrap.formats.packet import PacketContent, publish_packet
from satrap.storage import open_storage
storage = open_storage(sys.argv[1])
signs = np.arange(2000, dtype=np.uint64)
sequence = int(sys.argv[2])
while True:
    rows = np.full((2000, 2), sequence, np.float32)
    parts = [PacketContent(2, signs, rows), PacketContent(2, signs[:9])]
    publish_packet(storage, stream="ads", writer="5a1c", sequence=sequence, previous=sequence - 1, parts=parts,
                   num_shards=3)
    print(sequence, flush=True)
    sequence += 1
"""
    random = np.random.default_rng(seed)
    sequence = 1
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, storage.url, str(sequence)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(int(random.integers(1, 20))):
            said = int(process.stdout.readline())
        spin = time.perf_counter() + random.uniform(0, 0.01)
        while time.perf_counter() < spin:
            pass
        process.kill()
        process.communicate()
        manifests = [read_manifest(storage, name) for name in names(storage) if name.endswith(".json")]
        assert [manifest.sequence for manifest in manifests] == list(range(1, len(manifests) + 1))
        assert len(manifests) >= said
        for manifest in manifests:
            rows = [rows for _, _, rows in read_shard(storage, manifest, ALL) if rows is not None]
            assert sum(map(len, rows)) == 2000 and all((part == manifest.sequence).all() for part in rows)
        sequence = len(manifests) + 1


def test_entries_are_json_as_they_are():
    entry = FileEntry("a.arrow", "rows", 2, "float32", 0, 1, 500, "xxh3_64:" + "0" * 16)
    assert json.loads(json.dumps(vars(entry))) == vars(entry)


@pytest.mark.parametrize("repeat", [0, 1, 12])
@pytest.mark.parametrize("dtype", ["float32", "float16", None])
def test_a_data_file_names_its_manifest(dtype, repeat):
    name = data_file_name(3, "5a_1-c", 2, dtype, 1, 2, repeat)
    assert manifest_of_data_file(name) == manifest_name(3, "5a_1-c")
    for other in (manifest_name(3, "5a1c"), f".{name}", f"{name}.part", name.replace("0", "o", 1)):
        assert manifest_of_data_file(other) is None
