"""PERSIA's batch bytes."""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


class DecodedBatch:
    """A PERSIA batch, proved consistent. Tensors are views into its buffer."""

    @property
    def feature_names(self) -> list:
        """Names of the id features, in order."""

    @property
    def ids_kind(self) -> str:
        """'none', 'features', or 'remote'."""

    @property
    def requires_grad(self) -> bool: ...

    @property
    def batch_size(self) -> int | None:
        """Samples; None in a batch without features, tensors, and labels."""

    @property
    def batch_id(self) -> int | None: ...

    @property
    def meta(self) -> bytes | None:
        """The bytes that travel with the batch, or None."""

    @property
    def remote(self) -> tuple[str, int, int] | None:
        """
        Of ids kept elsewhere: (worker address, reference, batcher), else None.
        """

    def id_feature(self, position: int) -> tuple:
        """
        (name, values u64[nnz], offsets u32[samples + 1]) of one id feature, in sample order.
        """

    def non_id_features(self) -> list:
        """
        [(name or None, array [samples, ...])]: read-only views, copies where the data lies unaligned.
        """

    def labels(self) -> list:
        """The same for the labels."""

    def ids_only(self) -> bytes:
        """
        Bytes of a batch of the same ids without tensors, labels, meta, batch id.
        """

def decode_persia_batch(data: object) -> DecodedBatch:
    """
    Decode PersiaBatch.to_bytes(), from any contiguous buffer, which is held and must not change.

    Raises DecodeError. The GIL is released.
    """

def encode_persia_batch(id_features: Sequence[tuple[str, Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)]]] | None, non_id_features: Sequence[tuple[str | None, Annotated[NDArray, dict(order='C', device='cpu', writable=False)]]], labels: Sequence[tuple[str | None, Annotated[NDArray, dict(order='C', device='cpu', writable=False)]]], requires_grad: bool, meta: bytes | None, batch_id: int | None) -> bytes:
    """
    The bytes of a batch. id_features: [(name, values u64[nnz], offsets u32[samples + 1])], or None for a batch without ids; tensors: [(name or None, C-contiguous array)]; all of the same samples.

    Raises ValueError for offsets that are none, a dtype that cannot travel, more than 65,535 samples. The GIL is released.
    """
