"""TorchServe's key `models`: settings by model and version, as a JSON document in config.properties."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from satrap.config.global_config import ModelConfig, VersionConfig
from satrap.serving.ts_properties import Properties

__all__ = ["model_settings"]

_VERSION_KEYS = {
    "minWorkers": "workers",
    "maxWorkers": "max_workers",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay_ms",
    "responseTimeout": "response_timeout_seconds",
    "startupTimeout": "startup_timeout_seconds",
}
_SNAPSHOT_KEYS = frozenset({"defaultVersion", "marName", "runtimeType"})
"""What snapshots have beside them; of no meaning in `models`, in TorchServe too."""


def model_settings(
    properties: Properties, base: Mapping[str, ModelConfig], warn: Callable[[str], None]
) -> Mapping[str, ModelConfig]:
    """The document's settings on top of those that a model has already; `warn` hears of keys that are not known.

    Raises:
        ConfigError: it is no such document, or a value is no whole number.
    """
    if "models" not in properties.values:
        return base
    try:
        document = json.loads(properties.values["models"])
    except ValueError as error:
        raise properties.error("models", f"is no JSON: {error}") from error
    merged = dict(base)
    for model, versions in _mapping(properties, document, "the document").items():
        settings = {
            version: _version(properties, _mapping(properties, values, f"{model}, {version}"), warn)
            for version, values in _mapping(properties, versions, model).items()
        }
        before = merged.get(model, ModelConfig())
        merged[model] = before.model_copy(update={"versions": {**before.versions, **settings}})
    return merged


def _mapping(properties: Properties, value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise properties.error("models", f"{what} is no JSON object by model, version and parameter")
    return value


def _version(properties: Properties, values: Mapping[str, Any], warn: Callable[[str], None]) -> VersionConfig:
    settings: dict[str, int] = {}
    for key, value in values.items():
        if key in _SNAPSHOT_KEYS:
            continue
        if key not in _VERSION_KEYS:
            warn(str(properties.error("models", f"{key} is not known there, ignored")))
        elif isinstance(value, bool) or not isinstance(value, int):
            raise properties.error("models", f"{key} is {value!r}, no whole number")
        elif value > 0:  # otherwise the default counts, as in TorchServe
            settings[_VERSION_KEYS[key]] = value
    return VersionConfig(**settings)
