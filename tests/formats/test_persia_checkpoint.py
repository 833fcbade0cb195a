"""PERSIA's checkpoint directories: what is read of them, and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from satrap._core.table import Table
from satrap.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointIncompleteError,
    InvalidInputError,
)
from satrap.formats.persia_checkpoint import (
    CheckpointFile,
    FileEstimate,
    Folder,
    ShardRoute,
    estimate_file,
    file_name,
    load_file,
    open_checkpoint,
    plan_checkpoint,
    recovery_warning,
    summarize_file,
)
from satrap.formats.persia_marker import MARKER, Marker, format_marker

PATH = Path("ckpt")
TWO_BY_THREE = Marker(2, 3, 1000)


def folder(shard: int, marker: Marker | None = TWO_BY_THREE, without: tuple[str, ...] = ()) -> Folder:
    files = {file_name(shard, i): 100 + i for i in range(3)}
    return Folder(
        None if marker is None else format_marker(marker),
        {name: size for name, size in files.items() if name not in without},
    )


WHOLE = {0: folder(0), 1: folder(1)}


@pytest.fixture
def checkpoint(persia_data: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be damaged."""
    return Path(shutil.copytree(persia_data / "ckpt_2x4", tmp_path / "ckpt"))


@pytest.mark.parametrize(("index", "size"), [(1, 1), (2, 2), (-1, 2), (0, 0)])
def test_shard_that_cannot_be(index, size):
    with pytest.raises(InvalidInputError, match=f"there is no shard {index} of {size}"):
        ShardRoute(index, size)


class TestPlan:
    def test_as_many_servers_as_shards_read_their_own_folder(self):
        plan = plan_checkpoint(PATH, TWO_BY_THREE, {1: WHOLE[1]}, ShardRoute(1, 2))
        assert plan.files == tuple(CheckpointFile(PATH / "s1" / file_name(1, i), 100 + i) for i in range(3))
        assert plan.route == ShardRoute(0, 1)

    @pytest.mark.parametrize("owner", [ShardRoute(0, 1), ShardRoute(2, 3), ShardRoute(0, 4)])
    def test_any_other_number_reads_everything_and_filters(self, owner):
        plan = plan_checkpoint(PATH, TWO_BY_THREE, WHOLE, owner)
        assert len(plan.files) == 6
        assert plan.route == owner

    def test_time_is_the_least_of_the_markers(self):
        folders = {0: folder(0, Marker(2, 3, 400)), 1: folder(1, Marker(2, 3, 300))}
        assert plan_checkpoint(PATH, TWO_BY_THREE, folders, ShardRoute()).written_ns == 300

    def test_missing_folder(self):
        with pytest.raises(CheckpointIncompleteError, match="s1: the folder is missing") as caught:
            plan_checkpoint(PATH, TWO_BY_THREE, {0: WHOLE[0]}, ShardRoute())
        assert caught.value.path == PATH / "s1"

    def test_missing_marker_of_a_shard(self):
        with pytest.raises(CheckpointIncompleteError) as caught:
            plan_checkpoint(PATH, TWO_BY_THREE, {0: WHOLE[0], 1: folder(1, None)}, ShardRoute())
        assert caught.value.path == PATH / "s1" / MARKER

    def test_missing_file(self):
        folders = {0: WHOLE[0], 1: folder(1, without=(file_name(1, 2),))}
        with pytest.raises(CheckpointIncompleteError, match="2 shards of 3 files each") as caught:
            plan_checkpoint(PATH, TWO_BY_THREE, folders, ShardRoute())
        assert caught.value.path == PATH / "s1" / file_name(1, 2)

    def test_folder_of_another_checkpoint(self):
        with pytest.raises(CheckpointError, match="of another checkpoint"):
            plan_checkpoint(PATH, TWO_BY_THREE, {0: WHOLE[0], 1: folder(1, Marker(2, 4, 1000))}, ShardRoute())

    def test_marker_that_promises_four_billion_files(self):
        marker = Marker(2**32, 2**32, 0)
        with pytest.raises(
            CheckpointIncompleteError, match=r"s0/replica_0_shard_3\.emb: the file is missing"
        ):
            plan_checkpoint(PATH, marker, {0: folder(0, marker)}, ShardRoute())

    def test_files_of_something_else_are_told(self):
        known = folder(0)
        plan = plan_checkpoint(
            PATH,
            Marker(1, 3, 0),
            {0: Folder(format_marker(Marker(1, 3, 0)), {**known.files, "x": 1})},
            ShardRoute(),
        )
        assert plan.warnings == ("ckpt/s0: 1 files that are not of the checkpoint were left alone",)


