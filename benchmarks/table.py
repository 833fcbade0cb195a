"""How fast the table is, beside the least that memory allows, and what it costs to be a table.

A native program (native/benchmarks, built into build/benchmarks/native) measures lookups beside a bare gather of
rows whose numbers are known, with one feature of the table after the other; threads; a writer beside lookups;
upserts; growth. From Python come the case of HPS's profiler, a worker's lookup with the table attached and by gRPC,
restarts after SIGKILL, and embedding bags of torch and FBGEMM, which are told the row numbers. What exactly, and how
to read it: docs/benchmarks.md.

example: .venv/bin/python benchmarks/table.py --quick --json build/table.json
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from harness import native, table_report
from harness.conditions import conditions
from harness.measure import WrongAnswerError
from harness.processes import ChildFailedError
from harness.script import run_script
from harness.shard_lookups import HPS_SHAPE, attached_and_rpc, in_process_and_rpc
from harness.table_report import Verdict
from harness.warm_restart import warm_restarts
from harness.workload import Shape
from peers import fbgemm

BUILD = Path(__file__).resolve().parent.parent / "build" / "benchmarks"

CASES = ("lookups", "peers", "threads", "writer", "upserts", "growth", "hps", "attached", "restart")

_ZIPF_EXPONENT = 1.05
_QUIET_SHARE = 0.05
_IDLE_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    cases: Sequence[str]
    rounds: int
    seconds: float
    rows: int
    most_rows: int
    batches: int
    batch_ids: int
    calls: int
    restarts: int
    seed: int
    json: Path | None


def settings_from(arguments: Sequence[str]) -> Settings:
    """Parse the command line."""
    summary, _, example = (__doc__ or "").rpartition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="about two minutes, for a first impression")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write conditions and every round's figures"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="of each comparison (31; quick: 5)")
    parser.add_argument("--rows", type=int, metavar="N", help="of the table (4,000,000; quick: 1,000,000)")
    parser.add_argument(
        "--most-rows",
        type=int,
        metavar="N",
        help="to which a table grows, and of a restart (10,000,000; quick: 2,000,000)",
    )
    parser.add_argument("--seed", type=int, default=20_26, help="of tables and requests (%(default)s)")
    parser.add_argument("--only", action="append", choices=CASES, help="measure this; may be repeated")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    return Settings(
        cases=given.only or CASES,
        rounds=given.rounds or (5 if quick else 31),
        seconds=0.2 if quick else 1.0,
        rows=given.rows or (1_000_000 if quick else 4_000_000),
        most_rows=given.most_rows or (2_000_000 if quick else 10_000_000),
        batches=50 if quick else 200,
        batch_ids=12_288,
        calls=1_000 if quick else 10_000,
        restarts=2 if quick else 5,
        seed=given.seed,
        json=given.json,
    )


class Benchmark:
    """The cases. Each prints what it measured, adds it to `document` and its targets to `verdicts`."""

    def __init__(
        self, settings: Settings, root: Path, console: Console, on_progress: Callable[[str], None]
    ) -> None:
        self._settings, self._root, self._console, self._on_progress = settings, root, console, on_progress
        self._program: Path | None = None
        self.document: dict[str, Any] = {}
        self.verdicts: list[Verdict] = []

    def run(self) -> None:
        """Measure what the settings name."""
        busiest = 0.0
        for case in self._settings.cases:
            self._on_progress(f"{case}: is the machine quiet?")
            busiest = max(busiest, psutil.cpu_percent(_IDLE_SECONDS) / 100)
            getattr(self, f"_{case}")()
        self.document["others_share"] = busiest
        if busiest > _QUIET_SHARE:
            self._console.print(
                f"[yellow]the machine was not quiet: others used up to {busiest:.0%} of it between two cases[/]"
            )

    def _native(self, case: str, **more: int | float) -> dict[str, Any]:
        settings = self._settings
        if self._program is None:
            self._on_progress("building native/benchmarks")
            self._program = native.build(BUILD / "native")
        flags = {
            "rows": settings.rows,
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "batches": settings.batches,
            "batch-ids": settings.batch_ids,
            "seed": settings.seed,
            **more,
        }
        measured = native.run_case(self._program, case, flags, self._on_progress)
        self.document[case] = measured
        return measured

    def _lookups(self) -> None:
        measured = self._native("lookups")
        table_report.print_lookups(self._console, measured)
        self.verdicts += table_report.lookup_verdicts(measured)

    def _peers(self) -> None:
        settings = self._settings
        flags = {
            "rows": settings.rows,
            "dim": 16,
            "batches": settings.batches,
            "batch-ids": settings.batch_ids,
            "rounds": min(settings.rounds, 7),
            "seed": settings.seed,
            "exponent": _ZIPF_EXPONENT,
        }
        python = Path(sys.executable)
        try:
            python = fbgemm.install(BUILD / "fbgemm")
            self.document["peer"] = fbgemm.REQUIREMENTS
        except fbgemm.NotInstalledError as error:
            self.document["peer"] = f"torch alone: {error}"
            self._console.print(f"[yellow]FBGEMM cannot be installed here, torch stands alone: {error}[/]")
        self._on_progress("peers")
        measured = fbgemm.measure_bags(python, flags)
        self.document["peers"] = measured
        table_report.print_peers(self._console, measured, self.document.get("lookups"))

    def _threads(self) -> None:
        self.verdicts += table_report.threads_verdicts(self._native("threads"))

    def _writer(self) -> None:
        self.verdicts += table_report.writer_verdicts(self._native("writer"))

    def _upserts(self) -> None:
        self.verdicts.append(table_report.upsert_verdict(self._native("upserts")))

    def _growth(self) -> None:
        measured = self._native("growth", **{"last-rows": self._settings.most_rows})
        table_report.print_growth(self._console, measured)
        self.verdicts += table_report.growth_verdicts(measured)

    def _hps(self) -> None:
        self._on_progress("the case of HPS's profiler")
        settings = self._settings
        shape = dataclasses.replace(HPS_SHAPE, distinct_requests=200)
        measured = in_process_and_rpc(self._root / "hps", shape, settings.seed, settings.calls)
        self.document["hps"] = dataclasses.asdict(measured)
        table_report.print_hps(self._console, measured)
        self.verdicts.append(table_report.hps_verdict(measured))

    def _attached(self) -> None:
        settings = self._settings
        measured = attached_and_rpc(
            self._root / "attached",
            Shape(rows=settings.rows),
            settings.seed,
            settings.rounds,
            self._on_progress,
        )
        self.document["attached"] = dataclasses.asdict(measured)
        table_report.print_attached(self._console, measured)
        self.verdicts.append(table_report.attached_verdict(measured))

    def _restart(self) -> None:
        settings = self._settings
        seconds = warm_restarts(
            self._root / "restart", settings.most_rows, settings.restarts, settings.seed, self._on_progress
        )
        self.document["restart"] = {"rows": settings.most_rows, "seconds": seconds}
        self.verdicts.append(table_report.restart_verdict(seconds, settings.most_rows))


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """Measure what the settings name, print it, and return it as a JSON document."""
    BUILD.mkdir(parents=True, exist_ok=True)
    about = {"conditions": conditions(), "settings": dataclasses.asdict(settings)}
    with (
        tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as folder,
        console.status("starting") as status,
    ):
        benchmark = Benchmark(settings, Path(folder), console, status.update)
        benchmark.run()
    table_report.print_verdicts(console, benchmark.verdicts)
    return {
        **about,
        **benchmark.document,
        "verdicts": [dataclasses.asdict(one) for one in benchmark.verdicts],
    }


def main() -> None:
    """Run the command line."""
    settings = settings_from(sys.argv[1:])
    run_script(
        lambda console: measure(settings, console),
        settings.json,
        (ChildFailedError, WrongAnswerError, fbgemm.NotInstalledError),
    )


if __name__ == "__main__":
    main()
