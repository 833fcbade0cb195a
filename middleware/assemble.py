"""What a lookup answers: one embedding per feature, as PERSIA's worker has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedding", "RawEmbedding", "SumEmbedding", "embeddings"]


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


def embeddings(tensors: Iterable[tuple[Any, ...]]) -> list[Embedding]:
    """Name the parts of what the native plan assembled for one batch."""
    return [
        SumEmbedding(*tensor) if len(tensor) == _SUM_PARTS else RawEmbedding(*tensor) for tensor in tensors
    ]


_SUM_PARTS = 3
