"""TorchServe's `metrics.yaml`: which metrics are told, and with which dimensions handlers report theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from satrap.errors import ConfigError
from satrap.serving.observation import MetricType

__all__ = ["Definition", "Definitions", "read_definitions"]

_TYPES: tuple[MetricType, ...] = get_args(MetricType)


@dataclass(frozen=True)
class Definition:
    """One metric: its type, name, unit, and the names of its dimensions in their order."""

    type: MetricType
    name: str
    unit: str
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definitions:
    """What a file says; without one everything is told.

    Attributes:
        server: the server's own metrics that are told, of section `ts_metrics`; None: all.
        handlers: of section `model_metrics`: what handlers find as declared.
        auto_detect: what handlers report is told whether or not it is among `handlers`.
    """

    server: tuple[Definition, ...] | None = None
    handlers: tuple[Definition, ...] = ()
    auto_detect: bool = True

    def is_told(self, name: str) -> bool:
        """Whether a metric of a handler is told."""
        return self.auto_detect or name in self._handler_names

    @property
    def _handler_names(self) -> frozenset[str]:
        return frozenset(definition.name for definition in self.handlers)


def read_definitions(path: Path, *, auto_detect: bool) -> Definitions:
    """Read a file of TorchServe's form; `auto_detect` as in `Definitions`.

    Raises:
        ConfigError: it cannot be read, or something in it is not what it should be.
    """
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            path, "", 0, f"serving.metrics_config cannot be read: {error.strerror or error}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(path, "", 0, f"this is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(
            path, "", 0, "metrics are sections ts_metrics and model_metrics; see docs/metrics.md"
        )
    server = _Section(path, "ts_metrics").read(document) if document.get("ts_metrics") is not None else None
    handlers = _Section(path, "model_metrics").read(document)
    return Definitions(server, handlers, auto_detect)


@dataclass
class _Section:
    path: Path
    key: str
    names: set[str] = field(default_factory=set)

    def read(self, document: Mapping[str, Any]) -> tuple[Definition, ...]:
        section = document.get(self.key)
        if section is None:
            return ()
        if not isinstance(section, dict):
            raise self._error("", "has the keys counter, gauge and histogram")
        definitions: list[Definition] = []
        for kind, entries in section.items():
            if kind not in _TYPES:
                raise self._error(f".{kind}", "a metric is a counter, a gauge or a histogram")
            if not isinstance(entries, list):
                raise self._error(f".{kind}", "is a list of metrics")
            definitions += (self._definition(kind, place, entry) for place, entry in enumerate(entries))
        return tuple(definitions)

    def _definition(self, kind: MetricType, place: int, entry: object) -> Definition:
        where = f".{kind}[{place}]"
        if not isinstance(entry, dict):
            raise self._error(where, "a metric has name, unit and dimensions")
        name, unit, dimensions = entry.get("name"), entry.get("unit"), entry.get("dimensions", [])
        if not isinstance(name, str) or not name:
            raise self._error(f"{where}.name", f"is a text, not {name!r}")
        if not isinstance(unit, str):
            raise self._error(f"{where}.unit", f"is a text, not {unit!r}")
        if not isinstance(dimensions, list) or not all(isinstance(one, str) and one for one in dimensions):
            raise self._error(f"{where}.dimensions", f"is a list of names, not {dimensions!r}")
        if name in self.names:
            raise self._error(f"{where}.name", f"{name} is defined twice")
        self.names.add(name)
        return Definition(kind, name, unit, tuple(dimensions))

    def _error(self, where: str, reason: str) -> ConfigError:
        return ConfigError(self.path, f"{self.key}{where}", 0, reason)
