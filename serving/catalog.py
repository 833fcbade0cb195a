"""What there is: the models, their versions and workers, as callers and metrics are told. Changes nothing."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from satrap.errors import NoDescribeWorkerError, NoDescriptionError, NoWorkerError
from satrap.serving.default_versions import DefaultVersions
from satrap.serving.description import describe_version
from satrap.serving.headers import DESCRIBE_HEADER
from satrap.serving.metrics.live import LiveVersion
from satrap.serving.query import Query
from satrap.serving.registry import Registry
from satrap.serving.request import OK
from satrap.serving.shard_watch import ShardWatch
from satrap.serving.sparse_gate import ShardProgress
from satrap.serving.version import Version

__all__ = ["Catalog"]

log = logging.getLogger("satrap.serving")

MAX_LISTED = 100


class Catalog:
    """Tells what is registered. Belongs to the frontend's event loop."""

    def __init__(self, registry: Registry[Version], shards: ShardWatch, defaults: DefaultVersions) -> None:
        """Tell of that registry; `shards` are asked of versions that need a sequence, and `defaults` hears it too."""
        self._registry, self._shards, self._defaults = registry, shards, defaults

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
            self._defaults.shards_said(progress)
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

    def has_workers(self, model: str, version: str = "") -> bool:
        """Whether the version has workers at all, ready or not, which is what KServe's API calls ready.

        Raises:
            ModelNotFoundError, ModelVersionNotFoundError: there is none of that name.
        """
        return bool(self._registry.get(model, version).pool.roster.workers())

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
        return all(self._registry.get(model).pool.is_healthy() for model in self._registry.models())

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
                Counter(worker.state for worker in version.pool.roster.workers()),
                [worker.number for worker in version.pool.roster.workers()],
            )
            for version in self._registry.not_gone()
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
