"""Figures of several rounds as one: medians, ratios of what was measured in the same round, quantiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

import numpy as np

__all__ = ["Latencies", "Spread", "fastest"]


@dataclass(frozen=True)
class Spread:
    """A median, and between which values eight of ten rounds lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        low, high = np.quantile(values, (0.1, 0.9))
        return cls(median(values), float(low), float(high))

    @classmethod
    def of_ratios(cls, over: Sequence[float], under: Sequence[float]) -> Self:
        """Of over / under, round by round: the machine's drift concerns both."""
        return cls.of([a / b for a, b in zip(over, under, strict=True)])


@dataclass(frozen=True)
class Latencies:
    """Of single calls, ms."""

    least: float
    mean: float
    median: float
    p95: float
    p99: float

    @classmethod
    def of_seconds(cls, seconds: Sequence[float]) -> Self:
        """Of at least one call."""
        values = np.asarray(seconds) * 1e3
        p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99))
        return cls(float(values.min()), float(values.mean()), float(p50), float(p95), float(p99))


def fastest(ways: Mapping[str, Sequence[float]], beginning: str) -> str:
    """The name with the least median among those that begin so."""
    names = [name for name in ways if name.startswith(beginning)]
    return min(names, key=lambda name: median(ways[name]))
