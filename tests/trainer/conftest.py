"""A training job's configuration, and what embedding servers would make of what it published."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from satrap.config import EmbeddingConfig, GlobalConfig
from satrap.formats.checkpoint import open_checkpoint
from satrap.formats.manifest import Manifest, parse_manifest_name
from satrap.formats.packet import read_manifest, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import Storage, open_storage
from satrap.trainer import TrainCtx

EMBEDDING_CONFIG = EmbeddingConfig.model_validate(
    {
        "slots_config": {
            "user": {"dim": 4},
            "item": {"dim": 4},
            "tags": {"dim": 2},
            "wide": {"dim": 4, "hash_stack_config": {"hash_stack_rounds": 2, "embedding_size": 50}},
        }
    }
)

State = dict[tuple[int, int], list[float]]
"""(dim, sign) to row."""


class Published:
    """Replays what was published as a server does: in order, each packet on the one before."""

    def __init__(self, packets: Path | str, checkpoints: Path | None = None, shards: int = 1) -> None:
        self.storage: Storage = open_storage(packets)
        self.checkpoints = checkpoints
        self.shards = shards

    def manifests(self) -> list[Manifest]:
        """Packets in the order of their sequences."""
        return [
            read_manifest(self.storage, entry.name)
            for entry in self.storage.list()
            if parse_manifest_name(entry.name)
        ]

    def full(self) -> list[tuple[Manifest, State]]:
        """Checkpoints in the order of their sequences."""
        there = self.checkpoints is not None and self.checkpoints.exists()
        found = [
            (open_checkpoint(open_storage(folder)).manifest, _checkpoint_rows(folder, self.shards))
            for folder in (self.checkpoints.iterdir() if there else [])
            if any(parse_manifest_name(path.name) for path in folder.iterdir())
        ]
        return sorted(found, key=lambda one: one[0].sequence)

    def states(self) -> dict[int, State]:
        """The state at every sequence that a server can reach from nothing, or from the newest checkpoint below."""
        states: dict[int, State] = {0: {}}
        for manifest, state in self.full():
            if manifest.sequence in states:
                assert states[manifest.sequence] == state
            states[manifest.sequence] = state
            self._replay(manifest.sequence, states)
        self._replay(0, states)
        return states

    def _replay(self, applied: int, states: dict[int, State]) -> None:
        for manifest in self.manifests():
            if manifest.previous != applied:
                continue
            applied = manifest.sequence
            state = dict(states[manifest.previous])
            for shard in range(self.shards):
                for dim, signs, rows in read_shard(self.storage, manifest, ShardRoute(shard, self.shards)):
                    for index, sign in enumerate(signs.tolist()):
                        if rows is None:
                            state.pop((dim, sign), None)
                        else:
                            state[dim, sign] = rows[index].tolist()
            assert states.setdefault(applied, state) == state


def _checkpoint_rows(path: Path | str, shards: int = 1) -> State:
    """Everything in a checkpoint of ours, each sign once."""
    checkpoint = open_checkpoint(open_storage(path))
    state: State = {}
    for shard in range(shards):
        route = ShardRoute(shard, shards)
        for entry in checkpoint.entries(route):
            for dim, signs, rows in checkpoint.pages(entry, route):
                for sign, row in zip(signs.tolist(), rows.tolist(), strict=True):
                    assert (dim, sign) not in state
                    state[dim, sign] = row
    return state


def _config(buffer_size: int = 1_000_000, seconds: float = 3600.0, **trainer: Any) -> GlobalConfig:
    """A global config whose packets come by PERSIA's rule and the time rule as told."""
    return GlobalConfig.model_validate(
        {
            "embedding_parameter_server_config": {"incremental_buffer_size": buffer_size},
            "trainer": {"incremental_flush_seconds": seconds, **trainer},
        }
    )


@pytest.fixture
def config() -> Callable[..., GlobalConfig]:
    """config(buffer_size, seconds, **trainer section) -> GlobalConfig."""
    return _config


@pytest.fixture
def checkpoint_rows() -> Callable[..., State]:
    """checkpoint_rows(path, shards) -> everything in a checkpoint, by (dim, sign)."""
    return _checkpoint_rows


@pytest.fixture
def embedding_config() -> EmbeddingConfig:
    """Four features of two dims, one with a hash stack."""
    return EMBEDDING_CONFIG


def _stop(ctx: TrainCtx) -> None:
    if ctx._tracker is not None:
        ctx._tracker.close()
    ctx._writer.publisher.stop()


@pytest.fixture
def packets(tmp_path: Path) -> Path:
    return tmp_path / "packets"


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def train(packets: Path, checkpoints: Path) -> Iterator[Callable[..., TrainCtx]]:
    """train(global_config, **arguments) -> a TrainCtx that is stopped at the end, whatever it still holds."""
    with ExitStack() as stack:

        def make(global_config: GlobalConfig | None = None, **arguments: Any) -> TrainCtx:
            arguments.setdefault("directory", packets)
            arguments.setdefault("checkpoint_directory", checkpoints)
            ctx = TrainCtx(global_config or _config(), EMBEDDING_CONFIG, **arguments)
            stack.callback(_stop, ctx)
            return ctx

        yield make


@pytest.fixture
def published(packets: Path, checkpoints: Path) -> Published:
    return Published(packets, checkpoints)
