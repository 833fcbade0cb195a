"""What can be done with models, without a protocol: predict, register, unregister, scale, set default, describe.

The gRPC and REST faces translate calls into these methods and these errors into statuses. Everything
belongs to the frontend's event loop. A change that was begun is carried through even if its caller goes away.
"""

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from satrap.errors import (
    InvalidInputError,
    ModelApiDisabledError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    NoDescribeWorkerError,
    NoDescriptionError,
    NoWorkerError,
    SatrapError,
    UnregisterTimeoutError,
    VersionRegisteredError,
    WorkerStartError,
)
from satrap.serving.description import describe_version, state_of
from satrap.serving.forks import Template
from satrap.serving.headers import DESCRIBE_HEADER
from satrap.serving.metrics.definitions import Definition
from satrap.serving.metrics.live import LiveVersion
from satrap.serving.observer import Ignore, Observer
from satrap.serving.outcome import Outcome, OutcomeState
from satrap.serving.query import Query
from satrap.serving.registry import Registry
from satrap.serving.request import OK, Prediction
from satrap.serving.roster import WorkerState
from satrap.serving.settings import ServingSettings
from satrap.serving.shard_watch import ShardWatch
from satrap.serving.snapshot import Snapshot, SnapshotKind, VersionState
from satrap.serving.snapshot_files import SnapshotFiles
from satrap.serving.sparse_gate import ShardProgress, everywhere
from satrap.serving.unrestored import Unrestored
from satrap.serving.version import Version
from satrap.serving.version_builder import VersionBuilder
from satrap.serving.version_spec import RegisterParameters, check_workers

__all__ = ["ModelService"]

log = logging.getLogger("satrap.serving")

MAX_LISTED = 100

_ACCEPTED = Outcome("Processing worker updates...", OutcomeState.ACCEPTED)

T = TypeVar("T")


def _snapshot_folder(settings: ServingSettings) -> Path | None:
    if settings.config.snapshot_directory is not None:
        return Path(settings.config.snapshot_directory)
    return settings.model_store / ".satrap" if settings.model_store is not None else None


