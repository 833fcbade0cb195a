"""TorchServe's metric objects that a handler, or a test of one, makes itself."""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from satrap.serving.handler_metrics import (
    HandlerMetric,
    HandlerMetrics,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
    MetricTypes,
)
from satrap.serving.observation import UNITS

__all__ = ["Dimension", "FileMetrics", "Metric", "MetricEncoder", "StoredMetrics", "Units"]


class Dimension:
    """The name and value of one dimension of a metric."""

    def __init__(self, name: str, value: object) -> None:
        """Keep both."""
        self.name, self.value = name, value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, object]:
        """Both, for JSON."""
        return {"Name": self.name, "Value": self.value}


class Units:
    """TorchServe's names of units."""

    def __init__(self) -> None:
        """A copy of its own."""
        self.units = dict(UNITS)


class Metric:
    """One value of a metric, with its dimensions, outside of any `context.metrics`: it goes to the log only."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        """Report nothing yet."""
        self.name, self.value, self.dimensions = name, value, list(dimensions)
        self.unit = UNITS.get(unit, unit)
        self.request_id, self.metric_method = request_id, metric_method
        self.metric_type = MetricTypes.COUNTER
        self._metric = HandlerMetric(name, unit, [str(d.name) for d in self.dimensions])

    def update(self, value: float) -> None:
        """Write a value to the log."""
        self._metric.add_or_update(value, [str(d.value) for d in self.dimensions], self.request_id or "")

    def reset(self) -> None:
        """Write a zero to the log."""
        self.update(0)

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        line = f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:{socket.gethostname()},{int(time.time())}"
        return f"{line},{self.request_id}" if self.request_id else line

    def to_dict(self) -> dict[str, object]:
        """Everything about it, for JSON."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }


class MetricEncoder(json.JSONEncoder):
    """Makes JSON of metrics and dimensions."""

    def default(self, o: Any) -> Any:
        """Part of `json.JSONEncoder`."""
        return o.to_dict() if isinstance(o, Metric | Dimension) else super().default(o)


class StoredMetrics(HandlerMetrics):
    """TorchServe's `MetricsStore`: what its handlers' tests give a context."""

    def __init__(self, request_ids: Mapping[int, str] | None, model_name: str) -> None:
        """Start empty."""
        super().__init__(model_name)
        self.request_ids = request_ids


class FileMetrics(HandlerMetrics):
    """TorchServe's `MetricsCacheYamlImpl`: the metrics that a file declares under `model_metrics`."""

    def __init__(self, config_file_path: Path | str) -> None:
        """Read nothing yet."""
        super().__init__()
        self.config_file_path = config_file_path

    def initialize_cache(self) -> None:
        """Declare them all.

        Raises:
            OSError: the file cannot be read.
            yaml.YAMLError: it is not YAML.
            MetricsCacheValueError: it declares none.
            MetricsCacheKeyError: a type that is none, or a metric without name, unit or dimensions.
        """
        document = yaml.safe_load(Path(self.config_file_path).read_text("utf-8"))
        section = document.get("model_metrics") if isinstance(document, dict) else None
        if not section:
            raise MetricsCacheValueError(f"{self.config_file_path} has no metrics under model_metrics")
        for kind, metrics in section.items():
            for metric in metrics:
                try:
                    self.add_metric_to_cache(metric["name"], metric["unit"], metric["dimensions"], kind)
                except (KeyError, MetricsCacheTypeError) as error:
                    raise MetricsCacheKeyError(f"{self.config_file_path}: {metric}: {error}") from error