class TestOpen:
    def test_only_the_own_folder_has_to_be_there(self, checkpoint):
        shutil.rmtree(checkpoint / "s0")
        assert len(open_checkpoint(checkpoint, ShardRoute(1, 2)).files) == 4
        with pytest.raises(CheckpointIncompleteError, match="s0: the folder is missing"):
            open_checkpoint(checkpoint, ShardRoute(0, 2))

    def test_no_such_directory(self, tmp_path):
        with pytest.raises(CheckpointIncompleteError, match="no such directory"):
            open_checkpoint(tmp_path / "nowhere", ShardRoute())

    def test_without_its_marker(self, persia_data):
        with pytest.raises(CheckpointIncompleteError, match="the marker is missing") as caught:
            open_checkpoint(persia_data / "ckpt_no_done", ShardRoute())
        assert caught.value.path.name == MARKER

    def test_marker_that_is_a_directory(self, checkpoint):
        (checkpoint / MARKER).unlink()
        (checkpoint / MARKER).mkdir()
        with pytest.raises(CheckpointIncompleteError, match="cannot be read: Is a directory"):
            open_checkpoint(checkpoint, ShardRoute())

    def test_missing_file_is_named(self, checkpoint):
        gone = checkpoint / "s0" / file_name(0, 2)
        gone.unlink()
        with pytest.raises(CheckpointIncompleteError) as caught:
            open_checkpoint(checkpoint, ShardRoute())
        assert caught.value.path == gone


class TestFiles:
    @pytest.mark.parametrize("replica_size", [1, 2, 3, 5])
    def test_any_number_of_servers_holds_every_row_once(self, persia_data, replica_size):
        contents = np.load(persia_data / "ckpt_2x4_contents.npz")
        signs: list[int] = []
        for index in range(replica_size):
            plan = open_checkpoint(persia_data / "ckpt_2x4", ShardRoute(index, replica_size))
            tables = [Table(dim, "float32") for dim in (8, 16, 32)]
            loaded = [load_file(file, tables, plan.route).rows_by_dim for file in plan.files]
            counted = [summarize_file(file, plan.route).rows_by_dim for file in plan.files]
            assert loaded == counted
            signs += [sign for table in tables for sign in table.scan()[0].tolist()]
        assert sorted(signs) == sorted(contents["sign"].tolist())

    def test_truncated_file_is_named_with_the_byte(self, persia_data):
        plan = open_checkpoint(persia_data / "ckpt_truncated", ShardRoute())
        with pytest.raises(
            CheckpointCorruptError, match=r"replica_0_shard_0\.emb: node 26 .* \(at byte 1946\)"
        ) as caught:
            summarize_file(plan.files[0], plan.route)
        assert caught.value.offset == 1946
        assert caught.value.path == plan.files[0].path

    def test_empty_file(self, checkpoint):
        file = checkpoint / "s0" / file_name(0, 0)
        file.write_bytes(b"")
        with pytest.raises(CheckpointCorruptError, match="the file ends inside its header"):
            summarize_file(CheckpointFile(file, 0), ShardRoute())

    def test_estimates_are_of_files_whose_rows_are_alike(self, persia_data):
        (alike,) = open_checkpoint(persia_data / "ckpt_evicted_lru_corrupt", ShardRoute()).files
        assert estimate_file(alike) == FileEstimate(dim=8, rows=95)
        mixed = open_checkpoint(persia_data / "ckpt_2x4", ShardRoute()).files
        assert [estimate_file(file) for file in mixed] == [None] * 7 + [FileEstimate(0, 0)]

    def test_file_that_shrank_is_refused_and_ends_no_process(self, checkpoint):
        plan = open_checkpoint(checkpoint, ShardRoute())
        file = plan.files[0]
        os.truncate(file.path, file.size // 2)
        with pytest.raises(CheckpointCorruptError):
            load_file(file, [Table(dim, "float32") for dim in (8, 16, 32)], plan.route)

    def test_file_that_is_a_directory(self, tmp_path):
        with pytest.raises(CheckpointIncompleteError, match="cannot be read: Is a directory"):
            summarize_file(CheckpointFile(tmp_path, 10), ShardRoute())

    def test_file_that_went_away(self, tmp_path):
        with pytest.raises(CheckpointIncompleteError, match="cannot be read: No such file"):
            load_file(CheckpointFile(tmp_path / "gone.emb", 10), [], ShardRoute())


class TestRecoveryWarning:
    def test_what_was_recovered_is_told(self, persia_data):
        plan = open_checkpoint(persia_data / "ckpt_evicted_lru_corrupt", ShardRoute())
        warning = recovery_warning(plan, [summarize_file(file, plan.route) for file in plan.files])
        assert warning is not None
        for fact in (
            "replica_0_shard_0.emb",
            "count 100 rows",
            "links lead to 11",
            "95 are there",
            "5 rows are lost",
        ):
            assert fact in warning

    def test_nothing_to_tell_of_a_whole_checkpoint(self, persia_data):
        plan = open_checkpoint(persia_data / "ckpt_2x4", ShardRoute())
        assert recovery_warning(plan, [summarize_file(file, plan.route) for file in plan.files]) is None
