"""What a lookup answers: one embedding per feature, as PERSIA's worker has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedding", "Embeddings", "RawEmbedding", "SumEmbedding"]


@dataclass(slots=True)
class SumEmbedding:
    """A feature whose rows were summed (and scaled, if its slot says so) per sample.

    Attributes:
        name: The feature.
        dim: Floats in a row.
        values: f16[samples, dim].
    """

    name: str
    dim: int
    values: NDArray[np.float16]


@dataclass(slots=True)
class RawEmbedding:
    """A feature whose rows are answered one by one; `values[index]` is `[samples, sample_fixed_size, dim]`.

    Attributes:
        name: The feature.
        dim: Floats in a row.
        values: f16[distinct + 1, dim]; row 0 is zeros, for padding.
        index: i64[samples, sample_fixed_size], rows of `values`; 0 pads. Ids beyond the columns are dropped.
        sample_id_num: u64[samples], ids in each sample's row of the index.
        sample_fixed_size: Columns of the index.
    """

    name: str
    dim: int
    values: NDArray[np.float16]
    index: NDArray[np.int64]
    sample_id_num: NDArray[np.uint64]
    sample_fixed_size: int


Embedding = SumEmbedding | RawEmbedding


_SUM_PARTS = 3


class Embeddings(list[Embedding]):
    """A batch's embeddings, in its order of features.

    Attributes:
        is_stale: Whether some rows may be out of date: their embedding server is gone, and its table, which is on this
            machine, answered (for `orphan_grace_seconds`, after which lookups fail).
        staleness_ms: Milliseconds since the newest training event in the rows, the greatest over the shards that were
            asked; None: no shard knows (what it serves has no times).
    """

    __slots__ = ("is_stale", "staleness_ms")

    def __init__(
        self,
        embeddings: Iterable[Embedding] = (),
        *,
        is_stale: bool = False,
        staleness_ms: int | None = None,
    ) -> None:
        """Hold these."""
        super().__init__(embeddings)
        self.is_stale = is_stale
        self.staleness_ms = staleness_ms

    @classmethod
    def from_tensors(
        cls, tensors: Iterable[tuple[Any, ...]], *, is_stale: bool, staleness_ms: int | None = None
    ) -> Self:
        """Name the parts of what the native plan assembled for one batch."""
        return cls(
            (
                SumEmbedding(*tensor) if len(tensor) == _SUM_PARTS else RawEmbedding(*tensor)
                for tensor in tensors
            ),
            is_stale=is_stale,
            staleness_ms=staleness_ms,
        )
