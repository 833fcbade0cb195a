"""The classes of PERSIA's oldest tutorial: a batch that is filled step by step, and the client that looks it up."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from satrap.batch import Batch, Tensor
from satrap.client import IDTypeFeature
from satrap.compat.services import split_addresses
from satrap.errors import BatchError, InvalidInputError
from satrap.middleware import EmbeddingLookup, open_lookup

if TYPE_CHECKING:  # a client's machine has no torch; only the lookups of a handler need it
    from satrap.compat.training_batch import TrainingBatch

__all__ = ["PersiaEmbeddingClientPyClass", "PyPersiaBatchData"]


class PyPersiaBatchData:
    """A batch that grows: `add_dense`, `add_sparse`, then `to_bytes`."""

    def __init__(self) -> None:
        """Start empty."""
        self._batch = Batch()

    def add_dense(self, data: Sequence[NDArray[Any]]) -> None:
        """Add dense features, each an array `[batch, ...]`."""
        self._batch.non_id_features.extend(Tensor(array) for array in data)

    def add_sparse(
        self, data: Iterable[tuple[str, Sequence[NDArray[np.uint64]]]], requires_grad: bool = False
    ) -> None:
        """Add id features: for each its name and, per sample, a uint64 array of ids.

        `requires_grad` marks a batch for training. PERSIA's later releases had True for its default; the batches
        of a client that does not say are for inference.

        Raises:
            BatchError: ids are not one-dimensional arrays of uint64.
        """
        self._batch.id_features.extend(IDTypeFeature(name, ids).to_id_feature() for name, ids in data)
        self._batch.requires_grad = requires_grad

    def add_target(self, data: NDArray[Any]) -> None:
        """Add labels, an array `[batch, ...]`."""
        self._batch.labels.append(Tensor(data))

    def add_meta(self, data: bytes) -> None:
        """Set the bytes that travel with the batch."""
        self._batch.meta = data

    def to_bytes(self) -> bytes:
        """The batch as PERSIA serialises it.

        Raises:
            BatchError: features disagree on the number of samples, or there are no ids.
        """
        if not self._batch.id_features:
            raise BatchError("there are no ids: call add_sparse first")
        return self._batch.to_bytes()


class PersiaEmbeddingClientPyClass:
    """The tutorial's client. With services it looks embeddings up; without, it only turns batches into bytes."""

    def __init__(self, device_id: int, middleware_services: Sequence[str] = ()) -> None:
        """Take the default device and the addresses of `satrap middleware`, or `satrap:local` in a worker."""
        self.device_id = device_id
        addresses = split_addresses(list(middleware_services))
        self._lookup: EmbeddingLookup | None = open_lookup(addresses, os.environ) if addresses else None

    def batch_to_bytes(self, batch: PyPersiaBatchData) -> bytes:
        """The batch as PERSIA serialises it."""
        return batch.to_bytes()

    def batch_to_device_dirct(self, data: bytes, device_id: int | None = None) -> "TrainingBatch":
        """Look up the embeddings of a batch's bytes, bound for a device; spelled as PERSIA spelled it.

        Raises:
            BatchError: the bytes are no batch, or one that cannot be answered.
            UnavailableError: a shard or the middleware does not answer.
            InvalidInputError: this client was made without services.
        """
        from satrap.compat.device import device_of
        from satrap.compat.training_batch import look_up

        if self._lookup is None:
            raise InvalidInputError("this client has no middleware services, so it cannot look embeddings up")
        return look_up(self._lookup, data, device_of(self.device_id if device_id is None else device_id))
