"""What the demo prints of its measurements: a line for each look, and a table at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from satrap.demo.served import Served

__all__ = ["HEADING", "Round", "report", "round_line"]

HEADING = "    s    clicks  packets  dense   AUC served   newest event   p50 of a request"


@dataclass(frozen=True)
class Round:
    """One look at what is served while training goes on; `learned` counts all clicks, `packets` the published ones."""

    seconds: float
    learned: int
    packets: int
    version: str
    served: Served


def round_line(now: Round) -> str:
    """One row under `HEADING`."""
    age = now.served.staleness(50)
    return (
        f"{now.seconds:5.1f}  {now.learned:>8,}  {now.packets:>7,}  {now.version:>5}  "
        f"{now.served.auc:>11.4f}  {'-' if age is None else f'{age:,.0f} ms old':>13}  "
        f"{now.served.latency_ms(50):>14.2f} ms"
    )


def report(served: Served, offline: float, rounds: Sequence[Round], packets: int, batch: int) -> Table:
    """The end: `served` after the last training step, beside the AUC computed `offline`."""
    table = Table(title="satrap demo", show_header=False)
    first, last = rounds[0], rounds[-1]
    table.add_row("AUC served", f"{served.auc:.5f}")
    table.add_row("AUC offline", f"{offline:.5f}")
    table.add_row(
        "while training went on", f"{first.served.auc:.4f} to {last.served.auc:.4f}, without a restart"
    )
    table.add_row("packets", f"{packets:,}")
    # The first look may still see rows of before the training went on.
    ages = np.concatenate([one.served.staleness_ms for one in rounds[1:]])
    if len(ages):
        p50, p99 = np.percentile(ages, (50, 99))
        table.add_row("newest event served", f"{p50:,.0f} ms old (p99 {p99:,.0f} ms)")
    requests = sum(len(one.served.seconds) for one in rounds) + len(served.seconds)
    table.add_row("requests", f"{requests:,} of {batch} samples, all answered")
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        table.add_row(f"latency {name}", f"{served.latency_ms(share):.2f} ms")
    for name, milliseconds in _breakdown(served.parts).items():
        table.add_row(f"  {name}", f"{milliseconds:.2f} ms")
    return table


def _breakdown(parts: Mapping[str, float]) -> dict[str, float]:
    """The median request, outside in; each line is what the lines below it leave."""
    inner = {name: parts[name] for name in ("decode", "look up", "forward")}
    return {
        "client and gRPC": parts["request"] - parts["server"],
        "frontend, queue, way to the worker": parts["server"] - parts["handler"],
        **inner,
        "rest of the handler": parts["handler"] - sum(inner.values()),
    }
