"""From a trainer's commit to the served answer, with real servers: packets, deletes, dense models, and going on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from satrap.client import IDTypeFeatureWithSingleID, InferenceClient, ManagementClient, PersiaBatch
from satrap.trainer import TrainCtx

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]

SECONDS = 30.0
EMBEDDING_CONFIG = "slots_config: {user: {dim: 2}, item: {dim: 4}}\n"


class Total(torch.nn.Module):
    """The sum of the embeddings, times what was trained last."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return self.factor * torch.cat(embeddings, 1).float().sum(1)


class Deployment:
    """Two shards and serving that follow a folder's packets and checkpoints, and a trainer's way to them."""

    def __init__(self, folder: Path, satrap: Callable[..., Any]) -> None:
        self.folder = folder
        (folder / "store").mkdir()
        (folder / "packets").mkdir()
        (folder / "checkpoints").mkdir()
        (folder / "embedding_config.yml").write_text(EMBEDDING_CONFIG)
        (folder / "global_config.yaml").write_text(
            f"""
            common_config: {{infer_config: {{servers: [], embedding_checkpoint: {folder}/checkpoints}}}}
            updates: {{directory: {folder}/packets, poll_seconds: 0.1}}
            trainer: {{num_shards: 2, incremental_flush_seconds: 0.05}}
            """
        )
        self.configs = (folder / "global_config.yaml", folder / "embedding_config.yml")
        with TrainCtx(*self.configs) as ctx:  # servers want a checkpoint to start from
            ctx.commit("user", [1], np.zeros((1, 2), np.float32))
            self.first_checkpoint = ctx.dump().url
        running = satrap(
            *("up", "--global-config", self.configs[0], "--embedding-config", self.configs[1]),
            *("--model-store", folder / "store", "--shards", "2"),
            *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
        )
        self.inference, self.management = running.addresses[:2]

    def dump_dense(self, ctx: TrainCtx, factor: float, version: str) -> None:
        ctx.dump_dense(
            Total(factor),
            self.folder / "store" / f"total_{version}.mar",
            model_name="total",
            version=version,
            register=self.management,
            set_default=True,
        )

    def answer(self, client: InferenceClient, ids: list[int]) -> list[float]:
        batch = PersiaBatch(
            [
                IDTypeFeatureWithSingleID("user", np.array(ids, np.uint64)),
                IDTypeFeatureWithSingleID("item", np.array(ids, np.uint64)),
            ],
            requires_grad=False,
        )
        return [float(value) for value in client.infer("total", batch)]

    def await_answer(self, client: InferenceClient, ids: list[int], expected: list[float]) -> None:
        until = time.monotonic() + SECONDS
        while (answer := self.answer(client, ids)) != expected:
            assert time.monotonic() < until, f"{answer}, not {expected}"


@pytest.fixture
def deployment(tmp_path: Path, satrap: Callable[..., Any]) -> Deployment:
    return Deployment(tmp_path, satrap)


def test_from_commits_to_answers(deployment: Deployment) -> None:
    first = TrainCtx(*deployment.configs)
    first.load(deployment.first_checkpoint)
    first.commit("user", [1, 2, 3], np.array([[1, 0], [2, 0], [3, 0]], np.float32))
    deployment.dump_dense(first, 1.0, "1")
    with InferenceClient(deployment.inference) as client:
        # The version answers from the sequence on that has these rows: at its first answer they are there.
        deployment.await_answer(client, [1, 2, 3], [1.0, 2.0, 3.0])
        first.commit("item", [2], np.full((1, 4), 10, np.float32))
        first.delete("user", [3])
        deployment.await_answer(client, [1, 2, 3], [1.0, 42.0, 0.0])
        first.commit("user", [4], np.array([[5, 5]], np.float32))
        deployment.dump_dense(first, 10.0, "2")
        deployment.await_answer(client, [1, 2, 3, 4], [10.0, 420.0, 0.0, 100.0])
        with ManagementClient(deployment.management) as management:
            assert management.describe("total")[0].version == "2"

        # A trainer that goes on from before all that: servers take its state for theirs, not a mixture.
        first._writer.publisher.stop()
        with TrainCtx(*deployment.configs) as second:
            second.load(deployment.first_checkpoint)
            second.commit("user", [2], np.array([[7, 0]], np.float32))
            deployment.await_answer(client, [1, 2, 3, 4], [0.0, 70.0, 0.0, 0.0])
            second.commit("user", [3], np.array([[9, 0]], np.float32))
            deployment.await_answer(client, [1, 2, 3, 4], [0.0, 70.0, 90.0, 0.0])
