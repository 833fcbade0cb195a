"""What a handler reports through `context.metrics`: observations, kept until its worker takes them."""

import enum
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from satrap.serving.observation import PHASE, UNITS, MetricType, Observation

__all__ = [
    "HandlerMetric",
    "HandlerMetrics",
    "MetricTypes",
    "MetricsCacheKeyError",
    "MetricsCacheTypeError",
    "MetricsCacheValueError",
]

log = logging.getLogger(__name__)

MAX_OBSERVATIONS = 10_000
"""Observations kept between two calls of `take`; more are counted in `dropped`, not kept."""

_MODEL_NAME, _LEVEL = "ModelName", "Level"


class MetricTypes(enum.Enum):
    """TorchServe's names for the types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricsCacheKeyError(KeyError):
    """`get_metric` of a metric that nobody has declared or reported."""

    def __init__(self, message: str) -> None:
        """Keep the sentence; a KeyError's text would be its repr."""
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class MetricsCacheTypeError(TypeError):
    """An argument of `add_metric_to_cache` or `get_metric` that is of another type."""


class MetricsCacheValueError(ValueError):
    """A unit that the kind of metric does not have."""


class HandlerMetric:
    """A metric by name, for handlers that look it up once and update it often.

    One that `HandlerMetrics` has made reports there; one that a handler makes itself goes to the log only.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: object = MetricTypes.COUNTER,
        *,
        metrics: "HandlerMetrics | None" = None,
    ) -> None:
        """Name it; its values' dimensions have these names, in this order."""
        self.metric_name, self.unit = str(metric_name), _unit(unit)
        self.dimension_names = list(dimension_names or ())
        self.metric_type = MetricTypes(_type(metric_type))
        self._metrics = metrics

    def add_or_update(self, value: float, dimension_values: Sequence[str] = (), request_id: str = "") -> None:
        """Report one value: a counter grows by it, a gauge becomes it.

        What cannot be reported (another number of dimensions than declared, a counter that shrinks, no number)
        is an error in the log, not in the handler.
        """
        if len(dimension_values) != len(self.dimension_names):
            self._refuse(
                value, f"it has dimensions {self.dimension_names}, the values are {list(dimension_values)}"
            )
            return
        number = _number(value)
        if number is None:
            self._refuse(value, "that is no number")
        elif number < 0 and self.metric_type is MetricTypes.COUNTER:
            self._refuse(value, "a counter does not shrink")
        else:
            pairs = tuple(
                zip(map(str, self.dimension_names), map(str, dimension_values), strict=True),
            )
            self._report(
                Observation(self.metric_name, number, self.unit, self._kind, pairs, is_exact=True), request_id
            )

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Any] = ()) -> None:
        """Report one value with dimensions of other names; the metric keeps those."""
        self.dimension_names = [str(dimension.name) for dimension in dimensions]
        self.add_or_update(value, [str(dimension.value) for dimension in dimensions], request_id)

    @property
    def _kind(self) -> MetricType:
        return self.metric_type.value

    def _report(self, observation: Observation, request_id: str) -> None:
        if self._metrics is not None:
            self._metrics.observe(observation)
            return
        described = ",".join(f"{name}:{value}" for name, value in observation.dimensions)
        log.info(
            "[METRICS]%s.%s:%s|#%s|#type:%s%s",
            *(observation.name, UNITS.get(observation.unit, observation.unit), observation.value, described),
            *(self.metric_type.name, f"|{request_id}" if request_id else ""),
        )

    def _refuse(self, value: object, why: str) -> None:
        log.error("metric %s is not updated with %r: %s", self.metric_name, value, why)


