"""An archive's `MAR-INF/MANIFEST.json` and its config file: what the server takes from them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["MANIFEST_NAME", "ArchiveOptions", "Manifest", "ManifestError"]

MANIFEST_NAME = "MAR-INF/MANIFEST.json"

RUNTIMES = ("python", "python3")


class ManifestError(Exception):
    """A manifest or config file that cannot be served; the sentence is TorchServe's where it has one."""


@dataclass(frozen=True)
class Manifest:
    """The fields that the server needs; `raw` is the whole document, which handlers see."""

    model_name: str
    version: str
    handler: str
    runtime: str
    config_file: str
    requirements_file: str
    raw: dict[str, Any]

    @classmethod
    def parse(cls, text: bytes) -> "Manifest":
        """Read a manifest.

        Raises:
            ManifestError: it is not JSON, or lacks something.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise ManifestError(f"{MANIFEST_NAME} is not JSON: {error}") from None
        return cls.from_document(raw)

    @classmethod
    def from_document(cls, raw: object) -> "Manifest":
        """Check a manifest that is parsed already.

        Raises:
            ManifestError: it lacks something.
        """
        if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
            raise ManifestError("Missing Model entry in manifest file.")
        model = raw["model"]
        runtime = raw.get("runtime")
        if not _text(model, "modelName"):
            raise ManifestError("Model name is not defined.")
        if not _text(model, "modelVersion"):
            raise ManifestError("Model version is not defined.")
        if runtime not in RUNTIMES:
            raise ManifestError(f"Runtime is not defined or invalid. (it is one of {', '.join(RUNTIMES)})")
        if not _text(model, "handler"):
            raise ManifestError("Model handler is not defined.")
        return cls(
            _text(model, "modelName"),
            _text(model, "modelVersion"),
            _text(model, "handler"),
            str(runtime),
            _text(model, "configFile"),
            _text(model, "requirementsFile"),
            raw,
        )


def _text(model: Mapping[str, Any], key: str) -> str:
    value = model.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ManifestError(f"{MANIFEST_NAME}: model.{key} is not a string")
    return str(value)


@dataclass(frozen=True)
class ArchiveOptions:
    """The server's keys of an archive's config file; None where it says nothing. Times in seconds, delay in ms.

    `sparse_sequence` is what `satrap: {sparse_sequence: N}` says: the sequence that its embeddings must have reached.
    """

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    max_retry_timeout: int | None = None
    job_queue_size: int | None = None
    sparse_sequence: int | None = None

    @classmethod
    def parse(cls, text: bytes, name: str) -> "ArchiveOptions":
        """Read a config file; keys that are not the server's are the handler's.

        Raises:
            ManifestError: it is not YAML, or one of these keys has no usable number.
        """
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ManifestError(f"config file {name} is not YAML: {error}") from None
        if document is None:
            return cls()
        if not isinstance(document, dict):
            raise ManifestError(f"config file {name} is not a mapping")
        values = _sparse_sequence(document.get("satrap"), name)
        for key, (field, least) in _OPTION_KEYS.items():
            value = document.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ManifestError(
                    f"config file {name}: {key} is {value!r}, not a whole number from {least}"
                )
            values[field] = value
        return cls(**values)


_SEQUENCES = 2**32
"""Sequences are below it: they are the ordinals of rows."""


def _sparse_sequence(section: object, name: str) -> dict[str, int]:
    """`sparse_sequence` of the section `satrap`, which is satrap's alone: a key that it does not know is a mistake."""
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ManifestError(
            f"config file {name}: satrap is {section!r}, not a mapping like {{sparse_sequence: 12}}"
        )
    unknown = [key for key in section if key != "sparse_sequence"]
    if unknown:
        raise ManifestError(
            f"config file {name}: satrap.{unknown[0]} is unknown; it may have sparse_sequence"
        )
    value = section.get("sparse_sequence")
    if value is None:
        return {}
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _SEQUENCES:
        raise ManifestError(
            f"config file {name}: satrap.sparse_sequence is {value!r}, not a whole number from 1 to {_SEQUENCES - 1}"
        )
    return {"sparse_sequence": value}


_OPTION_KEYS = {
    "minWorkers": ("min_workers", 0),
    "maxWorkers": ("max_workers", 0),
    "batchSize": ("batch_size", 1),
    "maxBatchDelay": ("max_batch_delay_ms", 0),
    "responseTimeout": ("response_timeout", 1),
    "startupTimeout": ("startup_timeout", 1),
    "maxRetryTimeoutInSec": ("max_retry_timeout", 0),
    "jobQueueSize": ("job_queue_size", 1),
}
