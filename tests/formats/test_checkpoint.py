"""Checkpoints of ours: streamed out, streamed in, visible when whole, refused by name."""

import os
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap._core import ids
from satrap.errors import (
    CheckpointError,
    ChecksumError,
    InvalidInputError,
    ManifestError,
    MisroutedSignError,
    MissingFileError,
    PathEscapeError,
    RowCountError,
    RowFileError,
    StorageError,
    TruncatedFileError,
)
from satrap.formats.checkpoint import (
    CheckpointWriter,
    NormHistogram,
    find_checkpoint_manifest,
    open_checkpoint,
    validate_checkpoint,
)
from satrap.formats.manifest import Dense, format_manifest
from satrap.formats.packet import PacketContent, publish_packet
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.row_file import checksum_of
from satrap.storage import Entry, open_storage

ALL = ShardRoute()
SIGNS = np.arange(1, 301, dtype=np.uint64)
ROWS = np.outer(SIGNS, [0.6, 0.8]).astype(np.float32)


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    if request.param == "local":
        return open_storage(tmp_path / "checkpoint")
    return open_storage(f"memory://{request.node.name}/checkpoint")


@pytest.fixture
def local(tmp_path):
    return open_storage(tmp_path / "checkpoint")


def write(storage, *, pages=3, **options):
    options = {"stream": "ads", "writer": "5a1c", "sequence": 812} | options
    with CheckpointWriter(storage, **options) as checkpoint:
        for signs, rows in zip(np.array_split(SIGNS, pages), np.array_split(ROWS, pages), strict=True):
            checkpoint.write(2, signs, rows)
        return checkpoint.finish()


def names(storage, **options):
    return [entry.name for entry in storage.list(**options)]


def rows_of(checkpoint, route):
    found = {}
    for entry in checkpoint.entries(route):
        for dim, signs, rows in checkpoint.pages(entry, route):
            found |= {
                (dim, sign): tuple(row) for sign, row in zip(signs.tolist(), rows.tolist(), strict=True)
            }
    return found


EXPECTED = {(2, sign): tuple(row) for sign, row in zip(SIGNS.tolist(), ROWS.tolist(), strict=True)}


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("replica_size", [1, 2, 3])
def test_every_shard_loads_its_own_rows(storage, num_shards, replica_size):
    manifest = write(storage, num_shards=num_shards)
    checkpoint = open_checkpoint(storage)
    assert checkpoint.manifest == manifest and checkpoint.path == storage.url
    found = {}
    for index in range(replica_size):
        route = ShardRoute(index, replica_size)
        own = rows_of(checkpoint, route)
        assert validate_checkpoint(checkpoint, route) == len(own)
        assert all(ids.farmhash64(np.array([sign], np.uint64))[0] % replica_size == index for _, sign in own)
        found |= own
    assert found == EXPECTED


def test_what_the_manifest_says(local):
    manifest = write(
        local,
        num_shards=2,
        dense=Dense("ctr", "7"),
        embedding_config="ab",
        newest_event_ns=9,
        dtype="float16",
    )
    assert names(local) == [
        "00000000000000000812-5a1c.2-float16.0-of-2.arrow",
        "00000000000000000812-5a1c.2-float16.1-of-2.arrow",
        "00000000000000000812-5a1c.json",
    ]
    assert (manifest.kind, manifest.sequence, manifest.previous, manifest.newest_event_ns) == (
        "full",
        812,
        None,
        9,
    )
    assert manifest.records == 300
    limits = manifest.limits[2]
    assert limits.rows == 300
    exact = float(np.sort(np.linalg.norm(ROWS.astype(np.float64), axis=1))[int(0.999 * 300)])
    assert exact * 0.99 <= limits.norm_p999 <= exact * 1.01


def test_nothing_is_visible_before_the_end(local):
    with CheckpointWriter(local, stream="ads", writer="5a1c", sequence=1) as checkpoint:
        checkpoint.write(2, SIGNS, ROWS)
        assert names(local) == []
        with pytest.raises(MissingFileError, match="no manifest"):
            open_checkpoint(local)
    assert names(local, temporary=True) == []


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_temporary_files_only(local):
    code = """
import os, sys
import numpy as np
from satrap.formats.checkpoint import CheckpointWriter
from satrap.storage import open_storage
writer = CheckpointWriter(open_storage(sys.argv[1]), stream="ads", writer="5a1c", sequence=1)
writer.write(2, np.arange(100_000, dtype=np.uint64), np.ones((100_000, 2), np.float32))
os.kill(os.getpid(), 9)
"""
    result = subprocess.run([sys.executable, "-c", code, str(local.local)], check=False)
    assert result.returncode == -9
    assert names(local) == [] and len(names(local, temporary=True)) == 1
    write(local)
    assert rows_of(open_checkpoint(local), ALL) == EXPECTED


