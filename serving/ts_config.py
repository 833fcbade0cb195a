"""From TorchServe's keys to satrap's own configuration.

Where the file is silent the configuration given beside it counts, as far as it says something, then TorchServe's
default: token authorization on, model API and installing off, metrics in the log only, a worker per GPU or processor
for each model that is named at the start. `allowed_urls` is the exception: unset, it allows nothing (TorchServe:
everything).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from satrap.config.global_config import (
    CorsConfig,
    ModelConfig,
    ServingConfig,
    TlsConfig,
    TokenConfig,
)
from satrap.keystore import to_pkcs12
from satrap.serving.listening import Listening
from satrap.serving.ts_keys import ITS_OWN, KEYS, NO_EFFECT
from satrap.serving.ts_listening import listening
from satrap.serving.ts_models import model_settings
from satrap.serving.ts_properties import Properties

__all__ = ["Machine", "TsConfig", "translate"]

_MODES = ("prometheus", "legacy", "log")

_Theirs = dict[str, tuple[tuple[str, ...], object]]
"""By our key: their keys that decide it, and the value."""

_NUMBERS = (
    ("default_workers_per_model", "default_workers_per_model", 0, 0),
    ("job_queue_size", "job_queue_size", 100, 1),
    ("default_response_timeout_seconds", "default_response_timeout", 120, 1),
    ("default_startup_timeout_seconds", "default_startup_timeout", 120, 1),
    ("unregister_model_timeout_seconds", "unregister_model_timeout", 120, 1),
    ("max_request_bytes", "max_request_size", 6_553_500, 1),
    ("max_response_bytes", "max_response_size", 6_553_500, 1),
    ("system_metrics_seconds", "metric_time_interval", 60, 1),
)
"""Our key, theirs, TorchServe's default, and the least that it takes."""


@dataclass(frozen=True)
class Machine:
    """What TorchServe counts workers by."""

    processors: int
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class TsConfig:
    """A config.properties in satrap's terms.

    Attributes:
        config: section `serving`.
        models: settings by model.
        insecure: `satrap_insecure=true`: the network is the user's.
        startup_models: `load_models`; None: none.
        model_snapshot: what to register instead, if the file is a snapshot.
        warnings: sentences for the log, with the keys that are unknown or change nothing.
        properties: what counted, for snapshots.
    """

    config: ServingConfig
    models: Mapping[str, ModelConfig]
    listening: Listening
    insecure: bool
    model_store: Path | None
    startup_models: str | None
    model_snapshot: str | None
    warnings: tuple[str, ...]
    properties: Mapping[str, str]


def translate(
    properties: Properties,
    base: ServingConfig,
    base_models: Mapping[str, ModelConfig],
    machine: Machine,
    snapshot_directory: Path,
) -> TsConfig:
    """Translate what counts after file, command line and environment.

    Raises:
        ConfigError: a value that cannot be used, with its file and line.
    """
    if envelope := properties.text("service_envelope"):
        raise properties.error(
            "service_envelope",
            f"request envelopes ({envelope}) are not served: what clients send would be misunderstood. Remove the line "
            "if the handlers take it as it is",
        )
    warnings: list[str] = []
    config = _serving(properties, base, machine, snapshot_directory, warnings.append)
    models = model_settings(properties, base_models, warnings.append)
    warnings += _ignored(properties)
    return TsConfig(
        config=config,
        models=models,
        listening=listening(properties),
        insecure=properties.boolean("satrap_insecure"),
        model_store=Path(store) if (store := properties.text("model_store")) else None,
        startup_models=_startup_models(properties),
        model_snapshot=properties.values.get("model_snapshot"),
        warnings=tuple(warnings),
        properties={
            key: value
            for key, value in properties.values.items()
            if key not in ("keystore_pass", "model_snapshot")
        },
    )


def _serving(
    properties: Properties,
    base: ServingConfig,
    machine: Machine,
    snapshot_directory: Path,
    warn: Callable[[str], None],
) -> ServingConfig:
    """The section `serving`: from the file, otherwise from `base` if that says it, otherwise TorchServe's default."""
    theirs = {**_numbers(properties), **_rules(properties, machine, warn), **_reports(properties, warn)}
    theirs["snapshot_directory"] = (), str(snapshot_directory)
    decided = {
        field: value
        for field, (keys, value) in theirs.items()
        if field not in base.model_fields_set or any(key in properties.values for key in keys)
    }
    return base.model_copy(update={**decided, "token": _token(properties, base.token)})


def _numbers(properties: Properties) -> _Theirs:
    """Whole numbers, in the units of their keys: workers, requests, seconds and bytes."""
    return {
        ours: ((key,), properties.integer(key, default, least=least))
        for ours, key, default, least in _NUMBERS
    }


