"""`satrap tables`, `inspect` and `status` as an operator uses them, on real servers and damaged files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from satrap.cli.app import app
from satrap.errors import SatrapError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "satrap.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def facts(*arguments: str | Path) -> object:
    return json.loads(run(*arguments, "--json").output)


@pytest.fixture
def server(satrap, persia_data, table_directory):
    """server(...) -> a running embedding server over `table_directory`."""

    def start(*more: str | Path):
        return satrap(
            *("embedding-server", "--port", "0", "--table-directory", table_directory),
            *(more or ("--checkpoint", persia_data / "ckpt_2x4")),
        )

    return start


@pytest.fixture
def kept(server, table_directory):
    """The generation that a server left."""
    server().stop()
    return table_directory / str(os.geteuid()) / "default" / "0-of-1" / "00000001"


class TestTables:
    def test_nothing(self, table_directory):
        result = run("tables", "list", "--table-directory", table_directory)
        assert result.exit_code == 0 and f"no tables in {table_directory}" in result.output
        assert facts("tables", "list", "--table-directory", table_directory) == []

    @pytest.mark.slow
    def test_held_and_kept(self, server, table_directory, persia_data):
        running = server()
        (held,) = facts("tables", "list", "--table-directory", table_directory)
        assert (held["tables"], held["generation"], held["state"]) == (
            "default/0-of-1",
            "00000001",
            "serving",
        )
        assert (held["uid"], held["pid"], held["held"]) == (os.geteuid(), running.process.pid, True)
        assert held["rows"] == 434 and held["bytes"] > 434 * 72 and 0 < held["age_seconds"] < 120
        assert held["checkpoint"] == str(persia_data / "ckpt_2x4")
        text = run("tables", "list", "--table-directory", table_directory).output
        assert f"process {running.process.pid}" in text and "434" in text
        running.stop()
        (kept,) = facts("tables", "list", "--table-directory", table_directory)
        assert (kept["held"], kept["pid"], kept["state"]) == (False, None, "serving")
        assert "nobody" in run("tables", "list", "--table-directory", table_directory).output

    @pytest.mark.slow
    def test_removing(self, server, table_directory, kept):
        running = server()
        refused = process("tables", "remove", "default/0-of-1", "--table-directory", table_directory)
        assert refused.returncode == 1 and f"process {running.process.pid} holds" in refused.stderr
        result = run("tables", "remove", "--all", "--table-directory", table_directory)
        assert (result.exit_code, result.output) == (0, "") and kept.exists()
        running.stop()
        result = run("tables", "remove", "default/0-of-1", "--table-directory", table_directory)
        assert result.exit_code == 0 and str(kept.parent) in result.output
        assert list(table_directory.iterdir()) == []

    @pytest.mark.slow
    def test_removing_all(self, kept, table_directory):
        assert run("tables", "remove", "--all", "--table-directory", table_directory).exit_code == 0
        assert not kept.exists()

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            ([], "say which"),
            (["default/0-of-1", "--all"], "say which"),
            (["default/0-of-1"], "there are no tables default/0-of-1"),
            (["/etc"], "names no tables"),
            (["../default/0-of-1"], "names no tables"),
            (["default"], "names no tables"),
        ],
    )
    @pytest.mark.slow
    def test_mistakes(self, names, words, table_directory):
        result = process("tables", "remove", *names, "--table-directory", table_directory)
        assert result.returncode == 1 and words in result.stderr and "Traceback" not in result.stderr

    @pytest.mark.slow
    def test_damage_is_shown(self, kept, table_directory):
        os.truncate(kept / "control", 10)
        (held,) = facts("tables", "list", "--table-directory", table_directory)
        assert held["state"] == "damaged" and f"{kept / 'control'}: has 10 bytes" in held["damage"]
        assert run("tables", "list", "--table-directory", table_directory).exit_code == 0


class TestInspect:
    @pytest.mark.slow
    def test_a_generation_its_tables_and_its_shard(self, kept, persia_data):
        generation = facts("inspect", kept)
        assert (generation["kind"], generation["state"], generation["shard"]) == (
            "generation",
            "serving",
            "0 of 1",
        )
        assert (generation["stream"], generation["replacing"]) == ("persia", None)
        assert generation["held_by"] is None and generation["checkpoint"] == str(persia_data / "ckpt_2x4")
        assert [(table["dim"], table["rows"]) for table in generation["tables"]] == [
            (8, 138),
            (16, 153),
            (32, 143),
        ]
        table = facts("inspect", kept / "16-float32")
        assert (table["kind"], table["dtype"], table["rows"]) == ("table", "float32", 153)
        assert table["bytes_per_row"] == pytest.approx(table["bytes"] / 153)
        assert table["ratio"] == pytest.approx(table["bytes"] / 153 / 72)
        shard = facts("inspect", kept.parent)
        assert [one["path"] for one in shard["generations"]] == [str(kept)]
        text = run("inspect", kept).output
        assert "x rows x (8 + row bytes)" in text and "whole: every header was read and is valid" in text

    @pytest.mark.slow
    def test_the_rows_of_an_id(self, kept, persia_data):
        contents = np.load(persia_data / "ckpt_2x4_contents.npz")
        index = int(np.flatnonzero(contents["dim"] == 8)[0])
        start = contents["offsets"][index]
        sign, row = int(contents["sign"][index]), contents["values"][start : start + 8].tolist()
        for path in (kept, kept / "8-float32", kept / "control", kept / "8-float32" / "directory"):
            found = facts("inspect", path, "--id", sign)
            assert (found["shard_of_id"], found["rows_of_id"]) == ("0 of 1", [{"dim": 8, "values": row}])
        assert facts("inspect", kept, "--id", 5)["rows_of_id"] == []
        assert "has no row here" in run("inspect", kept, "--id", 5).output
        assert process("inspect", kept.parent, "--id", 5).returncode == 1
        os.truncate(kept / "control", 10)
        assert "its rows cannot be read" in process("inspect", kept, "--id", sign).stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "kind", "rows"),
        [
            ("control", "generation", 434),
            ("8-float32/directory", "table", 138),
            ("8-float32/segment-00000001", "table", 138),
        ],
    )
    def test_a_file_of_one(self, kept, name, kind, rows):
        """What it is a part of is shown and checked, and which file was meant."""
        found = facts("inspect", kept / name)
        assert (found["kind"], found["rows"], found["file"]) == (kind, rows, Path(name).name)
        assert found["path"] == str((kept / name).parent) and not found["damage"]
        data = bytearray((kept / name).read_bytes())
        data[20] ^= 1
        (kept / name).write_bytes(data)
        result = run("inspect", kept / name)
        assert result.exit_code == 1 and f"damaged: {kept / name}: " in result.output

    @pytest.mark.slow
    def test_a_served_one(self, server, table_directory):
        running = server()
        generation = facts("inspect", table_directory / str(os.geteuid()) / "default" / "0-of-1" / "00000001")
        assert generation["held_by"] == running.process.pid and not generation["damage"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["control", "8-float32/directory", "8-float32/segment-00000001"])
    def test_damage(self, kept, name):
        data = bytearray((kept / name).read_bytes())
        data[20] ^= 1
        (kept / name).write_bytes(data)
        result = run("inspect", kept)
        assert result.exit_code == 1 and f"damaged: {kept / name}: " in result.output

    def test_a_checkpoint_and_its_file(self, persia_data, tmp_path):
        checkpoint = facts("inspect", persia_data / "ckpt_2x4")
        assert (checkpoint["kind"], checkpoint["shards"], checkpoint["files"]) == ("PERSIA checkpoint", 2, 8)
        assert checkpoint["rows_by_dim"] == {"8": 138, "16": 153, "32": 143} and checkpoint["rows"] == 434
        path = persia_data / "ckpt_2x4" / "s0" / "replica_0_shard_0.emb"
        file = facts("inspect", path)
        assert (file["kind"], file["rows"], file["bytes"]) == (
            "PERSIA embedding file",
            60,
            path.stat().st_size,
        )
        renamed = shutil.copy(path, tmp_path / "renamed")
        assert facts("inspect", renamed)["rows"] == 60
        os.truncate(shutil.copy(path, tmp_path / "cut.emb"), 100)
        assert "damaged: " in run("inspect", tmp_path / "cut.emb").output
        assert "434" in run("inspect", persia_data / "ckpt_2x4").output

    @pytest.mark.parametrize(
        ("name", "words"),
        [("ckpt_truncated", "replica_0_shard_0.emb: node 26"), ("ckpt_no_done", "marker is missing")],
    )
    def test_bad_checkpoints(self, persia_data, name, words, tmp_path):
        checkpoint = shutil.copytree(persia_data / name, tmp_path / name)
        if name == "ckpt_no_done":  # the root's marker is what makes it one at all
            shutil.copy(persia_data / "ckpt_1x1" / "embedding_dump_done", checkpoint)
            (checkpoint / "s0" / "embedding_dump_done").unlink(missing_ok=True)
        result = run("inspect", checkpoint)
        assert result.exit_code == 1 and words in result.output

    @pytest.mark.slow
    def test_what_is_nothing_of_ours(self, tmp_path):
        (tmp_path / "file").write_text("hello")
        (tmp_path / "empty").write_text("")
        (tmp_path / "segment").write_bytes(b"SATRAPSG" + bytes(88))
        for path, words in (
            (tmp_path, "neither a table"),
            (tmp_path / "nowhere", "no such file"),
            (
                tmp_path / "file",
                "is none of satrap's or PERSIA's files (its first bytes are 68 65 6c 6c 6f)",
            ),
            (tmp_path / "empty", "(its first bytes are none)"),
            (tmp_path / "segment", "a table's segment, away from the folder"),
            (Path("/dev/null"), "neither a file nor a directory"),
        ):
            result = run("inspect", path)
            assert result.exit_code == 1 and words in str(result.exception)
            assert isinstance(result.exception, SatrapError)
        result = process("inspect", tmp_path / "nowhere")
        assert result.returncode == 1 and "no such file" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
class TestStatus:
    def test_every_shard(self, server, table_directory):
        running = server()
        answers = facts("status", "--shards", f"{running.addresses[0]},127.0.0.1:1")
        assert [answer["state"] for answer in answers] == ["ready", "unreachable"]
        ready, away = answers
        assert (ready["shard"], ready["rows"], ready["attachable"]) == ("0 of 1", 434, "yes")
        assert ready["started"] == "cold: there is no table of a server before" and ready["bytes"] > 434 * 72
        assert ready["way"] == "" and away["message"]
        result = run("status", "--shards", running.addresses[0])
        assert result.exit_code == 0 and "ready" in result.output and "434" in result.output
        assert run("status", "--shards", "127.0.0.1:1").exit_code == 1

    def test_those_of_this_machine(self, server, kept, table_directory):
        running = server()
        (answer,) = facts("status", "--table-directory", table_directory)
        assert (answer["address"], answer["started"]) == (running.addresses[0], "warm")

    def test_warnings_are_shown(self, server, persia_data):
        running = server("--checkpoint", persia_data / "ckpt_evicted_lru_corrupt")
        assert "95 are there" in run("status", "--shards", running.addresses[0]).output

    def test_through_a_middleware(self, server, satrap, persia_data):
        running = server()
        config = persia_data / "golden" / "basic" / "embedding_config.yml"
        if not config.exists():
            config = next(persia_data.glob("golden/*/embedding_config.yml"))
        middleware = satrap(
            *("middleware", "--port", "0", "--embedding-config", config, "--shards", running.addresses[0])
        )
        (answer,) = facts("status", "--shards", running.addresses[0], "--middleware", middleware.addresses[0])
        assert answer["way"] == "attached" or answer["way"].startswith("rpc: ")
        text = run("status", "--shards", running.addresses[0], "--middleware", middleware.addresses[0]).output
        assert answer["way"].split()[0] in text

    def test_nobody_to_ask(self, table_directory):
        result = process("status", "--table-directory", table_directory)
        assert result.returncode == 1 and "no embedding server to ask" in result.stderr

    def test_a_middleware_that_is_away(self, server):
        running = server()
        result = process("status", "--shards", running.addresses[0], "--middleware", "127.0.0.1:1")
        assert result.returncode == 1 and "Traceback" not in result.stderr
