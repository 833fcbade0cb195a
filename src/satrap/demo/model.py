"""The demo's model: embedding tables that only training has, and a dense part that is served as TorchScript."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satrap.demo.clicks import DENSE, SLOTS, Clicks

__all__ = ["DenseModel", "Embeddings", "predict", "train"]

_BATCH = 1024


class DenseModel(nn.Module):
    """What serving runs: dense features and embeddings in, one logit a sample out."""

    def __init__(self) -> None:
        super().__init__()
        width = DENSE + sum(slot.dim for slot in SLOTS.values())
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, dense: list[Tensor], embeddings: list[Tensor]) -> Tensor:
        """`embeddings`: `[batch, dim]` where summed; `[batch, fixed, dim + 1]` where raw, the mask last."""
        parts = [dense[0]]
        for embedding in embeddings:
            if embedding.dim() == 3:
                mask = embedding[:, :, -1:]
                embedding = (embedding[:, :, :-1] * mask).sum(1) / mask.sum(1).clamp(min=1.0)
            parts.append(embedding)
        return torch.sigmoid(self.layers(torch.cat(parts, 1)))


class Embeddings:
    """One table a slot, as a trainer without PERSIA has it."""

    def __init__(self) -> None:
        self.tables = {
            name: nn.EmbeddingBag(slot.ids, slot.dim, mode="sum" if slot.summed else "mean", sparse=True)
            for name, slot in SLOTS.items()
        }
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=0.05)

    def look_up(self, clicks: Clicks) -> list[Tensor]:
        """`[batch, dim]` for each slot, in the order of the slots."""
        return [
            table(
                torch.from_numpy(clicks.ids[name].astype(np.int64)),
                torch.from_numpy(clicks.offsets[name][:-1]),
            )
            for name, table in self.tables.items()
        ]

    def rows(self) -> dict[str, NDArray[np.float32]]:
        """Each table's weight, `[ids, dim]`."""
        return {name: table.weight.detach().numpy() for name, table in self.tables.items()}


def _chunks(clicks: Clicks, size: int) -> Iterator[Clicks]:
    for start in range(0, len(clicks), size):
        yield clicks.slice(start, min(start + size, len(clicks)))


def train(clicks: Clicks, seed: int, epochs: int) -> tuple[Embeddings, DenseModel]:
    """Fit both parts; deterministic for a seed and a number of threads."""
    torch.manual_seed(seed)
    embeddings, dense = Embeddings(), DenseModel()
    sparse_optimizer = torch.optim.SparseAdam([table.weight for table in embeddings.tables.values()], lr=0.01)
    dense_optimizer = torch.optim.Adam(dense.parameters(), lr=0.003)
    for _ in range(epochs):
        for chunk in _chunks(clicks, _BATCH):
            predicted = dense([torch.from_numpy(chunk.dense)], embeddings.look_up(chunk)).reshape(-1)
            loss = nn.functional.binary_cross_entropy(predicted, torch.from_numpy(chunk.labels))
            sparse_optimizer.zero_grad()
            dense_optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sparse_optimizer.step()  # type: ignore[no-untyped-call]
            dense_optimizer.step()
    return embeddings, dense


@torch.inference_mode()
def predict(embeddings: Embeddings, dense: DenseModel, clicks: Clicks) -> NDArray[np.float32]:
    """The offline answer: `[samples]`, in float32 throughout."""
    return np.concatenate(
        [
            dense([torch.from_numpy(chunk.dense)], embeddings.look_up(chunk)).reshape(-1).numpy()
            for chunk in _chunks(clicks, _BATCH)
        ]
    )
