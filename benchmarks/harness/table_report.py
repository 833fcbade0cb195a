"""What table.py prints: the price of each feature of a lookup, peers, latencies, and targets with what was reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.shard_lookups import AttachedAndRpc, InProcessAndRpc
from harness.spread import Latencies, Spread, fastest

__all__ = [
    "Verdict",
    "attached_verdict",
    "growth_verdicts",
    "hps_verdict",
    "lookup_verdicts",
    "print_attached",
    "print_growth",
    "print_hps",
    "print_lookups",
    "print_peers",
    "print_verdicts",
    "restart_verdict",
    "threads_verdicts",
    "upsert_verdict",
    "writer_verdicts",
]

_FLOOR = "gather, window"
_TABLE = "table"
_FLOOR_TARGETS = {"uniform": 4.8, "zipf": 4.4}
_MOST_MEMORY = 1.6
_MORE_MS = 1.0

Rounds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Verdict:
    """One target and what was reached."""

    measure: str
    target: str
    got: str
    is_met: bool

    @classmethod
    def at_most(cls, measure: str, limit: float, got: float, unit: str) -> "Verdict":
        """`got` may be `limit` at most."""
        return cls(measure, f"at most {limit:g}{unit}", f"{got:.3g}{unit}", got <= limit)

    @classmethod
    def at_least(cls, measure: str, limit: float, got: float, unit: str) -> "Verdict":
        """`got` must be `limit` at least."""
        return cls(measure, f"at least {limit:g}{unit}", f"{got:.3g}{unit}", got >= limit)


# ---- lookups beside their floor ----


def print_lookups(console: Console, measured: Mapping[str, Any]) -> None:
    """ns/id, and the multiple of the best gather, of every way and draw."""
    draws: Mapping[str, Rounds] = measured["ns_per_id"]
    table = Table(title="One thread, ns/id: medians of the rounds, and multiples of the best gather")
    table.add_column("way")
    for draw, ways in draws.items():
        table.add_column(draw, justify="right")
        table.add_column(f"x {fastest(ways, _FLOOR)}", justify="right")
        table.add_column("8 of 10 rounds", justify="right")
    for name in next(iter(draws.values())):
        cells = []
        for ways in draws.values():
            ratio = Spread.of_ratios(ways[name], ways[fastest(ways, _FLOOR)])
            cells += [
                f"{median(ways[name]):.2f}",
                f"{ratio.median:.2f}",
                f"{ratio.low:.2f} to {ratio.high:.2f}",
            ]
        table.add_row(name, *cells, style="bold" if name == _TABLE else None)
    console.print(table)
    pages = {True: "huge", False: "small"}
    console.print(
        f"pages: {pages[measured['array_huge_pages']]} under the gather, "
        f"{pages[measured['table_huge_pages']]} under the table; "
        f"{measured['displaced']:.1%} of the ids are not in their home bucket; "
        f"memory {measured['table_bytes_ratio']:.3f} x rows x (8 + row bytes)"
    )


def lookup_verdicts(measured: Mapping[str, Any]) -> list[Verdict]:
    """The table beside the best gather, and the memory of a loaded table."""
    verdicts = []
    for draw, limit in _FLOOR_TARGETS.items():
        ways = measured["ns_per_id"][draw]
        ratio = Spread.of_ratios(ways[_TABLE], ways[fastest(ways, _FLOOR)]).median
        verdicts.append(Verdict.at_most(f"lookup, {draw}, of the gather's time", limit, ratio, "x"))
    return [
        *verdicts,
        Verdict.at_most(
            "memory after a load, of rows x (8 + row bytes)", 1.30, measured["table_bytes_ratio"], "x"
        ),
    ]


def print_peers(console: Console, peers: Mapping[str, Rounds], lookups: Mapping[str, Any] | None) -> None:
    """Embedding bags with known row numbers beside the table, which has to find them."""
    table = Table(title="Peers that are told the row numbers, one thread, ns/id: medians of the rounds")
    table.add_column("way")
    for draw in peers:
        table.add_column(draw, justify="right")
    for name in next(iter(peers.values())):
        table.add_row(name, *(f"{median(ways[name]):.2f}" for ways in peers.values()))
    if lookups is not None:
        for name in (_TABLE, _FLOOR):
            ways_of = lookups["ns_per_id"]
            cells = (median(ways_of[draw][fastest(ways_of[draw], name)]) for draw in peers)
            label = "satrap's table, from signs" if name == _TABLE else "the best gather"
            table.add_row(label, *(f"{cell:.2f}" for cell in cells), style="bold")
    console.print(table)


# ---- threads, writer, upserts ----


def threads_verdicts(measured: Mapping[str, Rounds]) -> list[Verdict]:
    """Two threads' rate over one's."""
    return [
        Verdict.at_least(
            f"two threads' rate, {draw}, of one's",
            1.7,
            Spread.of_ratios(rates["two"], rates["one"]).median,
            "x",
        )
        for draw, rates in measured.items()
        if isinstance(rates, Mapping)
    ]


def writer_verdicts(measured: Mapping[str, Any]) -> list[Verdict]:
    """Lookups beside a writer, and whether the writer kept its pace."""
    verdicts = []
    for draw, rates in measured.items():
        ratio = Spread.of_ratios(rates["disturbed"], rates["alone"]).median
        written = median(rates["written"]) / 1e6
        verdict = Verdict.at_least(f"lookups, {draw}, while 1 M rows/s are upserted", 0.85, ratio, "x")
        verdicts.append(
            Verdict(
                verdict.measure,
                verdict.target,
                f"{verdict.got} ({written:.2f} M rows/s)",
                verdict.is_met and written > 0.98,
            )
        )
    return verdicts


def upsert_verdict(measured: Mapping[str, Any]) -> Verdict:
    """Rows/s of a million rows at once."""
    return Verdict.at_least(
        "upsert of 1 M random existing rows", 20, median(measured["rows_per_second"]) / 1e6, " M rows/s"
    )


# ---- growth ----


def print_growth(console: Console, measured: Mapping[str, Mapping[str, float]]) -> None:
    """Latencies of small lookups at rest and during the growth, and what was held at most."""
    table = Table(title="Lookups while the table grows: p99.9 in ms")
    table.add_column("lookups in")
    for heading in (
        "usual, before",
        "usual, after",
        "growing",
        "growing,\ngreatest",
        "lookups",
        "rows/s\ninserted",
        "memory\nat most",
    ):
        table.add_column(heading, justify="right")
    for name, one in measured.items():
        table.add_row(
            name,
            f"{one['usual_before_ms']:.4f}",
            f"{one['usual_after_ms']:.4f}",
            f"{one['growing_ms']:.4f}",
            f"{one['growing_greatest_ms']:.2f}",
            f"{one['lookups']:,.0f}",
            f"{one['rows_per_second'] / 1e6:.2f} M",
            f"{one['greatest_bytes_ratio']:.3f}x",
        )
    console.print(table)


def growth_verdicts(measured: Mapping[str, Mapping[str, float]]) -> list[Verdict]:
    """The worst of all."""
    more = max(
        one["growing_ms"] - max(one["usual_before_ms"], one["usual_after_ms"]) for one in measured.values()
    )
    held = max(one["greatest_bytes_ratio"] for one in measured.values())
    return [
        Verdict.at_most("p99.9 of lookups during growth, more than usual", _MORE_MS, max(more, 0.0), " ms"),
        Verdict.at_most("memory during growth, of rows x (8 + row bytes)", _MOST_MEMORY, held, "x"),
    ]


# ---- what is measured from Python ----


def print_hps(console: Console, measured: InProcessAndRpc) -> None:
    """The case of HPS's profiler."""
    table = Table(title="2,000 keys, zipf 1.2, of 630,000 rows (HPS profiler's case): ms for one call")
    table.add_column("way")
    for heading in ("min", "mean", "median", "p95", "p99"):
        table.add_column(heading, justify="right")
    for name, one in (("in-process, from Python", measured.in_process), ("gRPC over loopback", measured.rpc)):
        table.add_row(name, *_latency_cells(one))
    console.print(table)


