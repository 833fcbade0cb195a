"""A batch with its embeddings looked up: what PERSIA's contexts pass between their methods."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from satrap.batch import decode
from satrap.middleware import Embedding, EmbeddingLookup
from satrap.serving.tensors import embedding_tensor, tensor_of

__all__ = ["TrainingBatch", "look_up"]


class TrainingBatch:
    """PERSIA's `PersiaTrainingBatch`: features, embeddings and labels of one batch, bound for a device.

    It can be prepared more than once. The tensors may share memory with the request's bytes.
    """

    def __init__(
        self,
        dense: Sequence[NDArray[Any]],
        embeddings: Sequence[Embedding],
        labels: Sequence[NDArray[Any]],
        meta: bytes | None,
        device: torch.device,
    ) -> None:
        """Keep the arrays; tensors are made when they are asked for."""
        self._dense, self._embeddings, self._labels, self._meta = dense, embeddings, labels, meta
        self.device = device

    def __repr__(self) -> str:
        names = ", ".join(embedding.name for embedding in self._embeddings)
        return f"<TrainingBatch of {names} on {self.device}>"

    def dense_tensors(self) -> list[torch.Tensor]:
        """The dense features in the order of the batch, each `[batch, ...]` in its own dtype."""
        return [tensor_of(array, self.device) for array in self._dense]

    def embedding_tensors(self, *, requires_grad: bool) -> list[torch.Tensor]:
        """The id features in the order of the batch; shapes and dtype as `satrap.serving.tensors` says."""
        return [
            embedding_tensor(embedding, self.device, requires_grad=requires_grad)
            for embedding in self._embeddings
        ]

    def label_tensors(self) -> list[torch.Tensor]:
        """The labels in the order of the batch, each `[batch, ...]`."""
        return [tensor_of(array, self.device) for array in self._labels]

    def consume_all_meta_data(self) -> bytes | None:
        """The bytes that travelled with the batch, or None; under PERSIA's name."""
        return self._meta


def look_up(lookup: EmbeddingLookup, data: bytes, device: torch.device) -> TrainingBatch:
    """Decode a batch and look its embeddings up.

    Raises:
        BatchError: the bytes are no batch, or one that cannot be answered.
        UnavailableError: a shard or the middleware does not answer.
    """
    batch = decode(data)
    return TrainingBatch(
        dense=[array for _, array in batch.non_id_features()],
        embeddings=lookup.lookup(batch),
        labels=[array for _, array in batch.labels()],
        meta=batch.meta,
        device=device,
    )
