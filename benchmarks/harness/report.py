"""What a run prints: comparisons, the floor, where time goes."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from harness.comparison import FEW, MANY, OURS, PEER, Results
from harness.lookup_comparison import OURS as MIDDLEWARE
from harness.measure import Cycle, Row

__all__ = ["PERSIA_MEASURED", "Target", "print_comparison", "print_floor", "print_lookups"]

PERSIA_MEASURED = {1: (4.6, 207.0), 2: (5.7, 315.0), 4: (8.6, 447.0)}
"""PERSIA's worker and parameter server by number of clients: p50 in ms and requests/s, 4 M rows, two cores.

Measured once, on another machine of this kind (docs/benchmarks.md); not measured in this run.
"""

_QUIET = 0.05


@dataclass(frozen=True)
class Target:
    """What the headline has to reach."""

    p50_ratio: float = 0.4
    rate_ratio: float = 3.0


def _p50(cycle: Cycle) -> float:
    return cycle.p50_ms


def _rate(cycle: Cycle) -> float:
    return cycle.rate


def print_comparison(console: Console, results: Results, target: Target) -> None:
    """One block for each row: both servers, then ours / the peer's; the headline is held to the target."""
    rows = results.rows
    table = Table(title=f"Predictions: {OURS} and {PEER}, medians of the cycles")
    table.add_column("server")
    for heading in (f"p50 ms\n{FEW} client", f"p99 ms\n{FEW} client", f"requests/s\n{MANY} clients"):
        table.add_column(heading, justify="right")
    for heading in (
        f"p99 ms\n{MANY} clients",
        "server CPU\nms/request",
        "client's\nCPU share",
        "others'\nCPU share",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.name, style="italic")
        for side in row.sides:
            table.add_row(f"  {side}", *_cells(row, side))
        if {OURS, PEER} <= set(row.sides):
            table.add_row(f"  {OURS} / {PEER}", *_ratios(row), style="bold")
        table.add_section()
    console.print(table)
    differences = ", ".join(f"{name} {most:.1g}" for name, most in results.greatest_difference.items())
    console.print(f"greatest difference of a probability from the model's own: {differences}")
    headline = rows[0]
    if {OURS, PEER} <= set(headline.sides):
        p50, rate = headline.ratio(OURS, PEER, FEW, _p50), headline.ratio(OURS, PEER, MANY, _rate)
        console.print(
            f"headline: p50 {p50:.2f}x (target at most {target.p50_ratio}x: {_met(p50 <= target.p50_ratio)}), "
            f"throughput {rate:.2f}x (target at least {target.rate_ratio}x: {_met(rate >= target.rate_ratio)})"
        )
    _warn_unless_quiet(console, rows)


def _cells(row: Row, side: str) -> list[str]:
    return [
        f"{row.median(side, FEW, _p50):.2f}",
        f"{row.median(side, FEW, lambda one: one.p99_ms):.2f}",
        f"{row.median(side, MANY, _rate):,.0f}",
        f"{row.median(side, MANY, lambda one: one.p99_ms):.1f}",
        f"{row.median(side, MANY, lambda one: one.server_cpu_ms):.2f}",
        f"{row.median(side, MANY, lambda one: one.client_share):.0%}",
        f"{row.median(side, MANY, lambda one: one.others_share):.0%}",
    ]


def _ratios(row: Row) -> list[str]:
    ratios = (
        row.ratio(OURS, PEER, FEW, _p50),
        row.ratio(OURS, PEER, FEW, lambda one: one.p99_ms),
        row.ratio(OURS, PEER, MANY, _rate),
        row.ratio(OURS, PEER, MANY, lambda one: one.p99_ms),
        row.ratio(OURS, PEER, MANY, lambda one: one.server_cpu_ms),
    )
    return [f"{ratio:.2f}x" for ratio in ratios]


def print_floor(console: Console, results: Results) -> None:
    """How far above the floor we are, and what each step of a handler takes by itself."""
    floor, stages = results.floor, results.stages
    p50 = results.rows[0].median(OURS, FEW, _p50)
    console.print(
        f"floor: {floor.total:.2f} ms = "
        f"echo {floor.echo:.2f} + forward {floor.forward:.2f} + gather {floor.gather:.2f}; "
        f"{OURS}'s p50 is {p50:.2f} ms, {p50 / floor.total:.2f}x the floor"
    )
    if not stages:
        return
    names = list(dict.fromkeys(name for steps in stages.values() for name in steps))
    table = Table(
        title="Where time goes, ms: a handler's steps timed alone, and what the server adds to them"
    )
    table.add_column("server")
    for name in (*names, "all steps", "around them", "p50"):
        table.add_column(name, justify="right")
    for side, steps in stages.items():
        total, whole = sum(steps.values()), results.rows[0].median(side, FEW, _p50)
        values = (*(steps[name] for name in names), total, whole - total, whole)
        table.add_row(side, *(f"{value:.3f}" for value in values))
    console.print(table)


def print_lookups(console: Console, row: Row) -> None:
    """Our middleware, and PERSIA's figures."""
    table = Table(title=f"{row.name}: medians of the cycles")
    for heading in (
        "server",
        "clients",
        "p50 ms",
        "p99 ms",
        "requests/s",
        "server CPU ms/request",
        "client's CPU share",
    ):
        table.add_column(heading, justify="left" if heading == "server" else "right")
    for side in row.sides:
        for clients in row.cycles[side]:
            table.add_row(
                side,
                str(clients),
                f"{row.median(side, clients, _p50):.2f}",
                f"{row.median(side, clients, lambda one: one.p99_ms):.2f}",
                f"{row.median(side, clients, _rate):,.0f}",
                f"{row.median(side, clients, lambda one: one.server_cpu_ms):.2f}",
                f"{row.median(side, clients, lambda one: one.client_share):.0%}",
            )
        table.add_section()
    for clients, (p50, rate) in PERSIA_MEASURED.items():
        table.add_row("PERSIA (another machine)", str(clients), f"{p50:.2f}", "", f"{rate:,.0f}", "", "")
    console.print(table)
    p50 = row.median(MIDDLEWARE, 1, _p50)
    console.print(
        f"one client: p50 {p50 / PERSIA_MEASURED[1][0]:.2f}x PERSIA's figure, which is of another machine"
    )
    _warn_unless_quiet(console, [row])


def _met(met: bool) -> str:
    return "met" if met else "NOT met"


def _warn_unless_quiet(console: Console, rows: Sequence[Row]) -> None:
    worst = max(
        cycle.others_share
        for row in rows
        for sides in row.cycles.values()
        for some in sides.values()
        for cycle in some
    )
    if worst > _QUIET:
        console.print(
            f"[yellow]the machine was not quiet: other processes took up to {worst:.0%} of the CPU used[/]"
        )
