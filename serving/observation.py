"""One value that a handler reported, on its way from the worker to the frontend's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["PHASE", "UNITS", "MetricType", "Observation"]

MetricType = Literal["counter", "gauge", "histogram"]

UNITS: Mapping[str | None, str] = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
    None: "unit",
}
"""What TorchServe calls the units that handlers give; any other text is a unit of that name."""

PHASE = "satrap_handler_phase_seconds"
"""The name of observations by `add_phase`; their one dimension is the phase."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One value of one metric.

    Attributes:
        name: the metric's.
        value: in `unit`.
        unit: as the handler gave it, see `UNITS`.
        type: what becomes of several values.
        dimensions: (name, value) pairs.
        request: the index in the batch; None: of no single request.
        is_exact: these are all dimensions; otherwise the model's name and `Level` belong to them.
    """

    name: str
    value: float
    unit: str
    type: MetricType
    dimensions: tuple[tuple[str, str], ...] = ()
    request: int | None = None
    is_exact: bool = False
