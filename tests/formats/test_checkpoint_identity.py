"""When a checkpoint is the one that was loaded, and when it is another one."""

import os
import shutil

import pytest

from satrap.errors import CheckpointCorruptError, CheckpointIncompleteError
from satrap.formats.checkpoint_identity import identify_checkpoint
from satrap.formats.persia_checkpoint import ShardRoute, file_name
from satrap.formats.persia_marker import MARKER

ALL = ShardRoute()


@pytest.fixture
def checkpoint(persia_data, tmp_path):
    return shutil.copytree(persia_data / "ckpt_2x4", tmp_path / "ckpt")


def test_the_same_twice(checkpoint, monkeypatch):
    identity = identify_checkpoint(checkpoint, ALL)
    assert identify_checkpoint(checkpoint, ALL) == identity
    monkeypatch.chdir(checkpoint.parent)
    assert identify_checkpoint(type(checkpoint)("ckpt"), ALL) == identity
    (checkpoint.parent / "link").symlink_to(checkpoint)
    assert identify_checkpoint(checkpoint.parent / "link", ALL) == identity


def changed_time(checkpoint):
    status = (checkpoint / "s1" / file_name(1, 2)).stat()
    os.utime(checkpoint / "s1" / file_name(1, 2), ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def changed_size(checkpoint):
    path = checkpoint / "s0" / file_name(0, 0)
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def changed_marker(checkpoint):
    text = (checkpoint / MARKER).read_text()
    (checkpoint / MARKER).write_text(text.replace("secs_since_epoch: ", "secs_since_epoch: 1", 1))


def changed_inner_marker(checkpoint):
    text = (checkpoint / "s1" / MARKER).read_text()
    (checkpoint / "s1" / MARKER).write_text(text + "\n")


@pytest.mark.parametrize("change", [changed_time, changed_size, changed_marker, changed_inner_marker])
def test_written_again_is_another_one(checkpoint, change):
    identity = identify_checkpoint(checkpoint, ALL)
    change(checkpoint)
    assert identify_checkpoint(checkpoint, ALL) != identity


def test_a_copy_is_another_one(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert identify_checkpoint(copy, ALL) != identify_checkpoint(checkpoint, ALL)


def test_a_shard_looks_at_its_own_folder_only(checkpoint):
    first, second = (identify_checkpoint(checkpoint, ShardRoute(index, 2)) for index in range(2))
    changed_time(checkpoint)  # of s1
    assert identify_checkpoint(checkpoint, ShardRoute(0, 2)) == first
    assert identify_checkpoint(checkpoint, ShardRoute(1, 2)) != second


def test_what_is_no_checkpoint_is_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointIncompleteError, match="no such directory"):
        identify_checkpoint(tmp_path / "nowhere", ALL)
    (checkpoint / "s1" / file_name(1, 2)).unlink()
    with pytest.raises(CheckpointIncompleteError, match="the file is missing"):
        identify_checkpoint(checkpoint, ALL)
    (checkpoint / MARKER).write_text("num_shards: x")
    with pytest.raises(CheckpointCorruptError):
        identify_checkpoint(checkpoint, ALL)
