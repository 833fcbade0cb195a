"""Batches: every fixture that PERSIA wrote, and every way to spoil one."""

import json

import numpy as np
import pytest

from satrap.batch import MAX_SAMPLES, Batch, IdFeature, Tensor, decode
from satrap.errors import BatchDecodeError, BatchError, UnsupportedBatchError

NAMES = [
    "batch_all_empty_b7",
    "batch_b1",
    "batch_b128",
    "batch_b7",
    "batch_bench_128x3x32",
    "batch_dtypes_b7",
    "batch_null_ids_b7",
    "batch_remote_ref_b7",
    "batch_requires_grad_b7",
]
DTYPES = {
    "BOOL": "?",
    "F16": "f2",
    "F32": "f4",
    "F64": "f8",
    **{f"I{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"u{bits // 8}" for bits in (8, 16, 32, 64)},
}


def assert_bytes_equal(mine: np.ndarray, expected: np.ndarray) -> None:
    assert mine.shape == expected.shape
    assert mine.dtype == expected.dtype
    assert mine.tobytes() == expected.tobytes()  # NaN and -0 too


@pytest.mark.parametrize("name", NAMES)
def test_fixture(name, persia_data):
    data = (persia_data / f"{name}.bin").read_bytes()
    said = json.loads((persia_data / f"{name}.json").read_text())
    arrays = np.load(persia_data / f"{name}.npz")
    decoded = decode(data)
    assert decoded.batch_size == said["batch_size"]
    assert decoded.requires_grad == said["requires_grad"]
    assert decoded.batch_id == said["batch_id"]
    assert decoded.ids_kind == {"id": "features", "null": "none", "remote": "remote"}[said["variant"]]
    assert decoded.feature_names == said["id_type_features"]
    for i in range(len(decoded.feature_names)):
        _, values, offsets = decoded.id_feature(i)
        np.testing.assert_array_equal(values, arrays[f"id{i}_values"])
        np.testing.assert_array_equal(offsets, arrays[f"id{i}_offsets"])
    for kind, key, tensors in (
        ("nonid", "non_id_type", decoded.non_id_features()),
        ("label", "labels", decoded.labels()),
    ):
        assert [tensor_name for tensor_name, _ in tensors] == [tensor["name"] for tensor in said[key]]
        for i, ((_, array), tensor) in enumerate(zip(tensors, said[key], strict=True)):
            assert array.dtype == np.dtype(DTYPES[tensor["dtype"]])
            assert_bytes_equal(array, arrays[f"{kind}{i}"])
    assert decoded.meta == (None if said["meta_hex"] is None else bytes.fromhex(said["meta_hex"]))
    if said["remote"]:
        assert decoded.remote == (
            said["remote"]["addr"],
            said["remote"]["ref_id"],
            said["remote"]["batcher_idx"],
        )


@pytest.mark.parametrize("name", [name for name in NAMES if "remote" not in name])
def test_fixture_written_again(name, persia_data):
    data = (persia_data / f"{name}.bin").read_bytes()
    first = Batch.from_bytes(data)
    written = first.to_bytes()
    assert len(written) == len(data)  # the same parts; PERSIA writes the ids in random order
    second = Batch.from_bytes(written)
    assert second.to_bytes() == written
    assert (second.meta, second.requires_grad, second.batch_id) == (
        first.meta,
        first.requires_grad,
        first.batch_id,
    )
    for mine, expected in zip(second.id_features, first.id_features, strict=True):
        assert mine.name == expected.name
        np.testing.assert_array_equal(mine.values, expected.values)
        np.testing.assert_array_equal(mine.offsets, expected.offsets)
    for mine_tensor, expected_tensor in zip(
        second.non_id_features + second.labels, first.non_id_features + first.labels, strict=True
    ):
        assert mine_tensor.name == expected_tensor.name
        assert_bytes_equal(mine_tensor.data, expected_tensor.data)


def test_remote_batch_cannot_be_taken_apart(persia_data):
    with pytest.raises(UnsupportedBatchError, match=r"10\.1\.2\.3:8887"):
        Batch.from_bytes((persia_data / "batch_remote_ref_b7.bin").read_bytes())


@pytest.mark.parametrize("name", ["batch_b1", "batch_b7", "batch_dtypes_b7", "batch_remote_ref_b7"])
def test_cut_at_every_length(name, persia_data):
    data = (persia_data / f"{name}.bin").read_bytes()
    for length in range(len(data)):
        with pytest.raises(BatchDecodeError) as caught:
            decode(data[:length])
        assert caught.value.offset is not None
        assert caught.value.offset <= length
        assert f"at byte {caught.value.offset}" in str(caught.value)


@pytest.mark.parametrize("name", ["batch_b1", "batch_b7", "batch_dtypes_b7", "batch_all_empty_b7"])
def test_bits_flipped_at_seeded_places(name, persia_data):
    data = (persia_data / f"{name}.bin").read_bytes()
    rng = np.random.default_rng(2024)
    for _ in range(2000):
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            spoilt[place] ^= 1 << int(rng.integers(8))
        try:
            decoded = decode(spoilt)
        except BatchDecodeError as error:
            assert error.offset is not None
            assert error.offset <= len(data)
        else:  # a value changed, not the structure: all of it can be read
            for i in range(len(decoded.feature_names)):
                decoded.id_feature(i)
            decoded.non_id_features()
            decoded.labels()


@pytest.mark.parametrize("name", ["batch_b7", "batch_dtypes_b7"])
def test_inflated_lengths(name, persia_data):
    data = (persia_data / f"{name}.bin").read_bytes()
    for place in range(len(data) - 4):
        for value in (2**32 - 1, 2**31, 65_537):
            spoilt = data[:place] + value.to_bytes(4, "little") + data[place + 4 :]
            try:
                decode(spoilt)
            except BatchDecodeError:
                continue


def test_error_names_the_feature_and_the_place(persia_data):
    data = (persia_data / "batch_b7.bin").read_bytes()
    place = data.index(b"item_id") + len("item_id")  # its number of ids follows
    with pytest.raises(BatchDecodeError) as caught:
        decode(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])
    assert caught.value.feature == "item_id"
    assert caught.value.offset == place
    assert "feature 'item_id'" in str(caught.value)


class TestToBytes:
    def test_scalar(self):
        with pytest.raises(BatchError, match="scalar"):
            Batch(non_id_features=[Tensor(np.array(1.0))]).to_bytes()

    def test_samples_disagree(self):
        ids = IdFeature("f", np.zeros(2, np.uint64), np.array([0, 1, 2], np.uint32))
        with pytest.raises(BatchError, match="3 samples, but 'f' has 2") as caught:
            Batch([ids], [Tensor(np.zeros((3, 1), np.float32), "x")]).to_bytes()
        assert caught.value.feature == "x"

    def test_too_many_samples(self):
        offsets = np.zeros(MAX_SAMPLES + 2, np.uint32)
        with pytest.raises(BatchError, match="65536 samples"):
            Batch([IdFeature("f", np.zeros(0, np.uint64), offsets)]).to_bytes()

    def test_as_many_samples_as_there_may_be(self):
        offsets = np.arange(MAX_SAMPLES + 1, dtype=np.uint32)
        ids = IdFeature("f", np.zeros(MAX_SAMPLES, np.uint64), offsets)
        assert decode(Batch([ids]).to_bytes()).batch_size == MAX_SAMPLES

    def test_offsets_that_are_none(self):
        ids = IdFeature("f", np.zeros(2, np.uint64), np.array([0, 1], np.uint32))
        with pytest.raises(BatchError, match="offsets end at 1"):
            Batch([ids]).to_bytes()

    def test_dtype_that_cannot_travel(self):
        with pytest.raises(BatchError, match="dtype"):
            Batch(non_id_features=[Tensor(np.zeros(2, np.complex128), "x")]).to_bytes()

    def test_other_byte_orders_and_layouts_are_written_as_ours(self):
        array = np.arange(6, dtype=">f4").reshape(2, 3)
        for data in (array, np.asfortranarray(array), array[:, ::-1]):
            written = decode(Batch(non_id_features=[Tensor(data)]).to_bytes()).non_id_features()[0][1]
            np.testing.assert_array_equal(written, data)
            assert written.dtype == np.dtype("<f4")
