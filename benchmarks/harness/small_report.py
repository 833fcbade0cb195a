"""What the comparison with small models prints."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from harness.contenders import OURS
from harness.measure import Cycle, Row
from harness.replacement import Replacements
from harness.rounds import Figures
from harness.small_comparison import CROWD, ECHO, FEW, MANY, PEER_NAME, SmallResults
from harness.table_report import Verdict, print_verdicts

__all__ = ["print_small"]

_NOOP_P50, _NOOP_RATE = 0.75, 1.8
_MEMORY, _START, _REGISTER = 0.45, 0.9, 0.2
_BATCH_RATE, _BATCH_P50 = 1.2, 0.3
_CHANGING = 1.5


def print_small(console: Console, results: SmallResults) -> None:
    """A table of figures, and the targets with what was reached."""
    table = Table(title=f"Small models: {OURS} and {PEER_NAME}, medians of cycles measured in turns")
    for heading in ("measure", OURS, PEER_NAME, f"{OURS} / {PEER_NAME}", "the floor"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    verdicts: list[Verdict] = []
    if results.noop is not None:
        _series(table, verdicts, results.noop, (FEW, MANY), (_NOOP_P50, _NOOP_RATE))
    if results.batching is not None:
        _series(table, verdicts, results.batching, (FEW, CROWD), (_BATCH_P50, _BATCH_RATE))
    for name, unit, figures, limit in (
        ("start to first prediction", "s", results.start, _START),
        ("three small idle models, PSS", "MB", results.memory, _MEMORY),
        ("RegisterModel to first right answer", "s", results.register, _REGISTER),
    ):
        if figures is not None:
            _figures(table, verdicts, name, unit, figures, limit)
    console.print(table)
    for side, replaced in results.replace.items():
        _replaced(console, verdicts, side, replaced)
    if verdicts:
        print_verdicts(console, verdicts)


def _series(
    table: Table,
    verdicts: list[Verdict],
    row: Row,
    threads: tuple[int, int],
    limits: tuple[float, float],
) -> None:
    few, many = threads
    p50: Callable[[Cycle], float] = lambda one: one.p50_ms  # noqa: E731 (two names for what follows)
    rate: Callable[[Cycle], float] = lambda one: one.rate  # noqa: E731
    for name, count, value, form in (
        (f"{row.name}: p50 ms, {few} client", few, p50, "{:.2f}"),
        (f"{row.name}: requests/s, {many} clients", many, rate, "{:,.0f}"),
    ):
        cells = [
            form.format(row.median(side, count, value)) if side in row.sides else ""
            for side in (OURS, PEER_NAME)
        ]
        ratio = f"{row.ratio(OURS, PEER_NAME, count, value):.2f}x" if PEER_NAME in row.sides else ""
        floor = form.format(row.median(ECHO, count, value)) if ECHO in row.sides else ""
        table.add_row(name, *cells, ratio, floor)
    if PEER_NAME in row.sides:
        verdicts += [
            Verdict.at_most(f"{row.name}: p50", limits[0], row.ratio(OURS, PEER_NAME, few, p50), "x"),
            Verdict.at_least(
                f"{row.name}: requests/s", limits[1], row.ratio(OURS, PEER_NAME, many, rate), "x"
            ),
        ]


def _figures(
    table: Table, verdicts: list[Verdict], name: str, unit: str, figures: Figures, limit: float
) -> None:
    sides = [f"{figures.median(side):.2f}" if side in figures.values else "" for side in (OURS, PEER_NAME)]
    if PEER_NAME not in figures.values:
        table.add_row(f"{name}, {unit}", *sides, "", "")
        return
    ratio = figures.ratio(OURS, PEER_NAME)
    table.add_row(f"{name}, {unit}", *sides, f"{ratio:.2f}x", "")
    verdicts.append(Verdict.at_most(name, limit, ratio, "x"))


def _replaced(console: Console, verdicts: list[Verdict], side: str, replaced: Replacements) -> None:
    console.print(
        f"replacing a model under load, {side}: {replaced.rounds} rounds of {replaced.change_seconds:.2f} s; p50 "
        f"{replaced.quiet_ms:.2f} ms quiet, {replaced.changing_ms:.2f} ms while it changes ({replaced.ratio:.2f}x); "
        f"{len(replaced.lost)} of {replaced.calls} calls lost"
    )
    for problem in sorted(set(replaced.lost)):
        console.print(f"  {replaced.lost.count(problem)} times: {problem}", markup=False)
    if side == OURS:
        verdicts.append(
            Verdict.at_most("p50 while a model is replaced, of the quiet one", _CHANGING, replaced.ratio, "x")
        )
        verdicts.append(
            Verdict.at_most(f"calls lost in {replaced.rounds} replacements", 0, len(replaced.lost), "")
        )
