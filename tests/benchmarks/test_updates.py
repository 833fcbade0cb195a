"""The benchmark of updates: what it makes of figures, what its trainer publishes, and a tiny run of all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "updates.py"


@pytest.fixture(autouse=True)
def _harness(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=280
    )


def window(kind: str, way: str, p99_ms: float):
    from harness.update_flow import WindowFigures

    return WindowFigures(
        kind=kind,
        way=way,
        p50_ms=1.0,
        p99_ms=p99_ms,
        p999_ms=p99_ms,
        service_p99_ms=p99_ms,
        late_share=0.0,
        lookups=100,
        checked_rows=10,
        server_cpu=0.1,
        publisher_cpu=0.1,
        client_cpu=0.1,
        published_rows=1e5,
    )


def test_packets_have_distinct_ids_some_of_them_new():
    from harness.update_rows import Stream

    stream = Stream(rows=5_000, packet_rows=1_000, seed=1)
    seen = set(range(5_000))
    for number in range(1, 6):
        ids = set(stream.ids(number).tolist())
        assert len(ids) == 1_000 and len(ids - seen) == 100
        seen |= ids
    ids, versions = stream.last_versions(5)
    assert set(ids.tolist()) == seen
    for number in range(1, 6):
        later = set().union(*(stream.ids(after).tolist() for after in range(number + 1, 6)))
        assert set(ids[versions == number].tolist()) == set(stream.ids(number).tolist()) - later


def test_a_row_says_whose_it_is_and_of_which_packet():
    from harness.update_rows import is_row_of, rows_of, version_of

    ids = np.arange(100, dtype=np.uint64)
    versions = np.arange(100) % 7
    rows = rows_of(ids, versions)
    assert version_of(rows).tolist() == versions.tolist() and is_row_of(ids, rows).all()
    torn = np.where(np.arange(16) < 8, rows_of(ids, 3), rows_of(ids, 4))
    assert not is_row_of(ids, torn.astype(np.float32)).any()
    assert not is_row_of(ids, np.zeros_like(rows))[1:].any()


def test_a_storms_ratio_is_of_the_same_rounds_quiet():
    from harness.update_flow import Storm
    from harness.update_report import storm_verdicts

    # The machine becomes slower: each storm is 1.2 times its own quiet.
    p99 = [1.0, 2.0, 4.0]
    windows = [
        window(kind, way, one * factor)
        for one in p99
        for way in ("attached", "rpc")
        for kind, factor in (("quiet", 1.0), ("published only", 1.1), ("storm", 1.2))
    ]
    storm = Storm(windows=windows)
    assert storm.ratios("rpc", "storm", "quiet") == pytest.approx([1.2] * 3)
    attached, rpc = storm_verdicts(storm)
    assert (
        attached.is_met and rpc.is_met and rpc.got.startswith("1.2x (packets published, not applied: 1.1x)")
    )
    assert not storm_verdicts(
        Storm(windows=[window(one.kind, one.way, 4.0 ** (one.kind == "storm")) for one in windows])
    )[0].is_met


def test_visible_has_two_limits():
    from harness.update_flow import Visible
    from harness.update_report import visible_verdicts

    p50, p99 = visible_verdicts(Visible([10.0] * 90 + [500.0] * 10, 100, 10_000))
    assert p50.is_met and not p99.is_met


def test_a_checkpoint_is_held_to_the_disk():
    from harness.update_flow import CheckpointRound
    from harness.update_report import checkpoint_verdicts

    rounds = [CheckpointRound(100, 1, seconds, seconds * 0.6, 0, 0) for seconds in (1.0, 2.0)]
    (verdict,) = checkpoint_verdicts(rounds)
    assert verdict.got == "0.6x" and verdict.is_met


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert "example: .venv/bin/python benchmarks/updates.py --quick" in done.stdout


def test_an_unknown_case_is_named():
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.slow
def test_measures_a_small_stream(tmp_path):
    document = tmp_path / "updates.json"
    done = run(
        *("--quick", "--rows", "20000", "--packet-rows", "1000", "--rounds", "1", "--packets", "5"),
        *("--visible-packets", "5", "--window", "0.5", "--windows", "1", "--storm-rows", "10000"),
        *("--directory", tmp_path / "run", "--json", document),
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(document.read_text())
    assert len(written["visible_ms"]) == 5 and min(written["visible_ms"]) > 0
    storm = written["storm"]
    assert storm["packets"] == storm["applied_packets"] == 10
    assert storm["rows_checked"] == 20_000 + (5 + 5 + 10) * 100
    assert {(one["kind"], one["way"]) for one in storm["windows"]} == {
        (kind, way) for kind in ("quiet", "published only", "storm") for way in ("attached", "rpc")
    }
    assert written["checkpoint"][0]["bytes"] > 20_000 * 72
    assert len(written["verdicts"]) == 8
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.slow
def test_a_trainer_that_cannot_start_is_named_with_its_log(tmp_path):
    from harness.processes import ChildFailedError
    from harness.update_publisher import trainer
    from harness.update_rows import Stream

    with (
        trainer(
            tmp_path / "none.yaml", tmp_path / "none.yml", tmp_path, Stream(10, 1, 0), tmp_path / "log"
        ) as publisher,
        pytest.raises(ChildFailedError, match=r"(?s)the publisher ended.*none\.yaml"),
    ):
        publisher.order(do="fill")


@pytest.mark.slow
def test_lookups_notice_rows_that_are_torn_or_older_than_before(table_directory):
    from harness.measure import WrongAnswerError
    from harness.update_lookups import LookupProcess, Served
    from harness.update_rows import DIM, rows_of
    from satrap._core.table import TableGeneration, present_boot

    folder, instance = table_directory / "00000001", bytes(range(16))
    generation = TableGeneration.create(
        str(folder), instance=instance, boot_id=present_boot(), replica_index=0, replica_size=1, info=b"{}"
    )
    ids = np.arange(500, dtype=np.uint64)
    table = generation.add_table(DIM, "float32", len(ids))
    table.upsert(ids, rows_of(ids, 3), 1)
    generation.serve()
    served = Served("127.0.0.1:1", str(folder), instance, os.getuid())
    with LookupProcess(served, ids, 200) as client:

        def look():
            client.begin("attached", 400, 0.2, 1)
            return client.result()

        window = look()
        assert window.newest == 3 and window.checked_rows == 200 * 10
        assert len(window.latencies_ms) == 80 and (window.service_ms <= window.latencies_ms).all()
        table.upsert(ids, rows_of(ids, 2), 2)
        with pytest.raises(WrongAnswerError, match="is answered with packet 2 after packet 3 was seen"):
            look()
        table.upsert(
            ids, np.where(np.arange(DIM) < 5, rows_of(ids, 4), rows_of(ids, 3)).astype(np.float32), 3
        )
        with pytest.raises(WrongAnswerError, match="is answered with a row that it never had"):
            look()
        client.begin("rpc", 10, 0.1, 1)
        with pytest.raises(WrongAnswerError, match="ShardUnavailableError"):
            client.result()
    generation.remove()
