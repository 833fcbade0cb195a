"""What a handler reports through `context.metrics`: observations, kept until its worker takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["HandlerMetric", "HandlerMetrics", "MetricType", "Observation"]

MetricType = Literal["counter", "gauge", "histogram"]

MAX_OBSERVATIONS = 10_000
"""Observations kept between two calls of `take`; more are counted in `dropped`, not kept."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One value of one metric. `dimensions` are (name, value) pairs; `request` is an index in the batch."""

    name: str
    value: float
    unit: str
    type: MetricType
    dimensions: tuple[tuple[str, str], ...] = ()
    request: int | None = None


class HandlerMetric:
    """A metric by name, for handlers that look it up once and update it often."""

    def __init__(self, metrics: "HandlerMetrics", name: str, type: MetricType, unit: str) -> None:
        """Made by `HandlerMetrics.get_metric`."""
        self._metrics, self.metric_name, self.metric_type, self.unit = metrics, name, type, unit

    def add_or_update(self, value: float, dimension_values: Sequence[str] = (), request_id: str = "") -> None:
        """Report one value; the dimensions are named by position, as TorchServe's metrics file does."""
        pairs = tuple((f"dimension_{i}", str(v)) for i, v in enumerate(dimension_values))
        self._metrics.observe(Observation(self.metric_name, value, self.unit, self.metric_type, pairs))


class HandlerMetrics:
    """The `add_*` calls of TorchServe's handlers. Not thread-safe: a handler runs in its worker's main thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._observations: list[Observation] = []
        self.dropped = 0

    def observe(self, observation: Observation) -> None:
        """Keep one observation, or count it as dropped when too many wait."""
        if len(self._observations) < MAX_OBSERVATIONS:
            self._observations.append(observation)
        else:
            self.dropped += 1

    def take(self) -> list[Observation]:
        """All that was reported since the last call, in order."""
        if not self._observations:
            return []
        taken, self._observations = self._observations, []
        return taken

    def add_counter(
        self, metric_name: str, value: float, idx: int | None = None, dimensions: object = None
    ) -> None:
        """Add `value` to a counter."""
        self._add(metric_name, value, "count", "counter", idx, dimensions)

    def add_time(
        self,
        metric_name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: object = None,
        metric_type: object = "gauge",
    ) -> None:
        """Report a duration in `unit`: "ms" or "s"."""
        if unit not in ("ms", "s", "us"):
            raise ValueError(f"the unit of time metric {metric_name!r} is ms, s or us, not {unit!r}")
        self._add(metric_name, value, unit, metric_type, idx, dimensions)

    def add_size(
        self,
        metric_name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: object = None,
        metric_type: object = "gauge",
    ) -> None:
        """Report a size in `unit`: "B", "kB", "MB" or "GB"."""
        if unit not in ("B", "kB", "MB", "GB"):
            raise ValueError(f"the unit of size metric {metric_name!r} is B, kB, MB or GB, not {unit!r}")
        self._add(metric_name, value, unit, metric_type, idx, dimensions)

    def add_percent(
        self,
        metric_name: str,
        value: float,
        idx: int | None = None,
        dimensions: object = None,
        metric_type: object = "gauge",
    ) -> None:
        """Report a percentage, 0 to 100."""
        self._add(metric_name, value, "percent", metric_type, idx, dimensions)

    def add_error(self, metric_name: str, value: float, dimensions: object = None) -> None:
        """Count errors."""
        self._add(metric_name, value, "count", "counter", None, dimensions)

    def add_metric(
        self,
        metric_name: str,
        value: float,
        unit: str = "count",
        idx: int | None = None,
        dimensions: object = None,
        metric_type: object = "counter",
    ) -> None:
        """Report a metric of any type."""
        self._add(metric_name, value, unit, metric_type, idx, dimensions)

    def get_metric(self, metric_name: str, metric_type: object = "counter") -> HandlerMetric:
        """The metric of that name."""
        return HandlerMetric(self, metric_name, _type(metric_type), "count")

    def _add(
        self, name: str, value: float, unit: str, type: object, request: int | None, dimensions: object
    ) -> None:
        self.observe(Observation(name, float(value), unit, _type(type), _pairs(dimensions), request))


def _type(metric_type: object) -> MetricType:
    name = str(getattr(metric_type, "value", metric_type)).lower()
    if name == "counter":
        return "counter"
    if name == "gauge":
        return "gauge"
    if name == "histogram":
        return "histogram"
    raise ValueError(f"a metric's type is counter, gauge or histogram, not {name!r}")


def _pairs(dimensions: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(dimensions, Sequence):
        return ()
    return tuple((str(d.name), str(d.value)) for d in dimensions)
