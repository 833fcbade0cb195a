"""A batch as it is built or taken apart."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap._core.batch import encode_persia_batch
from satrap.batch.arrow_encoding import encode_arrow
from satrap.batch.decoding import decode
from satrap.batch.parts import MAX_SAMPLES, Bytes, IdFeature, Tensor
from satrap.errors import BatchError, UnsupportedBatchError

__all__ = ["Batch"]


@dataclass(slots=True)
class Batch:
    """A batch as it is built or taken apart. For answering one, `decode` is cheaper.

    Attributes:
        id_features: None of them makes a batch without ids.
        non_id_features: Dense features.
        labels: Labels.
        meta: Bytes that travel with the batch.
        requires_grad: The embeddings are to be trained.
        batch_id: PERSIA's number of the batch, which clients leave out.
    """

    id_features: list[IdFeature] = field(default_factory=list)
    non_id_features: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    meta: bytes | None = None
    requires_grad: bool = False
    batch_id: int | None = None

    @classmethod
    def from_bytes(cls, data: Bytes) -> "Batch":
        """Take the bytes of a batch apart, PERSIA's or Arrow's. Tensors are read-only views into `data`.

        Raises:
            BatchDecodeError: `data` is no batch.
            UnsupportedBatchError: its ids are kept by a training worker elsewhere.
        """
        decoded = decode(data)
        if decoded.remote is not None:
            raise UnsupportedBatchError(f"its ids are kept by the training worker at {decoded.remote[0]}")
        return cls(
            id_features=[IdFeature(*decoded.id_feature(i)) for i in range(len(decoded.feature_names))],
            non_id_features=[Tensor(array, name) for name, array in decoded.non_id_features()],
            labels=[Tensor(array, name) for name, array in decoded.labels()],
            meta=decoded.meta,
            requires_grad=decoded.requires_grad,
            batch_id=decoded.batch_id,
        )

    def to_bytes(self) -> bytes:
        """The batch as PERSIA serialises it.

        Raises:
            BatchError: features disagree on the number of samples, there are more than 65,535, offsets are no
                offsets, or a dtype cannot travel.
        """
        self._check_samples()
        ids = [
            (
                feature.name,
                np.ascontiguousarray(feature.values, np.uint64),
                np.ascontiguousarray(feature.offsets, np.uint32),
            )
            for feature in self.id_features
        ]
        try:
            return encode_persia_batch(
                ids or None,
                [_little_endian(tensor) for tensor in self.non_id_features],
                [_little_endian(tensor) for tensor in self.labels],
                self.requires_grad,
                self.meta,
                self.batch_id,
            )
        except ValueError as error:
            raise BatchError(str(error)) from error

    def to_arrow(self) -> bytes:
        """The batch as an Arrow IPC stream: less than half of PERSIA's bytes, and decoded without copying.

        Raises:
            BatchError: as `to_bytes`.
        """
        self._check_samples()
        return encode_arrow(
            self.id_features,
            self.non_id_features,
            self.labels,
            meta=self.meta,
            requires_grad=self.requires_grad,
            batch_id=self.batch_id,
        )

    def _check_samples(self) -> None:
        sizes = [(feature.name, feature.batch_size) for feature in self.id_features]
        for tensor in (*self.non_id_features, *self.labels):
            if tensor.data.ndim == 0:
                raise BatchError("a scalar has no samples", feature=tensor.name or "")
            sizes.append((tensor.name or "a tensor without a name", len(tensor.data)))
        for name, size in sizes:
            if size != sizes[0][1]:
                raise BatchError(f"{size} samples, but {sizes[0][0]!r} has {sizes[0][1]}", feature=name)
            if size > MAX_SAMPLES:
                raise BatchError(f"{size} samples; a batch has {MAX_SAMPLES:,} at most", feature=name)


def _little_endian(tensor: Tensor) -> tuple[str | None, NDArray[Any]]:
    data = tensor.data
    return tensor.name, np.ascontiguousarray(data, data.dtype.newbyteorder("<"))