def test_an_empty_checkpoint(storage):
    with CheckpointWriter(storage, stream="ads", writer="5a1c", sequence=0) as checkpoint:
        checkpoint.write(2, SIGNS[:0], ROWS[:0])
        manifest = checkpoint.finish()
    assert (
        manifest.files == ()
        and manifest.limits == {}
        and validate_checkpoint(open_checkpoint(storage), ALL) == 0
    )


def test_several_dims(storage):
    with CheckpointWriter(storage, stream="ads", writer="5a1c", sequence=5, num_shards=2) as checkpoint:
        checkpoint.write(2, SIGNS, ROWS)
        checkpoint.write(1, SIGNS + np.uint64(1000), ROWS[:, :1])
        manifest = checkpoint.finish()
    assert [(entry.dim, entry.shard) for entry in manifest.files] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert sorted(manifest.limits) == [1, 2]
    assert validate_checkpoint(open_checkpoint(storage), ALL) == 600


def test_a_checkpoint_is_never_overwritten(storage):
    write(storage)
    with pytest.raises(CheckpointError, match="a folder of its own and is never overwritten"):
        write(storage, sequence=813)
    assert rows_of(open_checkpoint(storage), ALL) == EXPECTED


@pytest.mark.parametrize(
    "options",
    [{"sequence": -1}, {"sequence": 2**32}, {"stream": "../x"}, {"writer": "."}, {"num_shards": 0}],
)
def test_what_readers_would_refuse_is_not_written(local, options):
    with pytest.raises(InvalidInputError):
        write(local, **options)
    assert not local.exists()


@pytest.mark.parametrize(
    ("dim", "signs", "rows"),
    [
        (0, SIGNS, ROWS),
        (4097, SIGNS, ROWS),
        (3, SIGNS, ROWS),
        (2, SIGNS[1:], ROWS),
        (2, SIGNS.astype(int), ROWS),
    ],
)
def test_pages_that_are_none(local, dim, signs, rows):
    with (
        CheckpointWriter(local, stream="ads", writer="5a1c", sequence=1) as checkpoint,
        pytest.raises(InvalidInputError),
    ):
        checkpoint.write(dim, signs, rows)
    assert names(local, temporary=True) == []


