"""How fast packets of a trainer are applied, how soon their rows are served, and what lookups notice of it.

A trainer and an embedding server run in processes of their own, as users start them, on a local directory; a third
process looks up at times that do not depend on the answers. Quiet windows, windows in which the trainer publishes to
a directory that nobody follows, and storms take turns. What exactly, and how to read it: docs/benchmarks.md.

example: .venv/bin/python benchmarks/updates.py --quick --json build/updates.json
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from harness import update_report
from harness.conditions import conditions
from harness.measure import WrongAnswerError
from harness.processes import ChildFailedError
from harness.script import run_script
from harness.table_report import Verdict, print_verdicts
from harness.update_apply import measure_apply
from harness.update_flow import Flow, FlowPlan, flow
from harness.update_rows import Stream
from satrap.errors import SatrapError

BUILD = Path(__file__).resolve().parent.parent / "build" / "benchmarks"

CASES = ("apply", "checkpoint", "visible", "catch-up", "storm")

_QUIET_SHARE = 0.05
_IDLE_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    cases: Sequence[str]
    rows: int
    packet_rows: int
    rounds: int
    packets: int
    visible_packets: int
    window_seconds: float
    windows: int
    storm_rows: float
    lookups: float
    batch: int
    seed: int
    directory: Path
    json: Path | None

    @property
    def plan(self) -> FlowPlan:
        """Of the trainer and the server."""
        return FlowPlan(
            stream=Stream(self.rows, self.packet_rows, self.seed),
            visible_packets=self.visible_packets,
            visible_every=0.25,
            window_seconds=self.window_seconds,
            windows=self.windows,
            storm_rows=self.storm_rows,
            lookups=self.lookups,
            batch=self.batch,
            catch_ups=self.rounds,
            catch_up_packets=self.packets,
            dumps=self.rounds,
        )


def settings_from(arguments: Sequence[str]) -> Settings:
    """Parse the command line."""
    summary, _, example = (__doc__ or "").rpartition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="about a minute, for a first impression")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write conditions and every round's figures"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="of the table (4,000,000; quick: 400,000)")
    parser.add_argument("--packet-rows", type=int, default=10_000, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="of applying, of catching up, of checkpoints (5; quick: 2)"
    )
    parser.add_argument("--packets", type=int, metavar="N", help="of each of these rounds (200; quick: 40)")
    parser.add_argument(
        "--visible-packets", type=int, metavar="N", help="published one by one (200; quick: 20)"
    )
    parser.add_argument(
        "--window", type=float, metavar="S", help="seconds of a quiet or storm window (12; quick: 2)"
    )
    parser.add_argument("--windows", type=int, metavar="N", help="of each kind (5; quick: 3)")
    parser.add_argument(
        "--storm-rows", type=float, default=100_000, metavar="N", help="a second (%(default)s)"
    )
    parser.add_argument("--lookups", type=float, default=200, metavar="N", help="a second (%(default)s)")
    parser.add_argument("--batch", type=int, default=2_000, metavar="N", help="ids of a lookup (%(default)s)")
    parser.add_argument("--seed", type=int, default=20_26, help="of ids and rows (%(default)s)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=BUILD,
        metavar="FOLDER",
        help="on the disk that packets and checkpoints are written to (%(default)s)",
    )
    parser.add_argument("--only", action="append", choices=CASES, help="measure this; may be repeated")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    return Settings(
        cases=given.only or CASES,
        rows=given.rows or (400_000 if quick else 4_000_000),
        packet_rows=given.packet_rows,
        rounds=given.rounds or (2 if quick else 5),
        packets=given.packets or (40 if quick else 200),
        visible_packets=given.visible_packets or (20 if quick else 200),
        window_seconds=given.window or (2.0 if quick else 12.0),
        windows=given.windows or (3 if quick else 5),
        storm_rows=given.storm_rows,
        lookups=given.lookups,
        batch=given.batch,
        seed=given.seed,
        directory=given.directory,
        json=given.json,
    )


class Benchmark:
    """The cases. Each prints what it measured, adds it to `document` and its targets to `verdicts`."""

    def __init__(self, settings: Settings, console: Console, on_progress: Callable[[str], None]) -> None:
        self._settings, self._console, self._on_progress = settings, console, on_progress
        self._busiest = 0.0
        self.document: dict[str, Any] = {}
        self.verdicts: list[Verdict] = []

    def run(self, root: Path) -> None:
        """Measure what the settings name."""
        cases = self._settings.cases
        self._look_around()
        if "apply" in cases:
            self._apply()
        if set(cases) - {"apply"}:
            with ExitStack() as stack:
                running = stack.enter_context(flow(root / "flow", self._settings.plan, self._on_progress))
                self._checkpoints(running, report="checkpoint" in cases)
                if set(cases) - {"apply", "checkpoint"}:
                    stack.enter_context(running.serving())
                    self._served(running)
        self.document["others_share"] = self._busiest
        if self._busiest > _QUIET_SHARE:
            self._console.print(
                f"[yellow]the machine was not quiet: others used up to {self._busiest:.0%} of it between two cases[/]"
            )

    def _look_around(self) -> None:
        self._on_progress("is the machine quiet?")
        self._busiest = max(self._busiest, psutil.cpu_percent(_IDLE_SECONDS) / 100)

    def _apply(self) -> None:
        settings = self._settings
        measured = measure_apply(
            settings.rows,
            settings.packet_rows,
            settings.packets,
            settings.rounds,
            settings.seed,
            self._on_progress,
        )
        self.document["apply"] = dataclasses.asdict(measured)
        update_report.print_apply(self._console, measured)
        self.verdicts += update_report.apply_verdicts(measured)

    def _checkpoints(self, running: Flow, *, report: bool) -> None:
        measured = running.checkpoints()
        if report:
            self.document["checkpoint"] = [dataclasses.asdict(one) for one in measured]
            update_report.print_checkpoints(self._console, measured)
            self.verdicts += update_report.checkpoint_verdicts(measured)

    def _served(self, running: Flow) -> None:
        settings = self._settings
        if "visible" in settings.cases:
            self._look_around()
            visible = running.visible()
            self.document["visible_ms"] = visible.milliseconds
            update_report.print_visible(
                self._console, "one by one", visible.milliseconds, settings.packet_rows
            )
            self.verdicts += update_report.visible_verdicts(visible)
        if "catch-up" in settings.cases:
            rates = running.catch_ups()
            self.document["catch_up_rows_per_second"] = rates
            update_report.print_catch_ups(self._console, rates)
        if "storm" in settings.cases:
            self._look_around()
            storm = running.storm()
            self.document["storm"] = dataclasses.asdict(storm)
            update_report.print_storm(self._console, storm, settings.packet_rows)
            self.verdicts += update_report.storm_verdicts(storm)


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """Measure what the settings name, print it, and return it as a JSON document."""
    settings.directory.mkdir(parents=True, exist_ok=True)
    about = {"conditions": conditions(), "settings": dataclasses.asdict(settings)}
    with (
        tempfile.TemporaryDirectory(dir=settings.directory, prefix="run-") as folder,
        console.status("starting") as status,
    ):
        benchmark = Benchmark(settings, console, status.update)
        benchmark.run(Path(folder))
    print_verdicts(console, benchmark.verdicts)
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
        (ChildFailedError, WrongAnswerError, SatrapError),
    )


if __name__ == "__main__":
    main()
