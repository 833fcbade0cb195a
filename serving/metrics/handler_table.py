"""What handlers report, as families of the registry.

Handlers are other people's code: a name that Prometheus does not know is made one, and what would spoil another metric,
or grow without end, is refused and logged once.
"""

import logging
import math
import re

from satrap.serving.metrics.definitions import Definition, Definitions
from satrap.serving.metrics.families import Distribution, Family, Labels, Number, Registry
from satrap.serving.observation import UNITS, Observation

__all__ = ["MAX_FAMILIES", "MAX_VALUES", "HandlerTable", "help_text", "label_name", "metric_name"]

log = logging.getLogger("satrap.serving")

MAX_FAMILIES = 1_000
"""Metrics that handlers may have, all models together."""
MAX_VALUES = 10_000
"""Values by labels that one of them may have."""
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of handlers' histograms, whatever their unit, as in TorchServe."""

_DEFAULTS = (
    Definition("gauge", "HandlerTime", "ms", ("ModelName", "Level")),
    Definition("gauge", "PredictionTime", "ms", ("ModelName", "Level")),
)
_NOT_IN_METRICS = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")


def help_text(kind: str, unit: str) -> str:
    """As TorchServe describes a metric."""
    return f"Torchserve prometheus {kind} metric with unit: {unit}"


def metric_name(name: str) -> str:
    """The name with `_` for every letter that a metric's name cannot have."""
    return _letter_first(_NOT_IN_METRICS.sub("_", name))


def label_name(name: str) -> str:
    """The same for a label; names that begin with two underscores are Prometheus' own."""
    return re.sub("^__+", "_", _letter_first(_NOT_IN_LABELS.sub("_", name)))


def _letter_first(name: str) -> str:
    return f"_{name}" if not name or name[0].isdigit() else name


class HandlerTable:
    """Takes observations of all models. Belongs to the frontend's loop."""

    def __init__(self, registry: Registry, hostname: str, definitions: Definitions) -> None:
        """Begin with TorchServe's default metrics of handlers and those that a file defines."""
        self._registry = registry
        self._hostname = hostname
        self._definitions = definitions
        self._own: dict[str, Family[Number] | Family[Distribution]] = {}
        self._complained: set[str] = set()
        self.refused = 0
        for definition in (*definitions.handlers, *_DEFAULTS):
            if metric_name(definition.name) in self._own:
                continue
            try:
                self._declare(definition)
            except ValueError as error:
                log.warning("metric %r of serving.metrics_config is not told: %s", definition.name, error)

    def observe(self, model: str, observation: Observation) -> Labels | None:
        """Take one value in; returns its labels, or None where nothing is told of it."""
        if not self._definitions.is_told(observation.name) and not any(
            default.name == observation.name for default in _DEFAULTS
        ):
            return None
        why = self._take(model, observation)
        if isinstance(why, tuple):
            return why
        self.refused += 1
        if observation.name not in self._complained and len(self._complained) < MAX_FAMILIES:
            self._complained.add(observation.name)
            log.warning("metric %r of model %s is not told: %s", observation.name, model, why)
        return None

    def forget(self, models: frozenset[str]) -> None:
        """Drop what was reported of these models."""
        for family in self._own.values():
            family.forget(
                lambda labels: any(name == "ModelName" and value in models for name, value in labels)
            )

    def _take(self, model: str, observation: Observation) -> Labels | str:
        family = self._family(observation)
        if isinstance(family, str):
            return family
        if math.isnan(observation.value) or (
            observation.type == "counter" and not 0 <= observation.value < math.inf
        ):
            return f"{observation.value} is no value of a {observation.type}"
        labels = self._labels(model, observation)
        if len(family) >= MAX_VALUES and not family.has(labels):
            return f"it has values for {MAX_VALUES} combinations of dimensions already"
        value = family.labels(*labels)
        if isinstance(value, Distribution):
            value.observe(observation.value)
        elif family.kind == "counter":
            value.value += observation.value
        else:
            value.value = observation.value
        return labels

    def _family(self, observation: Observation) -> Family[Number] | Family[Distribution] | str:
        name = metric_name(observation.name)
        family = self._own.get(name)
        if family is None:
            if name.startswith("satrap_") or self._registry.get(name) is not None:
                return "the server has a metric of that name"
            if len(self._own) >= MAX_FAMILIES:
                return f"there are {MAX_FAMILIES} metrics of handlers already"
            unit = UNITS.get(observation.unit, observation.unit)
            try:
                family = self._declare(Definition(observation.type, observation.name, unit))
            except ValueError as error:
                return str(error)
        if family.kind != observation.type:
            return f"it is a {family.kind}, and was reported as a {observation.type}"
        return family

    def _declare(self, definition: Definition) -> Family[Number] | Family[Distribution]:
        name, text = metric_name(definition.name), help_text(definition.type, definition.unit)
        family: Family[Number] | Family[Distribution]
        match definition.type:
            case "counter":
                family = self._registry.counter(name, text)
            case "gauge":
                family = self._registry.gauge(name, text)
            case "histogram":
                family = self._registry.histogram(name, text, BOUNDS)
        self._own[name] = family
        return family

    def _labels(self, model: str, observation: Observation) -> Labels:
        labels = {} if observation.is_exact else {"ModelName": model, "Level": "Model"}
        for name, value in observation.dimensions:
            known = label_name(name)
            # `le` is the bound of a bucket.
            labels["_le" if known == "le" and observation.type == "histogram" else known] = value
        labels.pop("Hostname", None)
        return (*labels.items(), ("Hostname", self._hostname))
