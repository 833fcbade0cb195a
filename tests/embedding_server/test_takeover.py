"""Which generation a start takes over: every reason to refuse one, and the order in which they are looked at."""

from dataclasses import replace
from pathlib import Path

import pytest

from satrap.embedding_server.origin import DimLimits, Origin
from satrap.embedding_server.takeover import Found, GenerationInfo, Wanted, choose
from satrap.formats.persia_checkpoint import ShardRoute

BOOT = b"b" * 16
INFO = GenerationInfo(
    "float32",
    config_digest="config",
    checkpoint="/data/a",
    checkpoint_identity="a",
    start_identity="a",
    version="1",
    created_ns=5,
    origin=Origin("satrap", "ads", 7, 8, 9, 0, {4: DimLimits(100, 2.5)}, "w"),
)
WANTED = Wanted(BOOT, ShardRoute(1, 2), "float32", "config", Path("/data/a"), "a")


def found(number: int = 1, **changes: object) -> Found:
    held = Found(
        number, Path(f"{number:08d}"), state="serving", boot_id=BOOT, owner=ShardRoute(1, 2), info=INFO
    )
    return replace(held, **changes)


class TestChoose:
    def test_nothing_there(self):
        assert choose([], WANTED).reason == "there is no table of a server before"

    def test_what_is_wanted(self):
        assert choose([found()], WANTED).found == found()

    def test_the_newest_that_was_served(self):
        generations = [found(1), found(3), found(2), found(4, state="loading"), found(5, state="abandoned")]
        assert choose(generations, WANTED).found == found(3)

    def test_an_older_one_is_no_substitute(self):
        newer = found(
            2, info=replace(INFO, checkpoint="/data/b", checkpoint_identity="b", start_identity="b")
        )
        assert choose([found(1), newer], WANTED).found is None

    def test_one_that_was_being_loaded(self):
        assert "ended before" in choose([found(state="loading")], WANTED).reason

    def test_one_without_a_control_file_hides_no_other(self):
        assert choose([found(1), Found(2, Path("2"))], WANTED).found == found(1)

    def test_damage_is_the_reason(self):
        choice = choose([found(1), Found(2, Path("2"), damage="2/control: cut")], WANTED)
        assert (choice.found, choice.reason) == (None, "2/control: cut")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"boot_id": b"c" * 16}, "the machine was started again"),
            ({"owner": ShardRoute(1, 3)}, "shard 1 of 3, not 1 of 2"),
            ({"info": replace(INFO, row_dtype="float16")}, "float16 rows, row_dtype is float32"),
            ({"info": replace(INFO, config_digest="other")}, "embedding config"),
            ({"info": replace(INFO, config_digest="")}, "embedding config"),
            ({"info": replace(INFO, origin=Origin())}, "loaded by satrap 1, which followed no updates"),
        ],
    )
    def test_refused_whatever_checkpoint_is_named(self, changes, words):
        for wanted in (WANTED, replace(WANTED, checkpoint=None, checkpoint_identity="")):
            choice = choose([found(**changes)], wanted)
            assert choice.found is None and words in choice.reason


class TestCheckpoints:
    def test_another_one_is_named(self):
        choice = choose([found()], replace(WANTED, checkpoint=Path("/data/b"), checkpoint_identity="b"))
        assert choice.reason == "the table holds /data/a; /data/b is named"

    def test_the_same_path_written_again(self):
        assert "written again" in choose([found()], replace(WANTED, checkpoint_identity="a2")).reason

    def test_none_was_loaded(self):
        empty = replace(INFO, checkpoint="", checkpoint_identity="", start_identity="")
        assert "holds no checkpoint" in choose([found(info=empty)], WANTED).reason

    def test_none_is_named(self):
        assert choose([found()], replace(WANTED, checkpoint=None, checkpoint_identity="")).found == found()

    def test_one_that_was_loaded_later_stays(self):
        """Started with a, then an operator loaded b: both a and b lead to it."""
        later = found(info=replace(INFO, checkpoint="/data/b", checkpoint_identity="b"))
        assert choose([later], WANTED).found == later
        named = replace(WANTED, checkpoint=Path("/data/b"), checkpoint_identity="b")
        assert choose([later], named).found == later


class TestInfo:
    def test_there_and_back(self):
        info = replace(INFO, warnings=("a", "b"))
        assert GenerationInfo.from_bytes(info.to_bytes(10_000)) == info

    def test_one_of_a_version_before_origins(self):
        data = b'{"row_dtype": "float32", "checkpoint": "/data/a", "version": "0.2", "warnings": []}'
        info = GenerationInfo.from_bytes(data)
        assert (info.checkpoint, info.origin) == ("/data/a", Origin())

    def test_warnings_that_do_not_fit_are_counted(self):
        info = replace(INFO, warnings=tuple(f"warning {i}" for i in range(1_000)))
        data = info.to_bytes(1_000)
        assert len(data) <= 1_000
        warnings = GenerationInfo.from_bytes(data).warnings
        assert warnings[:2] == ("warning 0", "warning 1")
        assert warnings[-1] == f"and {1_000 - len(warnings) + 1} warnings more"

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b"\xff",
            b"{}",
            b'{"row_dtype": "int8"}',
            b'{"row_dtype": "float32", "colour": 1}',
            b'{"row_dtype": "float32", "origin": 5}',
            b'{"row_dtype": "float32", "origin": {"format": "zip"}}',
            b'{"row_dtype": "float32", "origin": {"colour": 1}}',
            b'{"row_dtype": "float32", "origin": {"limits": {"x": {}}}}',
            b'{"row_dtype": "float32", "origin": {"limits": 5}}',
        ],
    )
    def test_bytes_that_are_no_info(self, data):
        with pytest.raises(ValueError):
            GenerationInfo.from_bytes(data)
