"""What updates.py prints: figures, and targets with what was reached."""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.spread import Spread
from harness.table_report import Verdict
from harness.update_apply import KINDS, STEPS, ApplyRates
from harness.update_flow import WAYS, CheckpointRound, Storm, Visible

__all__ = [
    "apply_verdicts",
    "checkpoint_verdicts",
    "print_apply",
    "print_catch_ups",
    "print_checkpoints",
    "print_storm",
    "print_visible",
    "storm_verdicts",
    "visible_verdicts",
]

_LEAST_RATE = 5e6
_VISIBLE_MS = {50: 50.0, 99: 200.0}
_MOST_STORM = 1.5
_LEAST_WRITE = 0.5
PERSIA_POLL_SECONDS = 10
"""How often PERSIA looks for packets (its incremental_update_manager); cited, not measured."""


# ---- apply ----


def print_apply(console: Console, measured: ApplyRates) -> None:
    """M rows/s of each kind, and ns a row of each step."""
    table = Table(
        title=f"Apply, one thread: packets of {measured.packet_rows:,} rows to a table of {measured.rows:,}; "
        f"medians of {len(measured.rates[KINDS[0]])} rounds of {measured.packets} packets"
    )
    table.add_column("rows")
    for heading in ("M rows/s", "least - greatest", *(f"{step}, ns/row" for step in STEPS)):
        table.add_column(heading, justify="right")
    rows = measured.packets * measured.packet_rows
    for kind in KINDS:
        rates = [rate / 1e6 for rate in measured.rates[kind]]
        table.add_row(
            kind,
            f"{median(rates):.2f}",
            f"{min(rates):.2f} - {max(rates):.2f}",
            *(f"{median(one[step] for one in measured.steps[kind]) / rows * 1e9:.0f}" for step in STEPS),
        )
    console.print(table)


def apply_verdicts(measured: ApplyRates) -> list[Verdict]:
    """Each kind has the same target."""
    return [
        Verdict.at_least(
            f"apply, {kind}: M rows/s", _LEAST_RATE / 1e6, median(measured.rates[kind]) / 1e6, ""
        )
        for kind in KINDS
    ]


# ---- published to visible ----


def print_visible(console: Console, name: str, milliseconds: Sequence[float], rows: int) -> None:
    """The quantiles."""
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99))
    console.print(
        f"published -> visible, {name}: {len(milliseconds)} packets of {rows:,} rows, ms: p50 {p50:.1f}, "
        f"p90 {p90:.1f}, p99 {p99:.1f}, greatest {max(milliseconds):.1f} (PERSIA looks every {PERSIA_POLL_SECONDS} s)"
    )


def visible_verdicts(measured: Visible) -> list[Verdict]:
    """p50 and p99."""
    return [
        Verdict.at_most(
            f"published -> visible, p{percent}",
            limit,
            float(np.percentile(measured.milliseconds, percent)),
            " ms",
        )
        for percent, limit in _VISIBLE_MS.items()
    ]


def print_catch_ups(console: Console, rates: Sequence[float]) -> None:
    """What the server itself makes of packets that wait."""
    console.print(
        f"catching up, the whole server, undo log included: {median(rates) / 1e6:.2f} M rows/s "
        f"({min(rates) / 1e6:.2f} - {max(rates) / 1e6:.2f})"
    )


# ---- storm ----


def print_storm(console: Console, measured: Storm, rows: int) -> None:
    """Medians of the windows of each kind."""
    table = Table(
        title=f"Lookups while packets are applied, open loop: medians of "
        f"{len(measured.ratios('attached', 'storm', 'quiet'))} windows of each kind"
    )
    table.add_column("lookups")
    table.add_column("window")
    for heading in (
        "rows/s published",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "p99 / quiet p99",
        "least - greatest",
        "p99 from sending",
        "sent late",
        "cores: server",
        "trainer",
        "client",
    ):
        table.add_column(heading, justify="right")
    for way in WAYS:
        for kind in ("quiet", "published only", "storm"):
            some = [one for one in measured.windows if (one.way, one.kind) == (way, kind)]
            ratios = measured.ratios(way, kind, "quiet")
            table.add_row(
                way,
                kind,
                f"{median(one.published_rows for one in some):,.0f}",
                f"{median(one.p50_ms for one in some):.3f}",
                f"{median(one.p99_ms for one in some):.3f}",
                f"{median(one.p999_ms for one in some):.3f}",
                f"{median(ratios):.2f}",
                f"{min(ratios):.2f} - {max(ratios):.2f}",
                f"{median(one.service_p99_ms for one in some):.3f}",
                f"{median(one.late_share for one in some):.2%}",
                *(
                    f"{median(cores):.2f}"
                    for cores in (
                        [one.server_cpu for one in some],
                        [one.publisher_cpu for one in some],
                        [one.client_cpu for one in some],
                    )
                ),
            )
        table.add_section()
    console.print(table)
    print_visible(console, "in the storm", measured.visible_ms, rows)
    console.print(
        f"{measured.packets} packets published, {measured.applied_packets} applied; {measured.rows_checked:,} rows "
        f"compared at the end, {sum(one.checked_rows for one in measured.windows):,} of {_lookups(measured):,} "
        "lookups' on the way: none lost, half, or older than before"
    )


def storm_verdicts(measured: Storm) -> list[Verdict]:
    """The median of the rounds' ratios, for each way; what the trainer's work alone does stands beside it."""
    verdicts = []
    for way in WAYS:
        got = Spread.of(measured.ratios(way, "storm", "quiet"))
        alone = median(measured.ratios(way, "published only", "quiet"))
        verdicts.append(
            Verdict(
                f"lookups' p99 in a storm, {way}, of the quiet p99",
                f"at most {_MOST_STORM:g}x",
                f"{got.median:.3g}x (packets published, not applied: {alone:.3g}x)",
                got.median <= _MOST_STORM,
            )
        )
    return verdicts


def _lookups(measured: Storm) -> int:
    return sum(one.lookups for one in measured.windows)


# ---- checkpoints ----


def print_checkpoints(console: Console, measured: Sequence[CheckpointRound]) -> None:
    """Both rates, and the memory."""
    first = measured[0]
    console.print(
        f"checkpoint of {first.rows:,} rows, {first.bytes / 1e6:,.0f} MB, durable: "
        f"{median(one.bytes / one.dump_seconds for one in measured) / 1e6:,.0f} MB/s; plain write of as many bytes: "
        f"{median(one.bytes / one.plain_seconds for one in measured) / 1e6:,.0f} MB/s (medians of {len(measured)}); "
        f"memory at most {max(one.peak_bytes - one.rss_bytes for one in measured) / 1e6:,.0f} MB above the trainer's "
        f"{first.rss_bytes / 1e6:,.0f} MB"
    )


def checkpoint_verdicts(measured: Sequence[CheckpointRound]) -> list[Verdict]:
    """The rate over the disk's, round by round."""
    ratio = Spread.of_ratios([one.plain_seconds for one in measured], [one.dump_seconds for one in measured])
    return [
        Verdict.at_least("checkpoint, of the disk's plain write rate", _LEAST_WRITE, ratio.median, "x"),
    ]


def as_quantiles(milliseconds: Sequence[float]) -> Mapping[str, float]:
    """For the JSON document."""
    return {f"p{percent}": float(np.percentile(milliseconds, percent)) for percent in (50, 90, 99, 100)}
