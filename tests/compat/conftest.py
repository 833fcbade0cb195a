"""PERSIA's and TorchServe's names in this process, and a lookup without servers behind them."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from satrap.compat.shims_path import SHIMS
from satrap.middleware import Embedding, RawEmbedding, SumEmbedding


def _forget_shims() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("persia", "ts", "base_handler")]:
        del sys.modules[name]


@pytest.fixture
def shims(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import persia` and `import ts` find satrap's, as in a worker."""
    _forget_shims()
    monkeypatch.syspath_prepend(SHIMS)
    yield
    _forget_shims()


class ArithmeticLookup:
    """The row of an id is the id itself, `dim` times. A feature named `raw...` is raw, the others are summed."""

    def __init__(self, addresses: Sequence[str], dim: int = 4, sample_fixed_size: int = 3) -> None:
        self.addresses, self.dim, self.sample_fixed_size = list(addresses), dim, sample_fixed_size
        self.closed = False
        self.waited: list[float] = []

    def wait_ready(self, timeout: float) -> None:
        self.waited.append(timeout)

    def close(self) -> None:
        self.closed = True

    def lookup(self, batch: Any) -> list[Embedding]:
        found: list[Embedding] = []
        for place, name in enumerate(batch.feature_names):
            _, values, offsets = batch.id_feature(place)
            samples = np.split(values, offsets[1:-1].astype(int))
            found.append(self._raw(name, samples) if name.startswith("raw") else self._summed(name, samples))
        return found

    def _summed(self, name: str, samples: Sequence[np.ndarray]) -> SumEmbedding:
        rows = np.array([[sample.sum()] * self.dim for sample in samples], np.float16)
        return SumEmbedding(name=name, dim=self.dim, values=rows)

    def _raw(self, name: str, samples: Sequence[np.ndarray]) -> RawEmbedding:
        distinct = np.unique(np.concatenate(samples))
        values = np.zeros((len(distinct) + 1, self.dim), np.float16)
        values[1:] = distinct[:, None]
        index = np.zeros((len(samples), self.sample_fixed_size), np.int64)
        for row, sample in zip(index, samples, strict=True):
            taken = sample[: self.sample_fixed_size]
            row[: len(taken)] = np.searchsorted(distinct, taken) + 1
        return RawEmbedding(
            name=name,
            dim=self.dim,
            values=values,
            index=index,
            sample_id_num=(index != 0).sum(1).astype(np.uint64),
            sample_fixed_size=self.sample_fixed_size,
        )


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[ArithmeticLookup]:
    """Every lookup that PERSIA's names open, in order."""
    from satrap.compat import context, embedding_client

    opened: list[ArithmeticLookup] = []

    def open_lookup(addresses: Sequence[str], environ: object) -> ArithmeticLookup:
        opened.append(ArithmeticLookup(addresses))
        return opened[-1]

    monkeypatch.setattr(context, "open_lookup", open_lookup)
    monkeypatch.setattr(embedding_client, "open_lookup", open_lookup)
    return opened
