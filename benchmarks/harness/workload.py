"""The workload: a table of rows by id, and requests that ask for them.

Ids are hashes (random u64 below the prefix), as sparse features have them; within a feature they are drawn by
Zipf's law over its rows, and which row is popular is random. Everything follows from the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from satrap.batch import Batch, IdFeature, Tensor

__all__ = ["PREFIX_BITS", "Request", "Shape", "Workload"]

PREFIX_BITS = 8
"""`feature_index_prefix_bit` of the embedding config."""

_ROW_SCALE = np.float32(0.1)
_ID_LIMIT = 2 ** (64 - PREFIX_BITS) - 1


@dataclass(frozen=True)
class Shape:
    """How large a request and the table are."""

    samples: int = 128
    features: int = 3
    ids_per_sample: int = 32
    dim: int = 16
    dense: int = 32
    rows: int = 1_000_000
    zipf_exponent: float = 1.05
    distinct_requests: int = 40

    @property
    def rows_per_feature(self) -> int:
        """Rows are shared out evenly; what does not divide is left off."""
        return self.rows // self.features

    @property
    def feature_names(self) -> list[str]:
        """In the order of requests and of the embedding config."""
        return [f"feature_{index}" for index in range(self.features)]


@dataclass(frozen=True)
class Request:
    """One request: for each feature u64 ids [samples * ids_per_sample] and the rows they name; dense f32."""

    shape: Shape
    ids: NDArray[np.uint64]
    """[features, samples * ids_per_sample]"""
    row_numbers: NDArray[np.int64]
    """The same shape: where each id's row is in `Workload.rows`."""
    dense: NDArray[np.float32]
    """[samples, dense]"""

    def flat(self) -> dict[str, bytes]:
        """Bare arrays, little-endian, by input key."""
        return {"ids": self.ids.tobytes(), "dense": self.dense.tobytes()}

    def persia(self, *, dense: bool = True) -> bytes:
        """A PERSIA batch, with or without its dense tensor."""
        return self._batch(dense=dense).to_bytes()

    def arrow(self) -> bytes:
        """The same as an Arrow stream."""
        return self._batch(dense=True).to_arrow()

    def _batch(self, *, dense: bool) -> Batch:
        shape = self.shape
        offsets = np.arange(shape.samples + 1, dtype=np.uint32) * np.uint32(shape.ids_per_sample)
        return Batch(
            id_features=[
                IdFeature(name, ids, offsets) for name, ids in zip(shape.feature_names, self.ids, strict=True)
            ],
            non_id_features=[Tensor(self.dense, "dense")] if dense else [],
            labels=[],
            meta=None,
            requires_grad=False,
            batch_id=None,
        )


class Workload:
    """The table and the requests. Immutable once made."""

    def __init__(self, shape: Shape, seed: int) -> None:
        """Make keys, rows and requests from the seed alone."""
        self.shape, self.seed = shape, seed
        random = np.random.default_rng(seed)
        count = shape.rows_per_feature
        self.keys: NDArray[np.uint64] = np.stack(
            [_distinct_ids(random, count) for _ in range(shape.features)]
        )
        """[features, rows per feature], ascending within a feature."""
        self.rows: NDArray[np.float32] = _ROW_SCALE * random.standard_normal(
            (shape.features * count, shape.dim), dtype=np.float32
        )
        """[features * rows per feature, dim]: feature by feature, in the order of `keys`."""
        popular = [random.permutation(count) for _ in range(shape.features)]
        ranks = _Zipf(count, shape.zipf_exponent)
        self.requests = [self._request(random, popular, ranks) for _ in range(shape.distinct_requests)]

    def _request(
        self, random: np.random.Generator, popular: Sequence[NDArray[np.int64]], ranks: "_Zipf"
    ) -> Request:
        shape = self.shape
        per_feature = shape.samples * shape.ids_per_sample
        chosen = [order[ranks.draw(random, per_feature)] for order in popular]
        return Request(
            shape=shape,
            ids=np.stack([keys[rows] for keys, rows in zip(self.keys, chosen, strict=True)]),
            row_numbers=np.stack([rows + i * shape.rows_per_feature for i, rows in enumerate(chosen)]),
            dense=random.standard_normal((shape.samples, shape.dense), dtype=np.float32),
        )

    @cached_property
    def signs(self) -> NDArray[np.uint64]:
        """[rows] the keys as PERSIA stores them: with the feature's prefix, each slot being its own group."""
        prefixes = np.arange(1, self.shape.features + 1, dtype=np.uint64) << np.uint64(64 - PREFIX_BITS)
        return (self.keys + prefixes[:, None]).reshape(-1)

    def pooled(self, request: Request) -> list[NDArray[np.float32]]:
        """For each feature the sums that a lookup should answer, f32 [samples, dim]."""
        shape = self.shape
        return [
            self.rows[numbers].reshape(shape.samples, shape.ids_per_sample, shape.dim).sum(axis=1)
            for numbers in request.row_numbers
        ]


def _distinct_ids(random: np.random.Generator, count: int) -> NDArray[np.uint64]:
    ids = np.unique(random.integers(0, _ID_LIMIT, size=count + count // 100 + 10, dtype=np.uint64))
    return np.sort(random.choice(ids, size=count, replace=False))


class _Zipf:
    """Ranks 0, 1, ... drawn with probability proportional to (rank + 1) ** -exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
        self._cumulative = np.cumsum(weights) / weights.sum()

    def draw(self, random: np.random.Generator, size: int) -> NDArray[np.int64]:
        ranks = np.searchsorted(self._cumulative, random.random(size), side="right")
        return np.minimum(ranks, len(self._cumulative) - 1)
