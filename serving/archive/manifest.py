"""An archive's `MAR-INF/MANIFEST.json` and its config file: what the server takes from them."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["MANIFEST_NAME", "ArchiveOptions", "Manifest", "ManifestError"]

MANIFEST_NAME = "MAR-INF/MANIFEST.json"

RUNTIMES = ("python", "python3")
DEVICE_TYPES = ("cpu", "gpu", "neuron")
DEFAULT_RUNTIME = "python"
DEFAULT_VERSION = "1.0"

_GREATEST = 2**31 - 1


class ManifestError(Exception):
    """A manifest or config file that cannot be served; the sentence is TorchServe's where it has one."""


@dataclass(frozen=True)
class Manifest:
    """The fields that the server needs; `raw` is the whole document, which handlers see.

    As in TorchServe an archive without a manifest, or whose manifest leaves things out, is served when the
    registration gives its name and handler: both are empty then. The version of such a one is 1.0, its runtime python.
    """

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
            ManifestError: it is not JSON, or something in it is of no use.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{MANIFEST_NAME} is not JSON: {error}") from None
        return cls.from_document(raw)

    @classmethod
    def missing(cls) -> "Manifest":
        """What stands for the manifest of an archive that has none."""
        return cls.from_document({"runtime": DEFAULT_RUNTIME, "model": {"modelVersion": DEFAULT_VERSION}})

    @classmethod
    def from_document(cls, raw: object) -> "Manifest":
        """Check a manifest that is parsed already.

        Raises:
            ManifestError: something in it is of no use.
        """
        if not isinstance(raw, dict) or not isinstance(raw.get("model", {}), dict):
            raise ManifestError("Missing Model entry in manifest file.")
        model = raw.get("model", {})
        if model.get("modelVersion", DEFAULT_VERSION) == "":
            raise ManifestError("Model version is not defined.")
        runtime = raw.get("runtime", DEFAULT_RUNTIME)
        if runtime not in RUNTIMES:
            raise ManifestError(f"Runtime is not defined or invalid. (it is one of {', '.join(RUNTIMES)})")
        return cls(
            _text(model, "modelName"),
            _text(model, "modelVersion") or DEFAULT_VERSION,
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
    `warmup` is the file that `satrap: {warmup: FILE}` names, see `archive.warmup`.
    `device_type` is cpu, gpu or neuron. `extra_files` is what `system: {extraFiles: FILE}` says: an archive within the
    archive, which is unpacked over it. `ignored` are keys of TorchServe's that change nothing here.
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
    warmup: str = ""
    device_type: str | None = None
    device_ids: Sequence[int] = ()
    extra_files: str = ""
    ignored: Sequence[str] = ()

    @classmethod
    def parse(cls, text: bytes, name: str) -> "ArchiveOptions":
        """Read a config file; keys that are not the server's are the handler's.

        Raises:
            ManifestError: it is not YAML, one of these keys has no usable number, or it asks for another way of running
                the handler than there is here.
        """
        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ManifestError(f"config file {name} is not YAML: {error}") from None
        if document is None:
            return cls()
        if not isinstance(document, dict):
            raise ManifestError(f"config file {name} is not a mapping")
        for key in _NOT_SERVED:
            value = document.get(key)
            if value and not (isinstance(value, str) and value.lower() in ("none", "false")):
                raise ManifestError(
                    f"config file {name}: {key} is {_shown(value)}, which is not served here; take the key out if the "
                    "handler works without"
                )
        sparse_sequence, warmup = _own_section(document.get("satrap"), name)
        values: dict[str, int] = {}
        for key, (field, least) in _OPTION_KEYS.items():
            value = document.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _GREATEST:
                raise ManifestError(
                    f"config file {name}: {key} is {_shown(value)}, not a whole number from {least} to {_GREATEST}"
                )
            values[field] = value
        return cls(
            **values,
            sparse_sequence=sparse_sequence,
            warmup=warmup,
            device_type=_device_type(document.get("deviceType"), name),
            device_ids=_device_ids(document.get("deviceIds"), name),
            extra_files=_extra_files(document.get("system")),
            ignored=tuple(key for key in _IGNORED if document.get(key)),
        )


def _shown(value: object) -> str:
    """A value for a sentence: a short YAML file can say a value that is longer than any memory."""
    try:
        return reprlib.repr(value)[:200]
    except ValueError:  # an integer of thousands of digits
        return "a number"


def _device_type(value: object, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in DEVICE_TYPES:
        raise ManifestError(
            f"config file {name}: deviceType is {_shown(value)}, not one of {', '.join(DEVICE_TYPES)}"
        )
    return value.lower()


def _device_ids(value: object, name: str) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0 for entry in value
    ):
        raise ManifestError(
            f"config file {name}: deviceIds is {_shown(value)}, not a list of whole numbers from 0"
        )
    return tuple(value)


def _extra_files(section: object) -> str:
    """`system.extraFiles` of the model-servers style; what else the section `system` holds is the handler's."""
    value = section.get("extraFiles") if isinstance(section, dict) else None
    return value if isinstance(value, str) else ""


_SEQUENCES = 2**32
"""Sequences are below it: they are the ordinals of rows."""


def _own_section(section: object, name: str) -> tuple[int | None, str]:
    """`sparse_sequence` and `warmup` of the section `satrap`; a key that it does not know is a mistake."""
    if section is None:
        return None, ""
    if not isinstance(section, dict):
        raise ManifestError(
            f"config file {name}: satrap is {_shown(section)}, not a mapping like {{sparse_sequence: 12}}"
        )
    unknown = [key for key in section if key not in ("sparse_sequence", "warmup")]
    if unknown:
        raise ManifestError(
            f"config file {name}: satrap.{str(unknown[0])[:80]} is unknown; it may have sparse_sequence and warmup"
        )
    sequence = section.get("sparse_sequence")
    if sequence is not None and (
        not isinstance(sequence, int) or isinstance(sequence, bool) or not 1 <= sequence < _SEQUENCES
    ):
        raise ManifestError(
            f"config file {name}: satrap.sparse_sequence is {_shown(sequence)}, "
            f"not a whole number from 1 to {_SEQUENCES - 1}"
        )
    warmup = section.get("warmup")
    if warmup is not None and (not isinstance(warmup, str) or not warmup):
        raise ManifestError(f"config file {name}: satrap.warmup is {_shown(warmup)}, not a file's name")
    return sequence, warmup or ""


_NOT_SERVED = ("parallelType", "continuousBatching", "sequenceBatching")
"""A handler written for one of them would answer something else without it, or wait for ever."""

_IGNORED = ("torchrun", "parallelLevel", "useJobTicket", "asyncCommunication", "clientTimeoutInMills")

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
