"""The benchmark of loading, tiny."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_measures_loads_and_leaves_no_table_behind(tmp_path, table_directory):
    document = tmp_path / "load.json"
    small = ["--rows", "20000", "--files", "5", "--runs", "1", "--table-parent", table_directory]
    done = run(*small, "--json", document)
    assert done.returncode == 0, done.stderr
    assert "headline:" in done.stdout
    written = json.loads(document.read_text())
    assert written["checkpoint"]["file_bytes"] > 20000 * (29 + 64)
    assert [(load["row_dtype"], load["threads"], len(load["runs"])) for load in written["loads"]] == [
        ("float32", 2, 1),
        ("float32", 1, 1),
        ("float16", 2, 1),
        ("float16", 1, 1),
    ]
    assert all(one["rows"] == 20000 for load in written["loads"] for one in load["runs"])
    assert list(table_directory.iterdir()) == []


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert "example: .venv/bin/python benchmarks/load.py --quick" in done.stdout
