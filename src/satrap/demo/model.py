"""The demo's model: embedding tables that only training has, and a dense part that is served as TorchScript."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from satrap.demo.clicks import DENSE, SLOTS, Clicks

__all__ = ["DenseModel", "Embeddings", "Trainer"]

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


class Trainer:
    """Both parts with their optimizers, deterministic for a seed and a number of threads. One thread at a time."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.embeddings, self.dense = Embeddings(), DenseModel()
        self._sparse = torch.optim.SparseAdam(
            [table.weight for table in self.embeddings.tables.values()], lr=0.01
        )
        self._dense = torch.optim.Adam(self.dense.parameters(), lr=0.003)

    def learn(self, clicks: Clicks) -> None:
        """One step on all of `clicks`."""
        predicted = self.dense([torch.from_numpy(clicks.dense)], self.embeddings.look_up(clicks)).reshape(-1)
        loss = nn.functional.binary_cross_entropy(predicted, torch.from_numpy(clicks.labels))
        self._sparse.zero_grad()
        self._dense.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._sparse.step()  # type: ignore[no-untyped-call]
        self._dense.step()

    @torch.inference_mode()
    def predict(self, clicks: Clicks) -> NDArray[np.float32]:
        """The offline answer: `[samples]`, in float32 throughout."""
        return np.concatenate(
            [
                self.dense([torch.from_numpy(chunk.dense)], self.embeddings.look_up(chunk))
                .reshape(-1)
                .numpy()
                for chunk in clicks.chunks(_BATCH)
            ]
        )