def _rules(properties: Properties, machine: Machine, warn: Callable[[str], None]) -> _Theirs:
    """What is allowed, and what requests and workers get."""
    read = properties
    gpus = read.integer("number_of_gpu", 0, least=0) if "number_of_gpu" in read.values else None
    return {
        "startup_workers_per_model": (("debug", "number_of_gpu"), _startup_workers(read, machine)),
        "gpus": (("number_of_gpu",), gpus),
        "model_api": (("enable_model_api",), read.boolean("enable_model_api")),
        "allowed_urls": (("allowed_urls",), _patterns(read, "allowed_urls", separator=",")),
        "decode_input_request": (
            ("decode_input_request",),
            read.boolean("decode_input_request", default=True),
        ),
        "limit_max_image_pixels": (
            ("limit_max_image_pixels",),
            read.boolean("limit_max_image_pixels", default=True),
        ),
        "install_requirements": (("install_py_dep_per_model",), read.boolean("install_py_dep_per_model")),
        "hidden_environment": (
            ("blacklist_env_vars",),
            _patterns(read, "blacklist_env_vars", separator=None),
        ),
        "tls": (("certificate_file", "private_key_file", "keystore"), _tls(read, warn)),
        "cors": (("cors_allowed_origin", "cors_allowed_methods", "cors_allowed_headers"), _cors(read)),
    }


def _reports(properties: Properties, warn: Callable[[str], None]) -> _Theirs:
    """Metrics and logs."""
    read = properties
    return {
        "metrics_mode": (("metrics_mode",), _metrics_mode(read, warn)),
        "metrics_config": (("metrics_config",), read.text("metrics_config")),
        "metrics_auto_detect": (("model_metrics_auto_detect",), read.boolean("model_metrics_auto_detect")),
        "system_metrics": (("disable_system_metrics",), not read.boolean("disable_system_metrics")),
        "access_log": ((), True),
    }


def _cors(properties: Properties) -> CorsConfig:
    return CorsConfig(
        allowed_origin=properties.text("cors_allowed_origin"),
        allowed_methods=properties.text("cors_allowed_methods"),
        allowed_headers=properties.text("cors_allowed_headers"),
    )


def _startup_workers(properties: Properties, machine: Machine) -> int:
    if properties.boolean("debug"):
        return 1
    gpus = min(machine.gpus, properties.integer("number_of_gpu", machine.gpus, least=0))
    return gpus or machine.processors


def _patterns(properties: Properties, key: str, *, separator: str | None) -> list[str]:
    text = properties.text(key)
    patterns = [part.strip() for part in (text.split(separator) if separator else [text])]
    for pattern in filter(None, patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            raise properties.error(key, f"{pattern!r} is no regular expression: {error}") from error
    return [pattern for pattern in patterns if pattern]


def _metrics_mode(properties: Properties, warn: Callable[[str], None]) -> str:
    mode = re.sub(r"\s", "", properties.values.get("metrics_mode", "prometheus")).lower()
    if mode in _MODES:
        return mode
    warn(str(properties.error("metrics_mode", f"{mode!r} is none of {', '.join(_MODES)}: taken as log")))
    return "log"


def _token(properties: Properties, base: TokenConfig) -> TokenConfig:
    enabled = base.enabled  # None: by who can reach the server, see `exposure.by_reach`
    if "disable_token_authorization" in properties.values:
        enabled = not properties.boolean("disable_token_authorization")
    minutes = properties.number("token_expiration_min", base.expiration_minutes)
    return base.model_copy(update={"enabled": enabled, "expiration_minutes": minutes})


def _tls(properties: Properties, warn: Callable[[str], None]) -> TlsConfig:
    """PEM files win over a keystore, as in TorchServe."""
    certificate, key = properties.text("certificate_file"), properties.text("private_key_file")
    store = properties.text("keystore")
    if bool(certificate) != bool(key):
        given = "certificate_file" if certificate else "private_key_file"
        raise properties.error(given, "certificate_file and private_key_file go together: name both, or none")
    if not store:
        return TlsConfig(certificate=certificate, private_key=key)
    if certificate:
        warn(str(properties.error("keystore", f"{store} is not read: certificate_file has the certificate")))
        return TlsConfig(certificate=certificate, private_key=key)
    # Java's two types read each other's files, so what the file is counts, not what it is called.
    if (kind := properties.text("keystore_type", "PKCS12")).upper() not in ("PKCS12", "JKS"):
        raise properties.error(
            "keystore_type", f"{kind}: only PKCS12 keystores are read. Make one: {to_pkcs12(store)}"
        )
    if (password := properties.values.get("keystore_pass")) is None:
        raise properties.error(
            "keystore",
            "keystore_pass, which opens it, is not there. Snapshots do not keep it: name the configuration file by "
            "--ts-config, or write enable_envvars_config=true and set TS_KEYSTORE_PASS",
        )
    return TlsConfig(keystore=store, keystore_password=password)


def _startup_models(properties: Properties) -> str | None:
    models = properties.text("load_models")
    return None if models.lower() in ("", "none", "standalone") else models


def _ignored(properties: Properties) -> list[str]:
    """A sentence on the keys that change nothing, and one on those that nobody knows."""
    where = properties.path or "config.properties"
    sentences = []
    if idle := sorted(key for key in properties.values if key in NO_EFFECT):
        reasons = "; ".join(f"{key}: {NO_EFFECT[key]}" for key in idle)
        sentences.append(f"{where}: keys that change nothing here: {reasons}")
    if unknown := sorted(set(properties.values) - set(KEYS) - set(NO_EFFECT) - ITS_OWN):
        sentences.append(f"{where}: unknown keys, ignored: {', '.join(unknown)}")
    return sentences
