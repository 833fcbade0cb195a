"""How fast satrap serves, beside a tuned TorchServe and beside PERSIA: ratios measured in one run.

Two satrap shards, serving and one worker against TorchServe 0.12 with the same model, the same bytes, one worker,
batch size 1 and one torch thread; then `satrap middleware` with one shard; then both servers with the same archives of
small models. What exactly, and how to read it: docs/benchmarks.md. TorchServe is installed into build/benchmarks by the
first run; it needs Java 17.

example: .venv/bin/python benchmarks/serve.py --quick --json build/serve.json
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.comparison import COMPARISONS, compare_servers
from harness.conditions import conditions
from harness.lookup_comparison import compare_lookups
from harness.measure import Plan, WrongAnswerError
from harness.processes import ChildFailedError
from harness.report import Target, print_comparison, print_floor, print_lookups
from harness.script import run_script
from harness.small_comparison import MEASURES, SmallPlan, compare_small
from harness.small_report import print_small
from harness.workload import Shape
from peers import torchserve

BUILD = Path(__file__).resolve().parent.parent / "build" / "benchmarks"
PEER_ENVIRONMENT = BUILD / "torchserve"


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    plan: Plan
    lookup_plan: Plan
    small_plan: SmallPlan
    shape: Shape
    lookup_shape: Shape
    seed: int
    with_peer: bool
    rows: Sequence[str]
    json: Path | None


def settings_from(arguments: Sequence[str]) -> Settings:
    """Parse the command line."""
    summary, _, example = (__doc__ or "").rpartition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [one.name for one in COMPARISONS]
    parser.add_argument("--quick", action="store_true", help="about five minutes, for a first impression")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write conditions and every cycle's figures"
    )
    parser.add_argument(
        "--cycles", type=int, metavar="N", help="how often each server is measured (7; quick: 3)"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="length of one series (3; quick: 1)")
    parser.add_argument(
        "--seed", type=int, default=20_26, help="of the table, the requests and the model (%(default)s)"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="of the table (%(default)s)")
    parser.add_argument(
        "--lookup-rows",
        type=int,
        default=4_000_000,
        metavar="N",
        help="of the middleware's table (%(default)s)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*names, "lookups", *MEASURES],
        help="measure this row only; may be repeated",
    )
    parser.add_argument(
        "--replacements",
        type=int,
        metavar="N",
        help="how often a model is replaced under load (100; quick: 5)",
    )
    parser.add_argument("--no-peer", action="store_true", help="leave TorchServe out: no Java, no download")
    given = parser.parse_args(arguments)
    cycles = given.cycles or (3 if given.quick else 7)
    seconds = given.seconds or (1.0 if given.quick else 3.0)
    return Settings(
        plan=Plan(cycles, seconds, warm_up_seconds=2 * seconds),
        lookup_plan=Plan(cycles, seconds, warm_up_seconds=seconds),
        small_plan=SmallPlan(
            Plan(cycles, seconds, warm_up_seconds=10 * seconds),  # TorchServe's JIT needs half a minute
            starts=cycles,
            registrations=2 * cycles,
            replacements=given.replacements or (5 if given.quick else 100),
        ),
        shape=Shape(rows=given.rows),
        lookup_shape=Shape(rows=given.lookup_rows),
        seed=given.seed,
        with_peer=not given.no_peer,
        rows=given.only or [*names, "lookups", *MEASURES],
        json=given.json,
    )


def measure(settings: Settings, console: Console) -> dict[str, object]:
    """Measure what the settings name, print it, and return it as a JSON document."""
    document: dict[str, object] = {"conditions": conditions(), "settings": dataclasses.asdict(settings)}
    BUILD.mkdir(parents=True, exist_ok=True)
    if settings.with_peer:
        torchserve.install(PEER_ENVIRONMENT)
        document["peer"] = torchserve.versions()
    with (
        tempfile.TemporaryDirectory(dir=BUILD, prefix="run-") as folder,
        console.status("starting") as status,
    ):
        root = Path(folder)
        comparisons = [one for one in COMPARISONS if one.name in settings.rows]
        if comparisons:
            results = compare_servers(
                root / "servers",
                settings.shape,
                settings.seed,
                settings.plan,
                comparisons,
                PEER_ENVIRONMENT if settings.with_peer else None,
                status.update,
            )
            document["servers"] = dataclasses.asdict(results)
            print_comparison(console, results, Target())
            print_floor(console, results)
        if "lookups" in settings.rows:
            row = compare_lookups(
                root / "lookups", settings.lookup_shape, settings.seed, settings.lookup_plan, status.update
            )
            document["lookups"] = dataclasses.asdict(row)
            print_lookups(console, row)
        measures = [name for name in MEASURES if name in settings.rows]
        if measures:
            small = compare_small(
                root / "small",
                settings.seed,
                settings.small_plan,
                measures,
                PEER_ENVIRONMENT if settings.with_peer else None,
                status.update,
            )
            document["small"] = dataclasses.asdict(small)
            print_small(console, small)
    return document


def main() -> None:
    """Run the command line."""
    settings = settings_from(sys.argv[1:])
    run_script(
        lambda console: measure(settings, console),
        settings.json,
        (ChildFailedError, WrongAnswerError, torchserve.JavaMissingError),
    )


if __name__ == "__main__":
    main()
