"""What a load test measured: pure functions of the answers' times."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Answer", "Bar", "Report", "histogram", "per_second", "summarize"]

PERCENTILES = (50, 90, 95, 99, 99.9)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was due, sent and answered, in seconds since the measurement began, and its error if any.

    Under a closed loop a request is due when it is sent. Under an open one it is due when the schedule says, and its
    latency counts from there: a server that stalls delays what comes after it, and that has to show.
    """

    due: float
    sent: float
    answered: float
    error: str = ""

    @property
    def latency_ms(self) -> float:
        """Milliseconds from when it was due."""
        return (self.answered - self.due) * 1e3


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: latencies of `from_ms` up to `to_ms`."""

    from_ms: float
    to_ms: float
    count: int


@dataclass(frozen=True)
class Report:
    """A load test's figures. Latencies are of good answers only, in milliseconds; rates are per second.

    `generator_cpu` is how much of one core the load generator itself used: near 1 it measures itself.
    """

    seconds: float
    requests: int
    errors: Mapping[str, int]
    rate_mean: float
    rate_deviation: float
    latency_mean: float
    latency_min: float
    latency_max: float
    percentiles: Mapping[str, float]
    histogram: Sequence[Bar]
    generator_cpu: float

    @property
    def failed(self) -> int:
        """Requests that got no good answer."""
        return sum(self.errors.values())

    def document(self) -> dict[str, Any]:
        """The same as plain values, for JSON; a latency that does not exist is null."""
        values = asdict(self)
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


def per_second(answers: Sequence[Answer], seconds: float) -> list[int]:
    """Good answers in each whole second of the measurement."""
    counts = [0] * int(seconds)
    for answer in answers:
        if not answer.error and answer.answered < len(counts):
            counts[int(answer.answered)] += 1
    return counts


def histogram(latencies: Sequence[float], bars: int = 12) -> list[Bar]:
    """Bars of equal width on a logarithmic scale, from the smallest latency to the largest."""
    if not len(latencies):
        return []
    low, high = max(min(latencies), 1e-3), max(*latencies, 1e-3)
    if high / low < 1.05:
        return [Bar(low, high, len(latencies))]
    edges = np.geomspace(low, high, bars + 1)
    counts, _ = np.histogram(np.clip(latencies, low, high), edges)
    return [Bar(float(edges[i]), float(edges[i + 1]), int(count)) for i, count in enumerate(counts)]


def summarize(answers: Sequence[Answer], seconds: float, generator_cpu: float) -> Report:
    """The figures of one measurement that took `seconds`.

    The mean rate is all good answers by all of the time; its deviation is that of the whole seconds.
    """
    latencies = [answer.latency_ms for answer in answers if not answer.error]
    counts = per_second(answers, seconds)
    nan = math.nan
    return Report(
        seconds=seconds,
        requests=len(answers),
        errors=dict(Counter(answer.error for answer in answers if answer.error).most_common()),
        rate_mean=len(latencies) / seconds if seconds > 0 else nan,
        rate_deviation=float(np.std(counts)) if len(counts) > 1 else nan,
        latency_mean=float(np.mean(latencies)) if latencies else nan,
        latency_min=min(latencies, default=nan),
        latency_max=max(latencies, default=nan),
        percentiles={
            f"p{each:g}": float(np.percentile(latencies, each)) for each in PERCENTILES if latencies
        },
        histogram=histogram(latencies),
        generator_cpu=generator_cpu,
    )