class ModelService:
    """All models of one server."""

    def __init__(
        self,
        settings: ServingSettings,
        template: Template,
        observer: Observer | None = None,
        metrics: Sequence[Definition] = (),
    ) -> None:
        """Start nothing; `observer` is told about every request, `metrics` are declared to handlers.

        Raises:
            ConfigError: one of `serving.allowed_urls` is no regular expression.
        """
        self._template, self._config = template, settings.config
        self._builder = VersionBuilder(settings, template, observer or Ignore(), metrics)
        self.store = self._builder.store
        self._registry: Registry[Version] = Registry()
        self._shards = ShardWatch(settings.shard_addresses, self._shards_said, settings.shard_tls)
        self.snapshots = SnapshotFiles(
            _snapshot_folder(settings), settings.properties, is_written=settings.write_snapshots
        )
        self._unrestored = Unrestored()
        self._is_started = False
        self._draining: set[Version] = set()
        self._changes: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Start the template and make the working directory.

        Raises:
            UnavailableError: the template cannot be used.
        """
        await self._builder.open()
        await self._template.start()

    async def started(self) -> None:
        """What was to be registered at the start is: from now on every change is written down."""
        self._is_started = True
        await self._save("startup")

    def keep_unrestored(self, model: str, state: VersionState) -> None:
        """Go on writing down a version that could not be registered, until it is, or is unregistered."""
        self._unrestored.add(model, state)

    async def wait_started(self, model: str, version: str) -> None:
        """Wait until the version's workers are ready.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
            WorkerStartError: one could not load its handler; it is tried again.
        """
        await self._registry.get(model, version).wait_started()

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
        return await self._carry_through(self._register(parameters, at_startup))

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
            if not self._unrestored.forget(model, version):
                raise
            await self._save()
            return Outcome(f'Model "{model}" unregistered')
        self._draining.add(removed)
        return await self._carry_through(self._drain(removed))

    def set_default(self, model: str, version: str) -> Outcome:
        """Make a version the default, or say that it will be when it waits no more.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: nothing was done.
        """
        try:
            with self._default_changing(model):
                self._registry.set_default(model, version)
                self._unrestored.default_chosen(model)
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
        self._save_soon()
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
        scaled = self._registry.get(model, version)
        scaled.scale(minimum, maximum)
        await self._save()
        if not synchronous:
            return _ACCEPTED
        await scaled.wait_started()
        if scaled.roster.count(WorkerState.READY) < minimum:
            return Outcome("Workers scaling in progress...", OutcomeState.PARTIAL)
        named = f", version: {version}" if version else ""
        return Outcome(f"Workers scaled to {minimum} for model: {model}{named}")

    async def describe(
        self, model: str, version: str = "", *, customized: bool = False
    ) -> list[dict[str, Any]]:
        """TorchServe's description of the named version, the default one, or `all`.

        Of versions that need a sequence of their embeddings it also says how far the shards are, which are asked.
        `customized` asks a worker of the one version for its handler's own description as well.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
            NoDescribeWorkerError: `customized`, and no worker will answer soon.
            NoDescriptionError: `customized`, and the handler failed.
        """
        metadata: dict[str, Any] = {}
        if customized and version != "all":
            metadata = {"customizedMetadata": await self._ask_handler(model, version)}
        progress: Sequence[ShardProgress] = ()
        if any(each.spec.sparse_sequence for each in self._named(model, version)):
            progress = await self._shards.ask()
            self._shards_said(progress)
        return [
            describe_version(
                each,
                progress,
                is_waiting=self._registry.is_waiting(model, each.spec.version),
                becomes_default=self._registry.next_default(model) == each.spec.version,
            )
            | metadata
            for each in self._named(model, version)
        ]

    async def _ask_handler(self, model: str, version: str) -> dict[str, Any]:
        """What the handler says of itself; nothing of it counts that is not a dict, as in TorchServe."""
        query = Query(model, version, {}, headers={DESCRIBE_HEADER: "True"})
        try:
            answer = await self._registry.get(model, version).predict(query)
        except NoWorkerError as error:
            raise NoDescribeWorkerError(model) from error
        if answer.code != OK:
            raise NoDescriptionError(model, answer.value.decode("utf-8", "replace"))
        try:
            described = json.loads(answer.value)
        except ValueError:
            described = None
        if not isinstance(described, dict):
            log.warning("model %r: the handler's description of itself is not a dict, and left out", model)
            return {}
        return described

    def _named(self, model: str, version: str) -> list[Version]:
        if version == "all":
            return self._registry.versions(model)
        return [self._registry.get(model, version)]

    def has_workers(self, model: str, version: str = "") -> bool:
        """Whether the version has workers at all, ready or not, which is what KServe's API calls ready.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
        """
        return bool(self._registry.get(model, version).roster.workers())

    def list_models(self, limit: int = MAX_LISTED, page: int = 0) -> dict[str, Any]:
        """The models by name, `limit` from place `page` on, with their default versions' urls.

        As in TorchServe a limit below 0 or above 100 means 100, and a page below 0 means the first.
        """
        limit = limit if 0 <= limit <= MAX_LISTED else MAX_LISTED
        start = max(page, 0)
        names = self._registry.models()
        listed = [
            {"modelName": name, "modelUrl": self._registry.get(name).spec.url}
            for name in names[start : start + limit]
        ]
        more = {"nextPageToken": str(start + limit)} if start + limit <= len(names) else {}
        return {**more, "models": listed}

    def is_healthy(self) -> bool:
        """Every model's default version has its workers, as TorchServe's Ping counts them."""
        return all(self._registry.get(model).is_healthy() for model in self._registry.models())

    def startup_models(self) -> list[str]:
        """The names of the models that are registered since the start, sorted."""
        return sorted({version.spec.model for version in self._registry if version.spec.loaded_at_startup})

    def model_count(self) -> int:
        """How many models are registered."""
        return len(self._registry.models())

    def live_versions(self) -> list[LiveVersion]:
        """Every version that is there, those that drain among them."""
        return [
            LiveVersion(
                version.spec.model,
                version.spec.version,
                version.pending,
                Counter(worker.state for worker in version.roster.workers()),
                [worker.number for worker in version.roster.workers()],
            )
            for version in {*self._registry, *self._draining}
        ]

    async def close(self) -> None:
        """End all versions; what is still queued or running fails. Drain the callers first."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._save("shutdown")
        await asyncio.to_thread(self.snapshots.close)
        self._is_started = False
        await self._shards.close()
        await asyncio.gather(*(version.close() for version in {*self._registry, *self._draining}))
        await self._builder.close()

    # ---- changes ----

    async def _register(self, parameters: RegisterParameters, at_startup: bool) -> Outcome:
        version = await self._builder.build(parameters, self._version_ready, at_startup=at_startup)
        spec = version.spec
        try:
            self._registry.add(spec.model, spec.version, version, waits_for=spec.sparse_sequence or 0)
        except VersionRegisteredError:
            await self._builder.remove(version)
            raise
        self._unrestored.forget(spec.model, spec.version)
        if spec.sparse_sequence:
            log.info(
                "model %r: version %s waits for sequence %d of its embeddings",
                *(spec.model, spec.version, spec.sparse_sequence),
            )
            self._shards.watch()
        registered = f'Model "{spec.model}" Version: {spec.version} registered with'
        log.info("%s %d initial workers", registered, spec.min_workers)
        version.scale(spec.min_workers, spec.max_workers)
        if not parameters.synchronous or spec.min_workers == 0:
            await self._save()
        if spec.min_workers == 0:
            return Outcome(
                f"{registered} 0 initial workers. Use scale workers API to add workers for the model."
            )
        if not parameters.synchronous:
            return _ACCEPTED
        try:
            await version.wait_started()
        except WorkerStartError:
            with self._default_changing(spec.model):
                self._registry.discard(spec.model, spec.version, version)
            await self._remove(version)
            raise
        if version not in self._registry:
            raise WorkerStartError(spec.model, spec.version, "it was unregistered meanwhile")
        await self._save()
        return Outcome(f"{registered} {spec.min_workers} initial workers")

    async def _drain(self, version: Version) -> Outcome:
        self._save_soon()
        drained = await version.drain(self._config.unregister_model_timeout_seconds)
        await self._remove(version)
        if not drained:
            raise UnregisterTimeoutError(version.spec.model)
        log.info("model %r version %s unregistered", version.spec.model, version.spec.version)
        return Outcome(f'Model "{version.spec.model}" unregistered')

    async def _remove(self, version: Version) -> None:
        self._draining.add(version)
        await version.close()
        await self._builder.remove(version)
        self._draining.discard(version)

    def _shards_said(self, progress: Sequence[ShardProgress]) -> bool:
        """Let versions answer whose sequence is everywhere; returns whether others still wait."""
        with contextlib.ExitStack() as changing:
            for model in self._registry.models():
                changing.enter_context(self._default_changing(model))
            reached = self._registry.reached(everywhere(progress))
        for model, version_name, version, became_default in reached:
            log.info(
                "model %r: every embedding server has reached sequence %s: version %s answers%s",
                *(model, version.spec.sparse_sequence, version_name),
                " and is the default now" if became_default else "",
            )
            if version.roster.count(WorkerState.READY):
                self._version_ready(version)
        if any(each.became_default for each in reached):
            self._save_soon()
        return self._registry.anything_waits()

    def _version_ready(self, version: Version) -> None:
        spec = version.spec
        if self._builder.model_config(spec.model).default_version != "newest":
            return
        with self._default_changing(spec.model):
            changed = self._registry.became_ready(spec.model, spec.version, version)
        if changed:
            log.info("model %r: version %s is ready and is the default now", spec.model, spec.version)
            self._save_soon()

    @contextlib.contextmanager
    def _default_changing(self, model: str) -> Iterator[None]:
        """If the block changes the default, what waits and named no version goes on with the new one."""
        before = self._registry.find_default(model)
        yield
        after = self._registry.find_default(model)
        if before is not None and after is not None and before is not after:
            count = before.hand_over(after)
            if count:
                log.info("model %r: %d waiting requests go to the new default %s", model, count, after.name)

    async def _save(self, kind: SnapshotKind = "snapshot") -> None:
        """Write down what is registered, once that is complete."""
        if self._is_started:
            await self.snapshots.save(self._snapshot(), kind)

    def _save_soon(self) -> None:
        if not self._is_started:
            return
        task = asyncio.get_running_loop().create_task(self._save())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    def _snapshot(self) -> Snapshot:
        registered = {
            model: [
                state_of(version, is_default=version is self._registry.find_default(model))
                for version in self._registry.versions(model)
            ]
            for model in self._registry.models()
        }
        return self._unrestored.added_to(Snapshot(registered))

    async def _carry_through(self, change: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise


def _log_failure(change: asyncio.Task[Any]) -> None:
    """Of a change whose caller went away: nobody else is told."""
    if change.cancelled() or (error := change.exception()) is None:
        return
    if isinstance(error, SatrapError):
        log.error("a change whose caller went away failed: %s", error)
    else:
        log.error("a change whose caller went away failed", exc_info=error)