def test_disk_full(local):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = np.zeros((10_000, 2), np.float32)
    with CheckpointWriter(local, stream="ads", writer="5a1c", sequence=1) as checkpoint:
        checkpoint.write(2, SIGNS, ROWS)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            with pytest.raises(StorageError, match="larger than"):
                checkpoint.write(2, np.arange(10_000, dtype=np.uint64), rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(local, temporary=True) == []


def test_disk_full_at_the_end(local, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with CheckpointWriter(local, stream="ads", writer="5a1c", sequence=1, num_shards=2) as checkpoint:
        checkpoint.write(2, SIGNS, ROWS)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="the disk is full"):
            checkpoint.finish()
    assert names(local, temporary=True) == []


# Every way in which a checkpoint can be bad.


def change_file(storage, manifest, change):
    name = manifest.files[0].name
    storage.publish(name, change(storage.read(name)), replace=True)


def change_manifest(storage, manifest, **change):
    manifest = replace(manifest, files=(replace(manifest.files[0], **change), *manifest.files[1:]))
    storage.publish(manifest.name, format_manifest(manifest), replace=True)


def test_no_folder(storage):
    with pytest.raises(MissingFileError, match="no checkpoint, or one that was not written to its end"):
        open_checkpoint(storage)


def test_a_missing_file(storage):
    manifest = write(storage, num_shards=2)
    storage.remove(manifest.files[1].name)
    with pytest.raises(MissingFileError, match=r"1-of-2\.arrow: .*json names this file"):
        open_checkpoint(storage)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_another_size(storage, change):
    change_file(storage, write(storage), change)
    with pytest.raises(TruncatedFileError, match="the manifest says"):
        open_checkpoint(storage)


def test_another_byte(storage):
    change_file(storage, write(storage), lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    checkpoint = open_checkpoint(storage)
    with pytest.raises(ChecksumError):
        validate_checkpoint(checkpoint, ALL)


def test_a_file_that_goes_or_shrinks_after_it_was_opened(storage):
    manifest = write(storage)
    checkpoint = open_checkpoint(storage)
    change_file(storage, manifest, lambda data: data[:-100])
    with pytest.raises(TruncatedFileError):
        validate_checkpoint(checkpoint, ALL)
    storage.remove(manifest.files[0].name)
    with pytest.raises(MissingFileError):
        validate_checkpoint(checkpoint, ALL)


@pytest.mark.parametrize("rows", [299, 301])
def test_a_lying_count(storage, rows):
    change_manifest(storage, write(storage), rows=rows)
    with pytest.raises(RowCountError):
        validate_checkpoint(open_checkpoint(storage), ALL)


def test_a_lying_dim(storage):
    change_manifest(storage, write(storage), dim=1)
    with pytest.raises(RowFileError):
        validate_checkpoint(open_checkpoint(storage), ALL)


def test_a_row_of_another_shard(storage):
    manifest = write(storage, num_shards=2)
    owners = ids.farmhash64(SIGNS) % np.uint64(2)
    data = storage.read(manifest.files[0].name)
    data = data.replace(SIGNS[owners == 0][-1:].tobytes(), (2**40 + 1).to_bytes(8, "little"))
    if ids.farmhash64(np.array([2**40 + 1], np.uint64))[0] % 2 == 0:
        data = data.replace((2**40 + 1).to_bytes(8, "little"), (2**40 + 2).to_bytes(8, "little"))
    storage.publish(manifest.files[0].name, data, replace=True)
    change_manifest(storage, manifest, checksum=checksum_of(data))
    with pytest.raises(MisroutedSignError):
        validate_checkpoint(open_checkpoint(storage), ALL)


def test_another_byte_in_a_sign_is_another_byte_and_not_another_shards_row(storage):
    owners = ids.farmhash64(SIGNS) % np.uint64(2)
    sign = SIGNS[owners == 0][:1].tobytes()
    change_file(
        storage, write(storage, num_shards=2), lambda data: data.replace(sign, sign[:3] + b"x" + sign[4:])
    )
    with pytest.raises(ChecksumError):
        validate_checkpoint(open_checkpoint(storage), ALL)


def test_a_packets_manifest(storage):
    publish_packet(
        storage, stream="ads", writer="5a1c", sequence=1, previous=0, parts=[PacketContent(2, SIGNS, ROWS)]
    )
    with pytest.raises(ManifestError, match="of a packet, not of a checkpoint"):
        open_checkpoint(storage)


def test_two_manifests(storage):
    manifest = write(storage)
    other = replace(manifest, writer="other")
    storage.publish(other.name, format_manifest(other))
    with pytest.raises(ManifestError, match="a checkpoint has one manifest"):
        open_checkpoint(storage)


def test_a_manifest_that_is_cut(storage):
    manifest = write(storage)
    storage.publish(manifest.name, format_manifest(manifest)[:-5], replace=True)
    with pytest.raises(ManifestError, match="not JSON"):
        open_checkpoint(storage)


def test_a_link_out_of_the_folder(local, tmp_path):
    manifest = write(local)
    name = manifest.files[0].name
    moved = (local.local / name).rename(tmp_path / "elsewhere")
    (local.local / name).symlink_to(moved)
    with pytest.raises(PathEscapeError):
        validate_checkpoint(open_checkpoint(local), ALL)


def test_which_manifest_a_listing_has():
    assert find_checkpoint_manifest([]) is None
    listing = [Entry("a.arrow"), Entry(f"{5:020d}-a.json", is_folder=True), Entry("embedding_dump_done")]
    assert find_checkpoint_manifest(listing) is None
    listing += [Entry(f"{5:020d}-a.json"), Entry(f"{6:020d}-a.json")]
    assert find_checkpoint_manifest(listing) == f"{6:020d}-a.json"


# The norms.


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_reached_and_hardly_more(norms, share):
    histogram = NormHistogram()
    histogram.add(np.array(norms[::2], np.float64))
    histogram.add(np.array(norms[1::2], np.float64))
    found = histogram.quantile(share)
    exact = sorted(norms)[max(0, int(np.ceil(share * len(norms))) - 1)]
    assert exact <= found <= exact * 1.01 + 1e-37
    assert sum(norm <= found for norm in norms) >= share * len(norms) - 1e-9


def test_norms_that_are_not_finite_are_left_out():
    histogram = NormHistogram()
    assert histogram.quantile(0.999) == 0.0
    histogram.add(np.array([np.nan, np.inf, 1e300]))
    assert histogram.quantile(0.999) == 0.0
    histogram.add(np.array([1.0]))
    assert 1.0 <= histogram.quantile(0.999) < 1.01


def test_limits_do_not_depend_on_the_pages(tmp_path):
    found = {
        pages: write(open_storage(tmp_path / str(pages)), pages=pages, num_shards=shards).limits
        for pages, shards in [(1, 1), (7, 3), (300, 2)]
    }
    assert found[1] == found[7] == found[300]
