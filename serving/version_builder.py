"""From a registration's parameters to a version that can be started: its archive, its packages, its decisions."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence

from satrap.config.global_config import ModelConfig
from satrap.errors import ArchiveError, InvalidInputError
from satrap.serving.archive.archives import Archives
from satrap.serving.archive.unpacking import Unpacked
from satrap.serving.devices import choose_devices
from satrap.serving.environment.environments import Environments
from satrap.serving.forks import Template
from satrap.serving.metrics.definitions import Definition
from satrap.serving.observer import Observer
from satrap.serving.processors import available_gpus
from satrap.serving.request_ids import request_ids
from satrap.serving.settings import ServingSettings
from satrap.serving.version import Version
from satrap.serving.version_spec import RegisterParameters, VersionSpec, check_runtime, resolve
from satrap.serving.worker.assignment import Assignment
from satrap.serving.worker_pool import PoolEvents, WorkerPool

__all__ = ["VersionBuilder"]

log = logging.getLogger("satrap.serving")

FIRST_WORKER_NUMBER = 9000
"""TorchServe names its workers by ports from 9000 on; so do we, without the ports."""


class VersionBuilder:
    """Builds the versions of one server, and removes what they had on disk. `open` it first."""

    def __init__(
        self, settings: ServingSettings, template: Template, observer: Observer, metrics: Sequence[Definition]
    ) -> None:
        """Make nothing.

        Raises:
            ConfigError: one of `serving.allowed_urls` is no regular expression.
        """
        self._settings, self._template, self._observer, self._metrics = settings, template, observer, metrics
        self._config = settings.config
        self._archives = Archives(template, settings.model_store, self._config)
        self.store = self._archives.store
        self._environments = Environments(template, self._config)
        self._numbers = itertools.count(FIRST_WORKER_NUMBER)
        self._request_ids = request_ids()

    async def open(self) -> None:
        """Make the working directory and start the template.

        Raises:
            UnavailableError: the template cannot be used.
        """
        await self._archives.open()
        await self._template.start()

    async def build(
        self, parameters: RegisterParameters, on_ready: Callable[[Version], None], *, at_startup: bool
    ) -> Version:
        """A version without workers; `on_ready` is called whenever one became ready. On failure nothing is left.

        Raises:
            InvalidInputError, ArchiveNotFoundError, ArchiveExistsError, DownloadError, ArchiveError: the parameters or
                the archive are refused.
            RequirementsError: its packages cannot be had.
            UnavailableError: no process could be had.
        """
        if parameters.url is None:
            raise InvalidInputError("Parameter url is required.")
        check_runtime(parameters.runtime)
        if parameters.s3_sse_kms:
            log.warning("%s: s3_sse_kms is ignored: downloads are not signed for S3", parameters.url)
        unpacked = await self._archives.obtain(parameters.url)
        try:
            spec = await self._decide(parameters, unpacked, at_startup)
        except BaseException:
            await self._archives.discard(unpacked.directory, unpacked.downloaded)
            raise
        assignment = self._assignment(spec)

        def pool(events: PoolEvents) -> WorkerPool:
            return WorkerPool(spec, assignment, self._template, self._numbers, events)

        return Version(spec, pool, self._request_ids, on_ready, self._observer)

    async def remove(self, version: Version) -> None:
        """Remove what the version had on disk, when its workers are gone."""
        await self._archives.discard(version.spec.directory, version.spec.downloaded)

    async def close(self) -> None:
        """Remove the working directory."""
        await self._archives.close()

    def model_config(self, model: str) -> ModelConfig:
        """What the configuration says of the model."""
        return self._settings.models_config.get(model) or ModelConfig()

    async def _decide(
        self, parameters: RegisterParameters, unpacked: Unpacked, at_startup: bool
    ) -> VersionSpec:
        name = parameters.model_name or unpacked.manifest.model_name or parameters.fallback_name
        spec = resolve(
            parameters,
            unpacked.manifest,
            unpacked.options,
            self._config,
            self.model_config(name),
            unpacked.directory,
            loaded_at_startup=at_startup,
        )
        if unpacked.options.ignored:
            log.warning(
                "%s: keys of its config file that change nothing here: %s",
                *(spec.name, ", ".join(unpacked.options.ignored)),
            )
        if spec.sparse_sequence and not self._settings.shard_addresses:
            raise ArchiveError(
                spec.url,
                f"it needs sequence {spec.sparse_sequence} of its embeddings, and this server knows no embedding "
                "servers: give --shards, or infer_config.servers in the global config",
            )
        return dataclasses.replace(
            spec,
            downloaded=unpacked.downloaded,
            devices=choose_devices(
                spec.name,
                unpacked.options.device_type,
                spec.device_ids,
                available_gpus() if self._config.gpus is None else min(available_gpus(), self._config.gpus),
            ),
            environment=await self._environments.find(spec),
        )

    def _assignment(self, spec: VersionSpec) -> Assignment:
        return Assignment(
            model=spec.model,
            version=spec.version,
            directory=str(spec.directory),
            handler=spec.handler,
            manifest=spec.manifest.raw,
            batch_size=spec.batching.batch_size,
            threads=self._config.threads_per_worker,
            max_response_bytes=self._config.max_response_bytes,
            ours_first=self._config.compat == "satrap",
            decode_inputs=self._config.decode_input_request,
            limit_max_image_pixels=self._config.limit_max_image_pixels,
            environment=self._settings.worker_environment(),
            warmup=spec.warmup,
            packages=str(spec.environment.packages) if spec.environment else "",
            python=str(spec.environment.python) if spec.environment and spec.environment.is_fresh else "",
            metrics=[(one.type, one.name, one.unit, list(one.dimensions)) for one in self._metrics],
        )
