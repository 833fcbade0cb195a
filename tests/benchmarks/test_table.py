"""The benchmark of the table: what it makes of figures, and the native program on a small table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "table.py"


@pytest.fixture(autouse=True)
def _harness(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=280
    )


def test_ratios_are_taken_round_by_round():
    from harness.spread import Spread

    # Both halve in the second round, as on a machine that becomes faster: the ratio stays.
    assert Spread.of_ratios([4.0, 2.0, 4.2], [2.0, 1.0, 2.0]).median == 2.0


def test_latencies_are_in_ms():
    from harness.spread import Latencies

    one = Latencies.of_seconds([0.001] * 98 + [0.1, 0.1])
    assert (one.least, one.median) == pytest.approx((1.0, 1.0))
    assert one.mean == pytest.approx(2.98)
    assert one.p99 == pytest.approx(100.0)


def test_the_floor_is_the_best_gather_of_the_same_draw():
    from harness.table_report import lookup_verdicts

    ways = {"gather, window 8": [4.0, 4.0], "gather, window 64": [2.0, 2.0], "table": [9.0, 10.0]}
    worse = {**ways, "table": [8.0, 8.1]}
    uniform, zipf, memory = lookup_verdicts(
        {"ns_per_id": {"uniform": ways, "zipf": worse}, "table_bytes_ratio": 1.31}
    )
    assert (uniform.got, uniform.is_met) == ("4.75x", True)
    assert (zipf.got, zipf.is_met) == ("4.03x", True)
    assert not memory.is_met


def test_a_writer_that_falls_behind_does_not_count():
    from harness.table_report import writer_verdicts

    rates = {"alone": [100.0, 100.0], "disturbed": [90.0, 90.0], "written": [0.5e6, 0.5e6]}
    (verdict,) = writer_verdicts({"uniform": rates})
    assert verdict.got == "0.9x (0.50 M rows/s)"
    assert not verdict.is_met


def test_growth_is_held_to_its_worst_case():
    from harness.table_report import growth_verdicts

    usual = {"usual_before_ms": 0.1, "usual_after_ms": 0.2, "greatest_bytes_ratio": 1.5}
    latency, memory = growth_verdicts(
        {"one": {**usual, "growing_ms": 0.1}, "many": {**usual, "growing_ms": 1.3}}
    )
    assert (latency.got, latency.is_met) == ("1.1 ms", False)
    assert memory.is_met


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert "example: .venv/bin/python benchmarks/table.py --quick" in done.stdout


def test_an_unknown_case_is_named():
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.slow
def test_measures_a_small_table(tmp_path):
    document = tmp_path / "table.json"
    cases = [part for case in ("lookups", "upserts", "hps") for part in ("--only", case)]
    done = run("--quick", "--rounds", "1", "--rows", "20000", *cases, "--json", document)
    assert done.returncode == 0, done.stderr
    written = json.loads(document.read_text())
    ways = written["lookups"]["ns_per_id"]
    assert set(ways) == {"uniform", "zipf"}
    assert {"two cache lines", "+ occupancy", "+ version", "+ segments", "table"} <= set(ways["zipf"])
    assert written["hps"]["rpc"]["p99"] > 0
    assert len(written["verdicts"]) == 5