class HandlerMetrics:
    """The calls of TorchServe's handlers. Not thread-safe: a handler runs in its worker's main thread.

    `add_*` take TorchServe's arguments in its order. Their `dimensions` are objects with `name` and `value`; the
    model's name and `Level=Model` are added to them by the frontend. Whatever cannot be reported goes to the log
    and never fails the request.
    """

    def __init__(self, model_name: str = "") -> None:
        """Start empty."""
        self.model_name = model_name
        self.dropped = 0
        self.request_ids: Mapping[int, str] | None = None
        self.store: list[Any] = []
        """Always empty: TorchServe's earlier handlers give it to `emit_metrics`."""
        self._observations: list[Observation] = []
        self._metrics: dict[tuple[str, str], HandlerMetric] = {}

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

    def add_phase(self, phase: str, seconds: float) -> None:
        """Report how long a part of answering the batch took: satrap's histogram of phases, and `satrap-timing`."""
        number = _number(seconds)
        if number is None:
            log.error("phase %s did not take %r seconds: that is no number", phase, seconds)
            return
        self.observe(Observation(PHASE, number, "s", "histogram", (("phase", str(phase)),), is_exact=True))

    def set_request_ids(self, request_ids: Mapping[int, str] | None) -> None:
        """The ids of the batch's requests, by index."""
        self.request_ids = request_ids

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Any] | None = None
    ) -> None:
        """Add `value` to a counter."""
        self._add(name, value, "count", "counter", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Any] | None = None,
        metric_type: object = MetricTypes.GAUGE,
    ) -> None:
        """Report a duration in `unit`: "ms" or "s".

        Raises:
            MetricsCacheValueError: another unit.
        """
        if unit not in ("ms", "s"):
            raise MetricsCacheValueError(f"the unit of time metric {name!r} is ms or s, not {unit!r}")
        self._add(name, value, unit, metric_type, idx, dimensions)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Any] | None = None,
        metric_type: object = MetricTypes.GAUGE,
    ) -> None:
        """Report a size in `unit`: "B", "kB", "MB" or "GB".

        Raises:
            MetricsCacheValueError: another unit.
        """
        if unit not in ("B", "kB", "MB", "GB"):
            raise MetricsCacheValueError(f"the unit of size metric {name!r} is B, kB, MB or GB, not {unit!r}")
        self._add(name, value, unit, metric_type, idx, dimensions)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Any] | None = None,
        metric_type: object = MetricTypes.GAUGE,
    ) -> None:
        """Report a percentage, 0 to 100."""
        self._add(name, value, "percent", metric_type, idx, dimensions)

    def add_error(self, name: str, value: float, dimensions: Sequence[Any] | None = None) -> None:
        """Count errors; their dimensions are those given and `Level=Error`."""
        pairs = _pairs(dimensions)
        if _LEVEL not in dict(pairs):
            pairs = (*pairs, (_LEVEL, "Error"))
        self._add(name, value, "", "counter", None, None, pairs)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str = "count",
        idx: int | None = None,
        dimensions: Sequence[Any] | None = None,
        metric_type: object = MetricTypes.COUNTER,
    ) -> None:
        """Report a metric of any type."""
        self._add(name, value, unit, metric_type, idx, dimensions)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: object = MetricTypes.COUNTER,
    ) -> HandlerMetric:
        """Declare a metric: it takes the place of one of its name and type. Nothing is reported by that.

        Raises:
            MetricsCacheTypeError: an argument is of another type.
        """
        if not isinstance(metric_name, str) or not isinstance(unit, str):
            raise MetricsCacheTypeError(f"a metric's name and unit are str, not {metric_name!r} and {unit!r}")
        names = dimension_names or []
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise MetricsCacheTypeError(
                f"metric {metric_name!r}: dimension_names is a list of str, not {dimension_names!r}"
            )
        metric = HandlerMetric(metric_name, unit, names, metric_type, metrics=self)
        self._metrics[metric.metric_type.value, metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: object = MetricTypes.COUNTER) -> HandlerMetric:
        """The metric of that name and type.

        Raises:
            MetricsCacheKeyError: it was neither declared nor reported yet.
            MetricsCacheTypeError: the type is none.
        """
        kind = _type(metric_type)
        try:
            return self._metrics[kind, metric_name]
        except KeyError:
            raise MetricsCacheKeyError(
                f"Metric of type '{kind}' and name '{metric_name}' doesn't exist: declare it with "
                "add_metric_to_cache() or in the metrics file"
            ) from None

    def cache_keys(self) -> list[str]:
        """`type:name` of every metric that `get_metric` finds."""
        return [f"{kind}:{name}" for kind, name in self._metrics]

    def _add(
        self,
        name: str,
        value: float,
        unit: str,
        metric_type: object,
        request: int | None,
        dimensions: Sequence[Any] | None,
        exact: tuple[tuple[str, str], ...] | None = None,
    ) -> None:
        kind, name, unit = _type(metric_type), str(name), _unit(unit)
        pairs = exact if exact is not None else _pairs(dimensions)
        metric = self._metrics.get((kind, name))
        if metric is None:
            names = [pair[0] for pair in pairs]
            if exact is None:
                names += [missing for missing in (_MODEL_NAME, _LEVEL) if missing not in names]
            self._metrics[kind, name] = HandlerMetric(name, unit, names, kind, metrics=self)
        number = _number(value)
        if number is None:
            log.error("metric %s is not updated with %r: that is no number", name, value)
            return
        if number < 0 and kind == "counter":
            log.error("metric %s is not updated with %r: a counter does not shrink", name, value)
            return
        place = request if isinstance(request, int) else None
        self.observe(Observation(name, number, unit, kind, pairs, place, exact is not None))


def _unit(unit: str) -> str:
    """Handlers give None, too, which is a unit of its own."""
    return unit if unit is None else str(unit)


def _number(value: object) -> float | None:
    try:
        number = float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number  # a counter would be NaN for ever


def _type(metric_type: object) -> MetricType:
    name: Any = getattr(metric_type, "value", metric_type)
    try:
        return MetricTypes(name.lower()).value
    except (AttributeError, ValueError):
        raise MetricsCacheTypeError(
            f"a metric's type is counter, gauge or histogram, not {metric_type!r}"
        ) from None


def _pairs(dimensions: Sequence[Any] | None) -> tuple[tuple[str, str], ...]:
    if not dimensions:
        return ()
    return tuple((str(dimension.name), str(dimension.value)) for dimension in dimensions)
