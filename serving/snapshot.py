"""What is registered, written down as TorchServe does: a `config.properties` with a JSON document in one key.

So a snapshot of either server is read by the other. Per version it has the key `handler` besides, where a registration
gave one of its own; TorchServe ignores it. No files here: see `snapshot_files`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import javaproperties

from satrap.errors import ConfigError

__all__ = [
    "KEY",
    "Snapshot",
    "SnapshotKind",
    "VersionState",
    "file_name",
    "parse_snapshot",
    "render_snapshot",
]

KEY = "model_snapshot"

SnapshotKind = Literal["startup", "snapshot", "shutdown"]


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """One registered version; delay in ms, timeouts in seconds, None: not written down.

    `archive` is a name in the model store; `handler` is empty if the archive's own counts.
    """

    version: str
    archive: str
    is_default: bool
    min_workers: int
    max_workers: int
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    runtime: str | None = None
    handler: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Versions by model, in the order of their registration."""

    models: Mapping[str, Sequence[VersionState]]


_OPTIONAL_NUMBERS = {
    "batchSize": ("batch_size", 1),
    "maxBatchDelay": ("max_batch_delay", 0),
    "responseTimeout": ("response_timeout", 1),
    "startupTimeout": ("startup_timeout", 1),
}


def file_name(kind: SnapshotKind, moment: datetime) -> str:
    """The name of a snapshot's file; names sort by time."""
    return f"{moment:%Y%m%d%H%M%S}{moment.microsecond // 1000:03d}-{kind}.cfg"


def render_snapshot(snapshot: Snapshot, name: str, moment: datetime, properties: Mapping[str, str]) -> str:
    """The file's text: `properties`, then the document."""
    document = {
        "name": name,
        "modelCount": sum(map(len, snapshot.models.values())),
        "created": int(moment.timestamp() * 1000),
        "models": {
            model: {each.version: _document(each) for each in versions}
            for model, versions in snapshot.models.items()
        },
    }
    everything = {**properties, KEY: json.dumps(document, indent=2)}
    return javaproperties.dumps(everything, comments="Saving snapshot", timestamp=moment)


def _document(state: VersionState) -> dict[str, Any]:
    numbers = {key: getattr(state, field) for key, (field, _) in _OPTIONAL_NUMBERS.items()}
    document = {
        "defaultVersion": state.is_default,
        "marName": state.archive,
        "minWorkers": state.min_workers,
        "maxWorkers": state.max_workers,
        **numbers,
        "runtimeType": state.runtime,
        "handler": state.handler or None,
    }
    return {key: value for key, value in document.items() if value is not None}


def parse_snapshot(text: str, path: Path | str) -> Snapshot:
    """Read the document; `path` says where it stood.

    Raises:
        ConfigError: it is not one.
    """

    def refuse(place: str, reason: str) -> ConfigError:
        return ConfigError(path, f"{KEY}{place}", 0, reason)

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse("", f"it is not JSON: {error}") from None
    models = document.get("models", {}) if isinstance(document, dict) else None
    if not isinstance(models, dict):
        raise refuse("", "it has no mapping of models")
    states: dict[str, list[VersionState]] = {}
    for model, versions in models.items():
        if not isinstance(versions, dict) or not all(isinstance(v, dict) for v in versions.values()):
            raise refuse(f".models.{model}", "it is not a mapping of versions")
        states[model] = []
        for version, fields in versions.items():
            try:
                states[model].append(_state(version, fields))
            except ValueError as error:
                raise refuse(f".models.{model}.{version}", str(error)) from None
    return Snapshot(states)


def _state(version: str, fields: dict[str, Any]) -> VersionState:
    def text(key: str) -> str:
        value = fields.get(key, "")
        if not isinstance(value, str):
            raise ValueError(f"{key} is {value!r}, not a string")
        return value

    def number(key: str, least: int) -> int | None:
        value = fields.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{key} is {value!r}, not a whole number from {least}")
        return value

    if not text("marName"):
        raise ValueError("it has no marName, the archive's name in the model store")
    minimum = number("minWorkers", 0) or 0
    maximum = number("maxWorkers", 0)
    optional = {field: number(key, least) for key, (field, least) in _OPTIONAL_NUMBERS.items()}
    return VersionState(
        version=version,
        archive=text("marName"),
        is_default=fields.get("defaultVersion") is True,
        min_workers=minimum,
        max_workers=max(minimum, maximum if maximum is not None else minimum),
        **optional,
        runtime=text("runtimeType") or None,
        handler=text("handler"),
    )
