"""Batches as PERSIA's clients write them: what is refused, and that the bytes mean what PERSIA's mean."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap.batch import Batch
from satrap.client import (
    IDTypeFeature,
    IDTypeFeatureWithSingleID,
    Label,
    NdarrayDataBase,
    NonIDTypeFeature,
    PersiaBatch,
)
from satrap.errors import BatchError


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1, 2]], "must be a numpy array of uint64, got list"),
        ([np.array([1, 2])], "must be uint64, got int64"),
        ([ids(1), np.array([1.0])], "must be uint64, got float64"),
        ([np.array([[1]], np.uint64)], "must have one dimension, got 2"),
        ([np.uint64(1)], "must be a numpy array"),
    ],
)
def test_bad_ids(data: list[Any], message: str) -> None:
    with pytest.raises(BatchError, match=f"feature 'f': ids {message}"):
        IDTypeFeature("f", data)


@pytest.mark.parametrize("data", [[1], np.array([1]), np.array([[1]], np.uint64), None])
def test_bad_single_ids(data: Any) -> None:
    with pytest.raises(BatchError, match="feature 'f': ids must"):
        IDTypeFeatureWithSingleID("f", data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1.0], "expected a numpy array, got list"),
        (np.float32(1), "expected a numpy array, got float32"),
        (np.array(1.0), "at least one dimension"),
        (np.array([1.0], np.float16), "dtype float16 cannot travel; it can be bool"),
        (np.array([1], np.uint64), "dtype uint64 cannot travel"),
        (np.array(["a"]), "cannot travel"),
        (np.array([None]), "dtype object cannot travel"),
    ],
)
def test_bad_arrays(data: Any, message: str) -> None:
    with pytest.raises(BatchError, match=f"feature 'x': .*{message}"):
        NonIDTypeFeature(data, "x")


def test_names() -> None:
    data = np.zeros((2, 3), np.float32)
    assert NonIDTypeFeature(data).name == "non_id_type_feature_anonymous"
    assert Label(data).name == "label_anonymous"
    assert NdarrayDataBase(data).name == "ndarray_base"
    assert Label(data, "").name == "label_anonymous"
    assert NonIDTypeFeature(data, name="height").name == "height"
    assert len(Label(data)) == Label(data).batch_size == 2


USER = IDTypeFeatureWithSingleID("user", ids(1, 2, 3))
DENSE = NonIDTypeFeature(np.zeros((3, 2), np.float32))
LABEL = Label(np.zeros((3, 1), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_type_features": []}, "at least one id feature"),
        ({"id_type_features": [DENSE]}, "an id feature is an IDTypeFeature"),
        (
            {"id_type_features": [USER, IDTypeFeature("t", [ids(1)])]},
            "feature 't': 1 samples where the batch has 3",
        ),
        (
            {"id_type_features": [USER], "non_id_type_features": [NonIDTypeFeature(np.zeros(2))]},
            "2 samples where",
        ),
        ({"id_type_features": [USER], "labels": [Label(np.zeros(4))]}, "'label_anonymous': 4 samples where"),
        ({"id_type_features": [USER], "batch_size": 4}, "feature 'user': 3 samples where the batch has 4"),
        (
            {"id_type_features": [IDTypeFeatureWithSingleID("big", np.zeros(65_536, np.uint64))]},
            "feature 'big': 65536 samples; a batch has 65535 at most",
        ),
    ],
)
def test_bad_batches(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        PersiaBatch(requires_grad=False, **arguments)


def test_gradients_need_a_label() -> None:
    with pytest.raises(BatchError, match="requires_grad=True needs a label"):
        PersiaBatch([USER])
    assert Batch.from_bytes(PersiaBatch([USER], labels=[LABEL]).to_bytes()).requires_grad
    assert not Batch.from_bytes(PersiaBatch([USER], requires_grad=False).to_bytes()).requires_grad


def test_meta_that_is_not_bytes_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        batch = PersiaBatch([USER], requires_grad=False, meta="text")
    assert "must be bytes, not str" in caplog.text
    assert Batch.from_bytes(batch.to_bytes()).meta is None


def test_largest_batch() -> None:
    batch = PersiaBatch(
        [IDTypeFeatureWithSingleID("big", np.arange(65_535, dtype=np.uint64))], requires_grad=False
    )
    (feature,) = Batch.from_bytes(batch.to_bytes()).id_features
    np.testing.assert_array_equal(feature.values, np.arange(65_535))


@pytest.mark.parametrize(
    "name", ["batch_b1", "batch_b7", "batch_b128", "batch_all_empty_b7", "batch_requires_grad_b7"]
)
def test_bytes_mean_what_persia_wrote(persia_data: Path, name: str) -> None:
    described = json.loads((persia_data / f"{name}.json").read_text())
    arrays = np.load(persia_data / f"{name}.npz")
    features: list[IDTypeFeature | IDTypeFeatureWithSingleID] = []
    for index, feature in enumerate(described["id_type_features"]):
        values, offsets = arrays[f"id{index}_values"], arrays[f"id{index}_offsets"]
        if (np.diff(offsets) == 1).all():
            features.append(IDTypeFeatureWithSingleID(feature, values))
        else:
            features.append(IDTypeFeature(feature, np.split(values, offsets[1:-1])))
    batch = PersiaBatch(
        features,
        [NonIDTypeFeature(arrays[f"nonid{i}"], d["name"]) for i, d in enumerate(described["non_id_type"])],
        [Label(arrays[f"label{i}"], d["name"]) for i, d in enumerate(described["labels"])],
        requires_grad=described["requires_grad"],
        meta=None if described["meta_hex"] is None else bytes.fromhex(described["meta_hex"]),
    )
    ours = Batch.from_bytes(batch.to_bytes())
    persias = Batch.from_bytes((persia_data / f"{name}.bin").read_bytes())
    assert_equal(ours, persias)
    # PERSIA writes ids in the random order of a hash table, so the bytes differ; their number does not.
    assert len(batch.to_bytes()) == (persia_data / f"{name}.bin").stat().st_size


def assert_equal(left: Batch, right: Batch) -> None:
    assert (left.meta, left.requires_grad, left.batch_id) == (right.meta, right.requires_grad, right.batch_id)
    assert [feature.name for feature in left.id_features] == [feature.name for feature in right.id_features]
    for mine, other in zip(left.id_features, right.id_features, strict=True):
        np.testing.assert_array_equal(mine.values, other.values)
        np.testing.assert_array_equal(mine.offsets, other.offsets)
    for mine, other in zip(
        (*left.non_id_features, *left.labels), (*right.non_id_features, *right.labels), strict=True
    ):
        assert mine.name == other.name
        assert mine.data.dtype == other.data.dtype
        np.testing.assert_array_equal(mine.data, other.data)


SAMPLES = st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=5), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(samples=SAMPLES, dtype=st.sampled_from(["?", "i1", "i2", "i4", "i8", "f4", "f8", "u1"]))
def test_what_is_written_can_be_read(samples: list[list[int]], dtype: str) -> None:
    # A view that is neither contiguous nor in the machine's byte order travels all the same.
    dense = np.ones((len(samples), 2, 3), np.dtype(dtype).newbyteorder(">")).transpose(0, 2, 1)
    batch = PersiaBatch(
        [IDTypeFeature("f", [ids(*sample) for sample in samples])],
        [NonIDTypeFeature(dense)],
        requires_grad=False,
    )
    read = Batch.from_bytes(batch.to_bytes())
    (feature,) = read.id_features
    assert [part.tolist() for part in np.split(feature.values, feature.offsets[1:-1].astype(int))] == samples
    (tensor,) = read.non_id_features
    assert tensor.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(tensor.data, dense)


def test_arrow_says_the_same() -> None:
    batch = PersiaBatch([USER], labels=[LABEL], meta=b"m")
    assert Batch.from_bytes(batch.to_arrow()).to_bytes() == batch.to_bytes()


def test_reprs_say_what_it_is() -> None:
    assert repr(USER) == "IDTypeFeatureWithSingleID('user', 3 samples)"
    assert repr(IDTypeFeature("t", [ids(), ids(1)])) == "IDTypeFeature('t', 2 samples)"
    assert repr(DENSE) == "NonIDTypeFeature('non_id_type_feature_anonymous', float32 [3, 2])"
    assert repr(PersiaBatch([USER], requires_grad=False)) == "PersiaBatch(3 samples, ids of user)"
