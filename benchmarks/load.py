"""How fast an embedding server loads a PERSIA checkpoint, and how much memory the table takes.

Every load is the server's own code in a new process: from the path to a table that is served. Beside it a plain read of
the same files, into a buffer, just before: the page cache is warm, so both measure the machine's memory, not its disk.
What exactly, and how to read it: docs/benchmarks.md.

example: .venv/bin/python benchmarks/load.py --quick --json build/load.json
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.checkpoint_load import Case, LoadResults, LoadRun, measure_loads, write_checkpoint
from harness.conditions import conditions
from harness.script import run_script
from satrap.errors import SatrapError

BUILD = Path(__file__).resolve().parent.parent / "build" / "benchmarks"

HEADLINE = Case("float32", 2)
CASES = (HEADLINE, Case("float32", 1), Case("float16", 2), Case("float16", 1))

PERSIA_MEASURED = {1: 3.4e6, 2: 6.1e6}
"""Rows/s of PERSIA's own loader by threads, 4 M rows of dim 16 in 100 files; 163 bytes of memory per row.

Measured once, on another machine of this kind (docs/benchmarks.md); not measured in this run.
"""
_PERSIA_BYTES = 163.0

_QUIET = 0.05


@dataclass(frozen=True)
class Target:
    """What the headline has to reach, with rows of dim 16."""

    rows_per_second: float = 18e6
    memory_ratio: float = 1.30


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    rows: int
    dim: int
    files: int
    runs: int
    seed: int
    table_parent: Path
    json: Path | None


def settings_from(arguments: Sequence[str]) -> Settings:
    """Parse the command line."""
    summary, _, example = (__doc__ or "").rpartition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one million rows, for a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write conditions and every run's figures")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="of the checkpoint (4,000,000; quick: 1,000,000)"
    )
    parser.add_argument("--dim", type=int, default=16, metavar="N", help="of its rows (%(default)s)")
    parser.add_argument("--files", type=int, default=100, metavar="N", help="of the checkpoint (%(default)s)")
    parser.add_argument("--runs", type=int, metavar="N", help="loads of each kind (9; quick: 3)")
    parser.add_argument("--seed", type=int, default=20_26, help="of signs and rows (%(default)s)")
    parser.add_argument(
        "--table-parent",
        type=Path,
        default=Path("/dev/shm"),
        metavar="DIRECTORY",
        help="where tables are made and removed again: in memory (%(default)s)",
    )
    given = parser.parse_args(arguments)
    return Settings(
        rows=given.rows or (1_000_000 if given.quick else 4_000_000),
        dim=given.dim,
        files=given.files,
        runs=given.runs or (3 if given.quick else 9),
        seed=given.seed,
        table_parent=given.table_parent,
        json=given.json,
    )


def measure(settings: Settings, console: Console) -> dict[str, object]:
    """Measure, print, and return what was measured as a JSON document."""
    before = conditions()
    BUILD.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as folder,
        console.status("writing the checkpoint") as status,
    ):
        checkpoint = Path(folder) / "checkpoint"
        write_checkpoint(checkpoint, settings.rows, settings.dim, settings.files, settings.seed)
        file_bytes = sum(file.stat().st_size for file in checkpoint.glob("s*/*.emb"))
        results = LoadResults(settings.rows, settings.dim, settings.files, file_bytes)
        measure_loads(checkpoint, CASES, settings.runs, settings.table_parent, results, status.update)
    report(console, results, Target())
    runs = [
        {**dataclasses.asdict(case), "runs": [dataclasses.asdict(run) for run in some]}
        for case, some in results.runs.items()
    ]
    facts = {"rows": results.rows, "dim": results.dim, "files": results.files, "file_bytes": file_bytes}
    return {
        "conditions": before,
        "settings": dataclasses.asdict(settings),
        "checkpoint": facts,
        "loads": runs,
    }


def report(console: Console, results: LoadResults, target: Target) -> None:
    """Print one line for each kind of load, and how the headline stands."""
    table = Table(
        title=f"Load of {results.rows:,} rows of dim {results.dim} in {results.files} files, "
        f"{results.file_bytes / 1e6:,.0f} MB: medians of {len(results.runs[HEADLINE])} runs"
    )
    table.add_column("rows as")
    for heading in (
        "threads",
        "ms: median (least - greatest)",
        "M rows/s",
        "CPU ms",
        "x plain read",
        "bytes/row",
        "x (8 + row)",
        "huge pages",
        "peak RSS MB",
    ):
        table.add_column(heading, justify="right")
    for case, runs in results.runs.items():
        each = [run.load_seconds * 1e3 for run in runs]
        table.add_row(
            case.row_dtype,
            str(case.threads),
            f"{results.median(case, lambda run: run.load_seconds * 1e3):,.0f} ({min(each):,.0f} - {max(each):,.0f})",
            f"{results.median(case, _rate) / 1e6:.1f}",
            f"{results.median(case, lambda run: run.cpu_seconds * 1e3):,.0f}",
            f"{results.median(case, lambda run: run.load_seconds / run.read_seconds):.1f}",
            f"{results.median(case, _bytes_per_row):.1f}",
            f"{_memory_ratio(results, case):.2f}",
            "yes" if all(run.huge_pages for run in runs) else "no",
            f"{results.median(case, lambda run: run.peak_rss_bytes / 1e6):,.0f}",
        )
    table.add_section()
    for threads, rate in PERSIA_MEASURED.items():
        table.add_row(
            "PERSIA (another machine)",
            str(threads),
            "",
            f"{rate / 1e6:.1f}",
            "",
            f"{_PERSIA_BYTES:.0f}",
            "",
            "",
            "",
        )
    console.print(table)
    reads = [run.read_seconds for runs in results.runs.values() for run in runs]
    console.print(
        f"plain read by two threads: {sorted(reads)[len(reads) // 2] * 1e3:.1f} ms "
        f"({min(reads) * 1e3:.1f} - {max(reads) * 1e3:.1f})"
    )
    rate, memory = results.median(HEADLINE, _rate), _memory_ratio(results, HEADLINE)
    console.print(
        f"headline: {rate / 1e6:.1f} M rows/s with two threads (target at least {target.rows_per_second / 1e6:.0f}: "
        f"{_met(rate >= target.rows_per_second)}), {memory:.2f} x (8 + row bytes) (target at most "
        f"{target.memory_ratio:.2f}: {_met(memory <= target.memory_ratio)})"
    )
    worst = max(run.others_share for runs in results.runs.values() for run in runs)
    if worst > _QUIET:
        console.print(
            f"[yellow]the machine was not quiet: other processes took up to {worst:.0%} of the CPU used[/]"
        )


def _rate(run: LoadRun) -> float:
    return run.rows / run.load_seconds


def _bytes_per_row(run: LoadRun) -> float:
    return run.table_bytes / run.rows


def _memory_ratio(results: LoadResults, case: Case) -> float:
    row_bytes = results.dim * (4 if case.row_dtype == "float32" else 2)
    return results.median(case, _bytes_per_row) / (8 + row_bytes)


def _met(met: bool) -> str:
    return "met" if met else "NOT met"


def main() -> None:
    """Run the command line."""
    settings = settings_from(sys.argv[1:])
    run_script(
        lambda console: measure(settings, console),
        settings.json,
        (SatrapError,),
    )


if __name__ == "__main__":
    main()
