"""Click data with zipf ids and a planted signal: every id has a weight, and the weights decide the clicks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satrap.client import IDTypeFeature, IDTypeFeatureWithSingleID, Label, NonIDTypeFeature, PersiaBatch

__all__ = ["DENSE", "HISTORY_SIZE", "SLOTS", "Clicks", "embedding_config_text", "make_clicks"]

DENSE = 8
"""Dense features of a sample."""
HISTORY_SIZE = 10
"""`sample_fixed_size` of the raw feature."""


@dataclass(frozen=True)
class Slot:
    """One id feature: how many ids there are, floats in a row, most ids in a sample, summed or raw."""

    ids: int
    dim: int
    most: int
    summed: bool = True


SLOTS: Mapping[str, Slot] = {
    "user": Slot(ids=20_000, dim=16, most=1),
    "item": Slot(ids=5_000, dim=16, most=1),
    "tags": Slot(ids=500, dim=8, most=6),
    "history": Slot(ids=5_000, dim=16, most=HISTORY_SIZE, summed=False),
}

_ZIPF = 1.05


@dataclass(frozen=True)
class Clicks:
    """Samples in order. `ids[slot]` and `offsets[slot]` are CSR: u64 ids, and where each sample's begin."""

    dense: NDArray[np.float32]
    ids: Mapping[str, NDArray[np.uint64]]
    offsets: Mapping[str, NDArray[np.int64]]
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def slice(self, start: int, stop: int) -> "Clicks":
        """The samples of `[start, stop)`."""
        ids, offsets = {}, {}
        for name, every in self.offsets.items():
            ids[name] = self.ids[name][every[start] : every[stop]]
            offsets[name] = every[start : stop + 1] - every[start]
        return Clicks(self.dense[start:stop], ids, offsets, self.labels[start:stop])

    def chunks(self, size: int) -> "Iterator[Clicks]":
        """The samples in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.slice(start, min(start + size, len(self)))

    def batch(self) -> PersiaBatch:
        """The samples as PERSIA's clients send them."""
        features: list[IDTypeFeature | IDTypeFeatureWithSingleID] = []
        for name, slot in SLOTS.items():
            if slot.most == 1:
                features.append(IDTypeFeatureWithSingleID(name, self.ids[name]))
            else:
                features.append(IDTypeFeature(name, np.split(self.ids[name], self.offsets[name][1:-1])))
        return PersiaBatch(
            features,
            non_id_type_features=[NonIDTypeFeature(self.dense, name="dense")],
            labels=[Label(self.labels.reshape(-1, 1))],
            requires_grad=False,
        )


def make_clicks(samples: int, seed: int) -> Clicks:
    """`samples` samples, reproducible from `seed`."""
    random = np.random.default_rng(seed)
    dense = random.standard_normal((samples, DENSE)).astype(np.float32)
    score = dense @ (random.standard_normal(DENSE) * 0.3)
    ids, offsets = {}, {}
    for name, slot in SLOTS.items():
        counts = np.ones(samples, np.int64) if slot.most == 1 else random.integers(0, slot.most + 1, samples)
        offsets[name] = np.concatenate([[0], np.cumsum(counts)])
        drawn = random.choice(slot.ids, size=int(counts.sum()), p=_zipf(slot.ids))
        weights = random.standard_normal(slot.ids)
        totals = np.bincount(np.repeat(np.arange(samples), counts), weights[drawn], samples)
        score += totals / np.sqrt(np.maximum(counts, 1))
        ids[name] = drawn.astype(np.uint64)
    labels = (random.random(samples) < 1 / (1 + np.exp(-score))).astype(np.float32)
    return Clicks(dense, ids, offsets, labels)


def _zipf(n: int) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.arange(1, n + 1, dtype=np.float64) ** -_ZIPF
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def embedding_config_text() -> str:
    """The embedding_config.yml of these features."""
    lines = ["feature_index_prefix_bit: 8", "slots_config:"]
    for name, slot in SLOTS.items():
        lines += [f"  {name}:", f"    dim: {slot.dim}"]
        if not slot.summed:
            lines += ["    embedding_summation: false", f"    sample_fixed_size: {slot.most}"]
    return "\n".join(lines) + "\n"
