"""The benchmark of serving, tiny and without the peer: it starts real servers and refuses wrong answers itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_measures_satrap_alone(tmp_path):
    document = tmp_path / "serve.json"
    small = ["--rows", "30000", "--lookup-rows", "30000", "--cycles", "1", "--seconds", "0.1"]
    only = ["--only", "flat_1", "--only", "persia_1", "--only", "lookups"]
    done = run("--no-peer", *small, *only, "--json", document)
    assert done.returncode == 0, done.stderr
    assert "x the floor" in done.stdout
    written = json.loads(document.read_text())
    assert written["conditions"]["cores"] > 0
    flat, persia = written["servers"]["rows"]
    assert [flat["name"], persia["name"]] == ["flat arrays, 1 worker", "PERSIA bytes, 1 worker"]
    assert flat["cycles"]["satrap"]["8"][0]["calls"] > 0
    assert set(persia["cycles"]) == {"satrap", "satrap, the same as Arrow"}
    assert written["lookups"]["cycles"]["satrap middleware"]["4"][0]["calls"] > 0


@pytest.mark.slow
def test_measures_small_models_of_satrap_alone(tmp_path):
    document = tmp_path / "serve.json"
    only = [word for name in ("noop", "batching", "register", "replace") for word in ("--only", name)]
    done = run(
        *("--no-peer", "--cycles", "1", "--seconds", "0.1", "--replacements", "2", *only, "--json", document)
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(document.read_text())["small"]
    assert written["noop"]["sides"] == ["satrap", "echo"]
    assert written["batching"]["cycles"]["satrap"]["16"][0]["calls"] > 0
    assert len(written["register"]["values"]["satrap"]) == 2
    assert written["replace"]["satrap"]["calls"] > 0
    assert written["replace"]["satrap"]["lost"] == []
    assert "replacing a model under load, satrap: 2 rounds" in done.stdout


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert "example: .venv/bin/python benchmarks/serve.py --quick" in done.stdout


def test_an_unknown_row_is_named():
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
