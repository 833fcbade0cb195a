"""Runs the same calls against several servers in turn, cycle by cycle, and keeps what each cycle gave.

The machine's speed drifts by tens of percent within minutes; only servers measured within seconds of each
other can be compared. So each cycle asks every server, the order turns with the cycle, and a ratio is the median
of the cycles' ratios.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from harness.clients import ClientProcess, Connect, Job, Series
from harness.processes import Process, cpu_seconds

__all__ = ["Cycle", "Plan", "Row", "Side", "WrongAnswerError", "measure_row"]


class WrongAnswerError(Exception):
    """A server answers something else than it should: measuring it would mean nothing."""


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    cycles: int
    seconds: float
    """Of one series."""
    warm_up_seconds: float
    """For each server and row, at full load."""


@dataclass(frozen=True)
class Side:
    """A server, and the requests for it."""

    name: str
    processes: Sequence[Process]
    connect: Connect
    address: str
    payloads: Sequence[bytes]


@dataclass(frozen=True)
class Cycle:
    """One series of calls to one server, summed up."""

    threads: int
    calls: int
    p50_ms: float
    p99_ms: float
    rate: float
    server_cpu_ms: float
    """Of one call."""
    client_cpu_ms: float
    """Of one call."""
    client_share: float
    """The client's part of all CPU time used on this machine meanwhile."""
    others_share: float
    """The part that neither client nor server used: above a few percent the machine was not quiet."""


@dataclass
class Row:
    """One comparison. `cycles[side][threads]` are in the order measured."""

    name: str
    sides: list[str]
    cycles: dict[str, dict[int, list[Cycle]]] = field(default_factory=dict)

    def median(self, side: str, threads: int, value: Callable[[Cycle], float]) -> float:
        """The median over the cycles."""
        return median(value(cycle) for cycle in self.cycles[side][threads])

    def ratio(self, side: str, other: str, threads: int, value: Callable[[Cycle], float]) -> float:
        """The median over the cycles of side / other."""
        pairs = zip(self.cycles[side][threads], self.cycles[other][threads], strict=True)
        return median(value(one) / value(two) for one, two in pairs)


def measure_row(
    name: str,
    sides: Sequence[Side],
    threads: Sequence[int],
    plan: Plan,
    client: ClientProcess,
    on_progress: Callable[[str], None],
) -> Row:
    """Measure every side with every number of client threads, in each cycle."""
    row = Row(name, [side.name for side in sides])
    for side in sides:
        on_progress(f"{name}: warming {side.name} up")
        _run(client, side, max(threads), plan.warm_up_seconds)
    for number in range(plan.cycles):
        order = sides if number % 2 == 0 else list(reversed(sides))
        for count in threads:
            for side in order:
                on_progress(f"{name}: cycle {number + 1} of {plan.cycles}, {side.name}, {count} clients")
                cycle = _run(client, side, count, plan.seconds)
                row.cycles.setdefault(side.name, {}).setdefault(count, []).append(cycle)
    return row


def _run(client: ClientProcess, side: Side, threads: int, seconds: float) -> Cycle:
    for process in side.processes:
        process.check_alive()
    before = cpu_seconds(side.processes)
    series = client.run(Job(side.connect, side.address, side.payloads, threads=threads, seconds=seconds))
    return _summary(series, threads, cpu_seconds(side.processes) - before)


def _summary(series: Series, threads: int, server_cpu: float) -> Cycle:
    calls = len(series.latencies_ms)
    machine = max(series.machine_cpu_seconds, series.client_cpu_seconds + server_cpu)
    return Cycle(
        threads=threads,
        calls=calls,
        p50_ms=series.percentile(50),
        p99_ms=series.percentile(99),
        rate=series.rate,
        server_cpu_ms=server_cpu / calls * 1e3,
        client_cpu_ms=series.client_cpu_seconds / calls * 1e3,
        client_share=series.client_cpu_seconds / machine,
        others_share=(machine - series.client_cpu_seconds - server_cpu) / machine,
    )
