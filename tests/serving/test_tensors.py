"""Arrays of a batch and its embeddings as torch tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from satrap.batch import decode
from satrap.middleware import RawEmbedding, SumEmbedding
from satrap.serving.tensors import embedding_tensor, tensor_of

CPU = torch.device("cpu")


def test_every_dtype_of_the_format(persia_data: Path) -> None:
    arrays = np.load(persia_data / "batch_dtypes_b7.npz")
    decoded = decode((persia_data / "batch_dtypes_b7.bin").read_bytes())
    features = decoded.non_id_features()
    assert len({array.dtype for _, array in features}) == 12
    for place, (_, array) in enumerate(features):
        tensor = tensor_of(array, CPU)
        assert tuple(tensor.shape) == array.shape
        assert tensor.numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.numpy(), arrays[f"nonid{place}"])


def test_memory_is_shared_where_that_is_safe() -> None:
    array = np.zeros(4, np.float32)
    tensor_of(array, CPU)[0] = 1
    assert array[0] == 1
    array.flags.writeable = False
    tensor_of(array, CPU)[1] = 1
    assert array[1] == 0
    unaligned = np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float32)
    assert tensor_of(unaligned, CPU).tolist() == [0.0] * 4


def test_summed() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    tensor = embedding_tensor(SumEmbedding(name="a", dim=3, values=values), CPU)
    assert tensor.dtype == torch.float16
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not tensor.requires_grad


RAW = RawEmbedding(
    name="a",
    dim=2,
    values=np.array([[0, 0], [1, 2], [3, 4]], np.float16),
    index=np.array([[2, 1, 2], [0, 0, 0]], np.int64),
    sample_id_num=np.array([3, 0], np.uint64),
    sample_fixed_size=3,
)


def test_raw_has_the_mask_last() -> None:
    tensor = embedding_tensor(RAW, CPU)
    assert tensor.dtype == torch.float16
    assert tensor.tolist() == [[[3, 4, 1], [1, 2, 1], [3, 4, 1]], [[0, 0, 0]] * 3]


@pytest.mark.parametrize("embedding", [RAW, SumEmbedding("s", 2, np.ones((2, 2), np.float16))])
def test_a_graph_begins_at_the_rows(embedding: RawEmbedding | SumEmbedding) -> None:
    assert embedding_tensor(embedding, CPU, requires_grad=True).requires_grad
    assert not embedding_tensor(embedding, CPU).requires_grad
