"""What a batch is made of, whatever format it travels in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SAMPLES", "Bytes", "IdFeature", "Tensor"]

Bytes = bytes | bytearray | memoryview

MAX_SAMPLES = 65_535
"""Samples of a batch at most: PERSIA's format counts them in 16 bits."""


@dataclass(slots=True)
class IdFeature:
    """The ids of one feature: sample `s` has `values[offsets[s]:offsets[s + 1]]`, in its own order.

    Attributes:
        name: The feature's name, which the embedding config knows.
        values: u64[nnz].
        offsets: u32[samples + 1], from 0 to nnz.
    """

    name: str
    values: NDArray[np.uint64]
    offsets: NDArray[np.uint32]

    @property
    def batch_size(self) -> int:
        """How many samples there are."""
        return len(self.offsets) - 1


@dataclass(slots=True)
class Tensor:
    """Dense numbers `[samples, ...]` of one of the twelve dtypes of the format, and a name or none."""

    data: NDArray[Any]
    name: str | None = None
