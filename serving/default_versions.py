"""When a model gets another default version by itself, and what follows from any change of the default.

The registry decides which version it is; here are the two events that make it decide (a worker is ready, the shards
have reached a sequence), and what goes with a new default: the requests that wait for it.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from satrap.config.global_config import ModelConfig
from satrap.serving.registry import Registry
from satrap.serving.roster import WorkerState
from satrap.serving.sparse_gate import ShardProgress, everywhere
from satrap.serving.version import Version

__all__ = ["DefaultVersions"]

log = logging.getLogger("satrap.serving")


class DefaultVersions:
    """Changes defaults in a registry. Belongs to the frontend's event loop, and never waits."""

    def __init__(
        self,
        registry: Registry[Version],
        config_of: Callable[[str], ModelConfig],
        on_change: Callable[[], None],
    ) -> None:
        """`config_of` tells what the configuration says of a model; `on_change`: a default changed by an event."""
        self._registry, self._config_of, self._on_change = registry, config_of, on_change

    @contextlib.contextmanager
    def changing(self, model: str) -> Iterator[None]:
        """If the block changes the default, what waits and named no version goes on with the new one."""
        before = self._registry.find_default(model)
        yield
        after = self._registry.find_default(model)
        if before is not None and after is not None and before is not after:
            count = before.hand_over(after)
            if count:
                log.info(
                    "model %r: %d waiting requests go to the new default %s", model, count, after.spec.name
                )

    def version_ready(self, version: Version) -> None:
        """One of its workers is ready: it is the default now, if the configuration wants the newest to be."""
        spec = version.spec
        if self._config_of(spec.model).default_version != "newest":
            return
        with self.changing(spec.model):
            changed = self._registry.became_ready(spec.model, spec.version, version)
        if changed:
            log.info("model %r: version %s is ready and is the default now", spec.model, spec.version)
            self._on_change()

    def shards_said(self, progress: Sequence[ShardProgress]) -> bool:
        """Let versions answer whose sequence is everywhere; returns whether others still wait."""
        with contextlib.ExitStack() as changing:
            for model in self._registry.models():
                changing.enter_context(self.changing(model))
            reached = self._registry.reached(everywhere(progress))
        for model, version_name, version, became_default in reached:
            log.info(
                "model %r: every embedding server has reached sequence %s: version %s answers%s",
                *(model, version.spec.sparse_sequence, version_name),
                " and is the default now" if became_default else "",
            )
            if version.pool.roster.count(WorkerState.READY):
                self.version_ready(version)
        if any(each.became_default for each in reached):
            self._on_change()
        return self._registry.anything_waits()
