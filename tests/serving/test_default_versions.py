"""When a model's default changes by itself, and what goes with it."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from satrap.config.global_config import ModelConfig
from satrap.serving.default_versions import DefaultVersions
from satrap.serving.registry import Registry
from satrap.serving.sparse_gate import ShardProgress


@dataclass(eq=False)
class FakeVersion:
    """A version without workers: it has requests that named no version, and says how many workers are ready."""

    version: str
    waiting: int = 0
    ready: int = 1
    spec: Any = field(init=False)
    pool: Any = field(init=False)

    def __post_init__(self) -> None:
        self.spec = SimpleNamespace(
            model="m", version=self.version, name=f"m {self.version}", sparse_sequence=None
        )
        self.pool = SimpleNamespace(roster=SimpleNamespace(count=lambda state: self.ready))

    def hand_over(self, other: "FakeVersion") -> int:
        moved, self.waiting = self.waiting, 0
        other.waiting += moved
        return moved


@dataclass
class Parts:
    """A registry of fakes, the decisions about its defaults, and how often one was made."""

    newest_is_default: bool
    registry: Registry[Any] = field(default_factory=Registry)
    changes: int = 0
    defaults: DefaultVersions = field(init=False)

    def __post_init__(self) -> None:
        config = ModelConfig(default_version="newest" if self.newest_is_default else "explicit")
        self.defaults = DefaultVersions(self.registry, lambda model: config, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def add(self, version: FakeVersion, waits_for: int = 0) -> FakeVersion:
        version.spec.sparse_sequence = waits_for or None
        self.registry.add("m", version.version, version, waits_for=waits_for)
        return version


def shard(sequence: int | None) -> ShardProgress:
    return ShardProgress(0, "here", sequence)


@pytest.mark.parametrize("newest", [False, True], ids=["by hand", "newest"])
def test_a_version_that_is_ready_becomes_the_default_where_the_newest_should(newest: bool) -> None:
    parts = Parts(newest)
    first, second = parts.add(FakeVersion("1", waiting=3)), parts.add(FakeVersion("2", waiting=1))
    parts.defaults.version_ready(second)
    assert parts.registry.default("m") == ("2" if newest else "1")
    assert (first.waiting, second.waiting) == ((0, 4) if newest else (3, 1)), "what named none goes with it"
    parts.defaults.version_ready(second)
    assert parts.changes == newest, "the second worker changes nothing"


def test_what_waits_goes_on_only_where_the_default_changed() -> None:
    parts = Parts(newest_is_default=False)
    first, second = parts.add(FakeVersion("1", waiting=2)), parts.add(FakeVersion("2"))
    with parts.defaults.changing("m"):
        pass
    with parts.defaults.changing("no such model"):
        pass
    assert (first.waiting, second.waiting) == (2, 0)
    with parts.defaults.changing("m"):
        parts.registry.set_default("m", "2")
    assert (first.waiting, second.waiting, parts.changes) == (0, 2, 0)


def test_a_version_answers_and_is_the_default_when_its_sequence_is_everywhere() -> None:
    parts = Parts(newest_is_default=False)
    first = parts.add(FakeVersion("1", waiting=2))
    second = parts.add(FakeVersion("2"), waits_for=7)
    parts.add(FakeVersion("3"), waits_for=9)
    parts.registry.set_default("m", "2")
    assert parts.defaults.shards_said([shard(7), shard(6)])
    assert parts.defaults.shards_said([shard(7), shard(None)])
    assert (parts.registry.default("m"), parts.changes) == ("1", 0)
    assert parts.defaults.shards_said([shard(7), shard(8)]), "another one still waits"
    assert (parts.registry.default("m"), parts.changes) == ("2", 1)
    assert (first.waiting, second.waiting) == (0, 2)
    assert not parts.defaults.shards_said([shard(9), shard(9)])
    assert (parts.registry.default("m"), parts.changes) == ("2", 1), "nobody chose version 3"


@pytest.mark.parametrize("ready", [0, 1], ids=["loading", "ready"])
def test_the_newest_that_waited_is_the_default_at_once_if_it_is_ready(ready: int) -> None:
    parts = Parts(newest_is_default=True)
    parts.add(FakeVersion("1"))
    parts.add(FakeVersion("2", ready=ready), waits_for=7)
    parts.defaults.shards_said([shard(7)])
    assert parts.registry.default("m") == ("2" if ready else "1")
