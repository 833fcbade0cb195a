"""Looked-up embeddings as the torch tensors that PERSIA hands to a model."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from satrap.middleware import Embedding, SumEmbedding

__all__ = ["embedding_tensor", "tensor_of"]


def tensor_of(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array on a device. On the CPU it shares the array's memory, unless that is read-only or not aligned."""
    if not (array.flags.writeable and array.flags.aligned and array.flags.c_contiguous):
        array = np.array(array, order="C")
    if array.dtype.char == "Q":  # 64 unsigned bits under the name that torch does not know
        array = array.view(np.uint64)
    return torch.from_numpy(array).to(device)


def embedding_tensor(
    embedding: Embedding, device: torch.device, *, requires_grad: bool = False
) -> torch.Tensor:
    """A feature's tensor, float16.

    Summed: `[batch, dim]`. Raw: `[batch, sample_fixed_size, dim + 1]`, padded with zeros; the last column is the
    mask, 1 where there is an id.

    Args:
        embedding: What the middleware answered.
        device: Where the tensor is to be.
        requires_grad: Whether the looked-up rows are leaves of a graph, as in training.
    """
    values = tensor_of(embedding.values, device)
    if isinstance(embedding, SumEmbedding):
        return values.requires_grad_(requires_grad)
    index = tensor_of(embedding.index, device)
    rows = values.index_select(0, index.view(-1)).requires_grad_(requires_grad)
    mask = (index != 0).unsqueeze(-1).to(rows.dtype)
    return torch.cat([rows.view(*index.shape, embedding.dim), mask], dim=2)