def _latency_cells(one: Latencies) -> list[str]:
    return [f"{value:.4f}" for value in (one.least, one.mean, one.median, one.p95, one.p99)]


def hps_verdict(measured: InProcessAndRpc) -> Verdict:
    """The mean of the in-process calls."""
    return Verdict.at_most("2,000 keys in-process, mean", 0.03, measured.in_process.mean, " ms")


def print_attached(console: Console, measured: AttachedAndRpc) -> None:
    """A request's lookup both ways."""
    table = Table(title="One request's lookup in a worker (12,288 ids, decode to sums): ms")
    table.add_column("way")
    for heading in ("min", "mean", "median", "p95", "p99"):
        table.add_column(heading, justify="right")
    for name, rounds in (("attached", measured.attached), ("gRPC", measured.rpc)):
        table.add_row(name, *_latency_cells(Latencies.of_seconds([one for some in rounds for one in some])))
    console.print(table)


def attached_verdict(measured: AttachedAndRpc) -> Verdict:
    """gRPC's median over the attached table's, round by round."""
    ratio = Spread.of_ratios(
        [median(some) for some in measured.rpc], [median(some) for some in measured.attached]
    )
    return Verdict.at_least("one request's lookup, gRPC's time over attached", 3, ratio.median, "x")


def restart_verdict(seconds: Sequence[float], rows: int) -> Verdict:
    """The median of the restarts."""
    return Verdict.at_most(f"warm restart, {rows:,} rows, exec to first answer", 1, median(seconds), " s")


# ---- the end ----


def print_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Targets, and what was reached."""
    table = Table(title="Targets")
    for heading in ("measure", "target", "got", ""):
        table.add_column(heading)
    for one in verdicts:
        said, style = ("ok", None) if one.is_met else ("missed", "bold red")
        table.add_row(one.measure, one.target, one.got, said, style=style)
    console.print(table)
