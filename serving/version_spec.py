"""How one version is served: what the call, the archive, the configuration and the defaults say, in this order."""

import re
from dataclasses import dataclass
from pathlib import Path

from satrap.config.global_config import ModelConfig, ServingConfig, VersionConfig
from satrap.errors import ArchiveError, InvalidInputError
from satrap.serving.archive.manifest import RUNTIMES, ArchiveOptions, Manifest
from satrap.serving.batching import BatchPolicy
from satrap.serving.environment.value import Environment

__all__ = ["MAX_WORKERS", "RegisterParameters", "VersionSpec", "check_workers", "resolve"]

DEFAULT_MAX_BATCH_DELAY_MS = 100
DEFAULT_MAX_RETRY_TIMEOUT = 300

MAX_WORKERS = 1000

_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters would forge lines of the log; half a surrogate pair fits into no list and no metric."""


@dataclass(frozen=True, kw_only=True)
class RegisterParameters:
    """A registration's parameters, None where not given. Delay in ms, timeouts in seconds.

    `s3_sse_kms` has no effect: there is no signing of requests to S3. `fallback_name` names the model if neither the
    call nor the archive does. `workers` (least and greatest number) wins over everything; it is not of the API, but
    what a restart had. So are `other_versions`, which have settings of their own: the archive may be none of them.
    """

    url: str | None
    model_name: str | None = None
    fallback_name: str = ""
    handler: str | None = None
    runtime: str | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    workers: tuple[int, int] | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    synchronous: bool = False
    s3_sse_kms: bool = False
    other_versions: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class VersionSpec:
    """One version, with everything decided. Timeouts in seconds.

    `downloaded`: the archive's file in the store, if it was downloaded for this registration.
    `sparse_sequence`: it answers when every embedding server has applied this one; None: at once. `environment`: what
    its requirements file asks for; None: nothing, or it is not installed. `device_ids`: the GPUs that its
    config file names; `devices`: those that its workers get by turns, none for the CPU.
    """

    model: str
    version: str
    url: str
    handler: str
    runtime: str
    manifest: Manifest
    directory: Path
    batching: BatchPolicy
    min_workers: int
    max_workers: int
    response_timeout: int
    startup_timeout: int
    max_retry_timeout: int
    sparse_sequence: int | None
    loaded_at_startup: bool
    environment: Environment | None = None
    device_ids: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    downloaded: Path | None = None
    warmup: str = ""

    @property
    def name(self) -> str:
        """For logs."""
        return f"{self.model} {self.version}"


def check_runtime(runtime: str | None) -> None:
    """Refuse a runtime that is not Python.

    Raises:
        InvalidInputError: TorchServe's sentence.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise InvalidInputError(f"Invalid RuntimeType value: {runtime}")


def check_workers(number: int) -> None:
    """Refuse so many workers that no machine has them: the frontend would do nothing else any more than start them.

    Raises:
        InvalidInputError: which number, and what is allowed.
    """
    if number > MAX_WORKERS:
        raise InvalidInputError(f"{number} workers are too many: a version may have at most {MAX_WORKERS}")


def resolve(
    parameters: RegisterParameters,
    manifest: Manifest,
    options: ArchiveOptions,
    serving: ServingConfig,
    model_config: ModelConfig,
    directory: Path,
    *,
    loaded_at_startup: bool,
) -> VersionSpec:
    """Decide everything about a version.

    Raises:
        ArchiveError: neither the call nor the archive names the model, or its handler.
        InvalidInputError: the model's name or version is no text, or it is to have too many workers.
    """
    name = parameters.model_name or manifest.model_name or parameters.fallback_name
    if not name:
        raise ArchiveError(parameters.url or "", "Model name is not defined.")
    _check_name("name", name)
    _check_name("version", manifest.version)
    if manifest.version in parameters.other_versions:
        raise ArchiveError(parameters.url or "", f"it holds version {manifest.version} now")
    handler = parameters.handler or manifest.handler
    if not handler:
        raise ArchiveError(parameters.url or "", "Model handler is not defined.")
    configured = model_config.of(manifest.version)
    minimum, maximum = _workers(parameters, options, configured, serving, loaded_at_startup=loaded_at_startup)
    check_workers(minimum)
    return VersionSpec(
        model=name,
        version=manifest.version,
        url=parameters.url or "",
        handler=handler,
        runtime=parameters.runtime or manifest.runtime,
        manifest=manifest,
        directory=directory,
        batching=_batching(parameters, options, configured, serving),
        min_workers=minimum,
        max_workers=maximum,
        response_timeout=_first(
            parameters.response_timeout,
            options.response_timeout,
            configured.response_timeout_seconds,
            serving.default_response_timeout_seconds,
        ),
        startup_timeout=_first(
            parameters.startup_timeout,
            options.startup_timeout,
            configured.startup_timeout_seconds,
            serving.default_startup_timeout_seconds,
        ),
        max_retry_timeout=_first(options.max_retry_timeout, DEFAULT_MAX_RETRY_TIMEOUT),
        sparse_sequence=options.sparse_sequence,
        warmup=options.warmup,
        device_ids=tuple(options.device_ids),
        loaded_at_startup=loaded_at_startup,
    )


def _workers(
    parameters: RegisterParameters,
    options: ArchiveOptions,
    configured: VersionConfig,
    serving: ServingConfig,
    *,
    loaded_at_startup: bool,
) -> tuple[int, int]:
    """The least and the greatest number of workers."""
    if parameters.workers is not None:
        minimum, maximum = parameters.workers
        return minimum, max(minimum, maximum)
    minimum = _first(
        options.min_workers or None,  # 0 says nothing, as in TorchServe
        parameters.initial_workers,
        configured.workers,
        # As in TorchServe: by default RegisterModel starts none, and a model that is named at the start has some.
        serving.default_workers_per_model or (serving.startup_workers_per_model if loaded_at_startup else 0),
    )
    return minimum, max(minimum, _first(options.max_workers, configured.max_workers, minimum))


def _batching(
    parameters: RegisterParameters,
    options: ArchiveOptions,
    configured: VersionConfig,
    serving: ServingConfig,
) -> BatchPolicy:
    delay_ms = _first(
        parameters.max_batch_delay,
        options.max_batch_delay_ms,
        configured.max_batch_delay_ms,
        DEFAULT_MAX_BATCH_DELAY_MS,
    )
    return BatchPolicy(
        batch_size=_first(parameters.batch_size, options.batch_size, configured.batch_size, 1),
        max_delay=delay_ms / 1000,
        capacity=_first(options.job_queue_size, serving.job_queue_size),
    )


def _check_name(what: str, name: str) -> None:
    if _NO_NAME.search(name):
        raise InvalidInputError(f"{name!r} cannot be a model's {what}: it holds a character that is no text")


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
