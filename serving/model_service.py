"""What can be done with models, without a protocol: predict, register, unregister, scale, set default.

The gRPC and REST faces translate calls into these methods and these errors into statuses. Everything
belongs to the frontend's event loop. A change that was begun is carried through even if its caller goes away.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from satrap.config.global_config import ServingConfig
from satrap.errors import (
    InvalidInputError,
    ModelApiDisabledError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    UnregisterTimeoutError,
    VersionRegisteredError,
    WorkerStartError,
)
from satrap.serving.catalog import Catalog
from satrap.serving.changes import Changes
from satrap.serving.default_versions import DefaultVersions
from satrap.serving.outcome import Outcome, OutcomeState
from satrap.serving.query import Query
from satrap.serving.registration_record import RegistrationRecord
from satrap.serving.registry import Registry
from satrap.serving.request import Prediction
from satrap.serving.roster import WorkerState
from satrap.serving.shard_watch import ShardWatch
from satrap.serving.version import Version
from satrap.serving.version_builder import VersionBuilder
from satrap.serving.version_spec import RegisterParameters, check_workers

__all__ = ["ModelService"]

log = logging.getLogger("satrap.serving")

_ACCEPTED = Outcome("Processing worker updates...", OutcomeState.ACCEPTED)


class ModelService:
    """All models of one server.

    Attributes:
        store: where their archives are.
        catalog: what there is of them.
        record: what is written down of them.
    """

    def __init__(
        self,
        config: ServingConfig,
        builder: VersionBuilder,
        registry: Registry[Version],
        record: RegistrationRecord,
        defaults: DefaultVersions,
        shards: ShardWatch,
        catalog: Catalog,
    ) -> None:
        """Take the parts, see `build_model_service`, and start nothing."""
        self.store, self.record, self.catalog = builder.store, record, catalog
        self._config, self._builder, self._registry = config, builder, registry
        self._defaults, self._shards = defaults, shards
        self._changes = Changes()

    async def open(self) -> None:
        """Start the template and make the working directory.

        Raises:
            UnavailableError: the template cannot be used.
        """
        await self._builder.open()

    async def wait_started(self, model: str, version: str) -> None:
        """Wait until the version's workers are ready.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
            WorkerStartError: one could not load its handler; it is tried again.
        """
        await self._registry.get(model, version).pool.wait_started()

    async def wait_or_remove(self, model: str, version: str) -> None:
        """The same as the rest of a synchronous registration: a version that cannot be loaded is taken out.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
            WorkerStartError: one could not load its handler.
        """
        await self._wait_or_remove(self._registry.get(model, version))

    async def predict(self, query: Query, on_part: Callable[[Prediction], None] | None = None) -> Prediction:
        """Answer by the version that the query names, or by the one that is the default now; see `Version.predict`.

        Raises:
            InvalidInputError: no model was named.
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
            VersionWaitsError: it waits for a sequence of its embeddings.
            SatrapError: what `Version.predict` raises.
        """
        return await self._answering(query).predict(query, on_part)

    def stream(self, query: Query) -> AsyncGenerator[Prediction, None]:
        """The same, part by part as the handler gives them; see `Version.stream`.

        Raises:
            SatrapError: what `predict` raises; where there is no such version, before the first part is awaited.
        """
        return self._answering(query).stream(query)

    def _answering(self, query: Query) -> Version:
        if not query.model:
            raise InvalidInputError("Parameter model_name is required.")
        return self._registry.answering(query.model, query.version)

    async def register(self, parameters: RegisterParameters, *, at_startup: bool = False) -> Outcome:
        """Register a version and start its workers.

        A synchronous registration returns when the workers are ready, and takes the version out again when one
        cannot load its handler. An asynchronous one returns at once, and requests wait for the workers. A version that
        needs a sequence of its embeddings is registered like any other and answers when every shard is there.

        Raises:
            ModelApiDisabledError: the configuration says that only startup models are registered.
            InvalidInputError, ArchiveNotFoundError, ArchiveError: the archive cannot be had, or is refused.
            VersionRegisteredError: that version is there already.
            WorkerStartError: synchronous only.
        """
        if not (at_startup or self._config.model_api):
            raise ModelApiDisabledError
        return await self._changes.carry_through(self._register(parameters, at_startup))

    async def unregister(self, model: str, version: str = "") -> Outcome:
        """Take a version out (the default one if none is named); return when all that it accepted is answered.

        One that could not be restored at the start is tried no more.

        Raises:
            ModelApiDisabledError: the configuration says that no model is taken out.
            ModelNotFoundError, ModelVersionNotFoundError, DefaultVersionError: nothing was done.
            UnregisterTimeoutError: it is out, but some requests were not finished in time and have failed.
        """
        if not self._config.model_api:
            raise ModelApiDisabledError
        try:
            removed = self._registry.remove(model, version)
        except (ModelNotFoundError, ModelVersionNotFoundError):
            if not self.record.unrestored.forget(model, version):
                raise
            await self.record.save()
            return Outcome(f'Model "{model}" unregistered')
        return await self._changes.carry_through(self._drain(removed))

    def set_default(self, model: str, version: str) -> Outcome:
        """Make a version the default, or say that it will be when it waits no more.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: nothing was done.
        """
        try:
            with self._defaults.changing(model):
                self._registry.set_default(model, version)
                self.record.unrestored.default_chosen(model)
        except ModelVersionNotFoundError as error:
            # Here, and only here, TorchServe words it so.
            sentence = f"Model version {version} does not exist for model {model}"
            raise ModelVersionNotFoundError(model, version, sentence) from error
        if self._registry.is_waiting(model, version):
            sequence = self._registry.get(model, version).spec.sparse_sequence
            return Outcome(
                f'Version "{version}" of model "{model}" becomes the default when every embedding server has reached '
                f"sequence {sequence}",
                OutcomeState.ACCEPTED,
            )
        self.record.save_soon()
        return Outcome(f'Default version successfully updated for model "{model}" to "{version}"')

    async def scale(
        self,
        model: str,
        version: str = "",
        minimum: int = 1,
        maximum: int | None = None,
        *,
        synchronous: bool = False,
    ) -> Outcome:
        """Have at least `minimum` and at most `maximum` workers (as many as `minimum` if it is None).

        What is busy finishes first. A synchronous call returns when the minimum is ready, PARTIAL when something else
        changed the version meanwhile.

        Raises:
            InvalidInputError: `maximum` is less than `minimum`, or one is negative, or there are too many.
            ModelNotFoundError, ModelVersionNotFoundError: nothing was done.
            WorkerStartError: synchronous only.
        """
        maximum = minimum if maximum is None else maximum
        if maximum < minimum:
            raise InvalidInputError("max_worker cannot be less than min_worker.")
        if minimum < 0:
            raise InvalidInputError("min_worker cannot be less than 0.")
        check_workers(minimum)
        pool = self._registry.get(model, version).pool
        pool.scale(minimum, maximum)
        await self.record.save()
        if not synchronous:
            return _ACCEPTED
        await pool.wait_started()
        if pool.roster.count(WorkerState.READY) < minimum:
            return Outcome("Workers scaling in progress...", OutcomeState.PARTIAL)
        named = f", version: {version}" if version else ""
        return Outcome(f"Workers scaled to {minimum} for model: {model}{named}")

    async def close(self) -> None:
        """End all versions; what is still queued or running fails. Drain the callers first."""
        await self._changes.cancel()
        await self.record.close()
        await self._shards.close()
        await asyncio.gather(*(version.close() for version in self._registry.not_gone()))
        await self._builder.close()

    # ---- changes ----

    async def _register(self, parameters: RegisterParameters, at_startup: bool) -> Outcome:
        version = await self._builder.build(parameters, self._defaults.version_ready, at_startup=at_startup)
        spec = version.spec
        try:
            self._registry.add(spec.model, spec.version, version, waits_for=spec.sparse_sequence or 0)
        except VersionRegisteredError:
            await self._builder.remove(version)
            raise
        self.record.unrestored.forget(spec.model, spec.version)
        if spec.sparse_sequence:
            log.info(
                "model %r: version %s waits for sequence %d of its embeddings",
                *(spec.model, spec.version, spec.sparse_sequence),
            )
            self._shards.watch()
        registered = f'Model "{spec.model}" Version: {spec.version} registered with'
        log.info("%s %d initial workers", registered, spec.min_workers)
        version.pool.scale(spec.min_workers, spec.max_workers)
        if not parameters.synchronous or spec.min_workers == 0:
            await self.record.save()
        if spec.min_workers == 0:
            return Outcome(
                f"{registered} 0 initial workers. Use scale workers API to add workers for the model."
            )
        if not parameters.synchronous:
            return _ACCEPTED
        await self._wait_or_remove(version)
        await self.record.save()
        return Outcome(f"{registered} {spec.min_workers} initial workers")

    async def _wait_or_remove(self, version: Version) -> None:
        """Wait for the version's workers; one that cannot load its handler takes the version out again."""
        spec = version.spec
        try:
            await version.pool.wait_started()
        except WorkerStartError:
            with self._defaults.changing(spec.model):
                self._registry.discard(spec.model, spec.version, version)
            await self._remove(version)
            raise
        if version not in self._registry:
            raise WorkerStartError(spec.model, spec.version, "it was unregistered meanwhile")

    async def _drain(self, version: Version) -> Outcome:
        self.record.save_soon()
        drained = await version.drain(self._config.unregister_model_timeout_seconds)
        await self._remove(version)
        if not drained:
            raise UnregisterTimeoutError(version.spec.model)
        log.info("model %r version %s unregistered", version.spec.model, version.spec.version)
        return Outcome(f'Model "{version.spec.model}" unregistered')

    async def _remove(self, version: Version) -> None:
        await version.close()
        await self._builder.remove(version)
        self._registry.gone(version)
