"""PERSIA's batch bytes: every way to be bad has a test; what is good equals the twin, byte for byte."""

import batch_twin as twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap._core import DecodeError
from satrap._core.batch import decode_persia_batch, encode_persia_batch

TWO = [[7, 9], [7]]
DENSE = twin.tensor(np.zeros((2, 3), np.float32), "dense")


def assert_refused(data: bytes, match: str, field: str | None = None) -> DecodeError:
    with pytest.raises(DecodeError, match=match) as caught:
        decode_persia_batch(data)
    assert 0 <= caught.value.offset <= len(data)
    assert caught.value.message == str(caught.value)
    if field is not None:
        assert caught.value.field == field
    return caught.value


class TestTensors:
    def refused(self, match: str, array: np.ndarray | None = None, **parts) -> DecodeError:
        array = np.zeros((2, 3), np.float32) if array is None else array
        return assert_refused(twin.batch(dense=[DENSE, twin.tensor(array, "x", **parts)]), match)

    def test_storage_of_a_gpu(self):
        error = self.refused("storage tag 1", storage=1)
        assert error.field == "non_id_type_features[1]"
        assert error.offset == 4 + len(DENSE)

    def test_unknown_dtype(self):
        self.refused("dtype 12", dtype=12)

    def test_inflated_count(self):
        self.refused("4000000000 items", count=4_000_000_000)

    def test_count_and_shape_disagree(self):
        self.refused("the shape makes 8 items, but 6", shape=(2, 4))

    @pytest.mark.parametrize(
        "shape", [(2**33, 2**33), (0, 2**31, 2**31), (3, 0, 2**62), (2**63, 0), (0, 2**64 - 1)]
    )
    def test_shapes_larger_than_any_array(self, shape):
        self.refused("larger than any array", shape=shape)

    def test_too_many_dimensions(self):
        self.refused("33 dimensions; a tensor has 32 at most", np.zeros((1,) * 33, np.float32))
        most = np.zeros((1,) * 32, np.float32)
        ((_, array),) = decode_persia_batch(twin.batch(dense=[twin.tensor(most)])).non_id_features()
        assert array.shape == most.shape

    def test_scalar(self):
        self.refused("a scalar", np.float32(1.0)[()].reshape(()), strides=())

    def test_strides_of_another_order(self):
        self.refused("C order", strides=(1, 2))

    def test_number_of_strides(self):
        self.refused("1 strides for 2", strides=(3,))

    def test_name_is_not_utf8(self):
        data = twin.batch(dense=[twin.tensor(np.zeros((2, 1), np.float32), "ab")])
        assert_refused(data.replace(b"ab", b"a\xff"), "UTF-8")

    def test_unknown_device(self):
        assert self.refused("device 2", device=2).field == "x"

    def test_number_of_samples_differs(self):
        self.refused("3 samples, but non_id_type_features.0. dense has 2", np.zeros((3, 1), np.float32))

    def test_strides_say_nothing_where_there_is_one_item(self):
        array = np.zeros((1, 3), np.float32)
        decoded = decode_persia_batch(twin.batch(dense=[twin.tensor(array, strides=(77, 1))]))
        assert decoded.non_id_features()[0][1].shape == (1, 3)

    def test_tensor_of_a_gpu_that_was_copied_back(self):
        data = twin.batch(dense=[twin.tensor(np.ones((2, 1), np.float32), device=1, device_id=0)])
        np.testing.assert_array_equal(decode_persia_batch(data).non_id_features()[0][1], [[1], [1]])

    @pytest.mark.parametrize("dtype", twin.DTYPES, ids=str)
    @pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 2, 5)], ids=str)
    def test_every_dtype_aligned_or_not(self, dtype, shape):
        array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
        for name in (None, "a", "ab", "abc", "abcd"):  # moves what follows by a byte
            tensors = [twin.tensor(np.zeros(3, np.uint8), name), twin.tensor(array, "x"), twin.tensor(array)]
            (_, first), (name_x, second), (_, third) = decode_persia_batch(
                twin.batch(dense=tensors)
            ).non_id_features()
            assert name_x == "x"
            assert first.shape == (3,)
            for out in (second, third):
                assert out.dtype == dtype
                assert out.flags.aligned
                np.testing.assert_array_equal(out, array)

    def test_booleans_other_than_one_are_true(self):
        raw = twin.tensor(np.array([0, 1, 2, 255], np.uint8), dtype=0)
        (_, array) = decode_persia_batch(twin.batch(dense=[raw])).non_id_features()[0]
        assert array.dtype == np.bool_
        assert array.view(np.uint8).tolist() == [0, 1, 1, 1]

    def test_views_keep_the_buffer_alive_and_read_only(self):
        data = bytearray(twin.batch(dense=[twin.tensor(np.arange(6, dtype=np.float32).reshape(2, 3))]))
        (_, array) = decode_persia_batch(data).non_id_features()[0]
        with pytest.raises(BufferError):
            data.extend(b"x")  # the array's memory would move
        assert not array.flags.writeable
        assert array[1, 2] == 5


class TestIds:
    def refused(self, match: str, **parts) -> DecodeError:
        parts.setdefault("samples", TWO)
        features = [twin.feature("good", TWO), twin.feature("bad", **parts)]
        return assert_refused(twin.batch(twin.ids(features)), match)

    def test_unknown_tag(self):
        assert_refused(twin.batch(twin.u32(3)), "tag 3", "id_type_features")

    def test_feature_name_is_not_utf8(self):
        error = assert_refused(twin.batch(twin.ids([twin.feature(b"\xc3\x28", TWO)])), "UTF-8")
        assert error.field == "id_type_features[0]"
        assert error.offset == 4 + 4 + 1 + 4

    def test_inflated_id_count(self):
        assert self.refused("4294967295 items", record_count=2**32 - 1).field == "bad"

    def test_inflated_feature_count(self):
        assert_refused(twin.batch(twin.u32(1) + twin.u8(0) + twin.u32(2**32 - 1)), "4294967295 items")

    def test_inflated_position_count(self):
        data = twin.batch(twin.ids([twin.feature("f", [[7]])]))
        place = data.index(twin.u64(7)) + 8
        error = assert_refused(
            data[:place] + twin.u32(2**31) + data[place + 4 :], "2147483648 positions", "f"
        )
        assert error.offset == place

    def test_sample_beyond_the_batch(self):
        self.refused("sample 2 of 2", records=[(7, [(0, 0), (2, 0)]), (9, [(0, 1)])])

    def test_column_beyond_the_sample(self):
        self.refused("column 2 does not fit", records=[(7, [(0, 2), (1, 0)]), (9, [(0, 1)])])

    def test_two_ids_in_one_column(self):
        self.refused("does not fit", records=[(7, [(0, 1), (1, 0)]), (9, [(0, 1)])])

    def test_counts_do_not_add_up(self):
        self.refused("adds up to 4 ids, but 3", counts=[3, 1])

    def test_counts_overflow_32_bits(self):
        self.refused("adds up to", counts=[2**32 - 1, 4])

    def test_batch_size_is_not_that_of_the_counts(self):
        self.refused("the batch size is 3, but sample_num_signs has 2", batch_size=3)

    def test_map_is_too_short(self):
        self.refused("1 entries for 2", mapping=[(7, 0)])

    def test_map_leads_outside(self):
        self.refused("does not lead", mapping=[(7, 0), (9, 2)])
        self.refused("does not lead", mapping=[(7, 0), (9, -1)])

    def test_map_leads_to_another_id(self):
        self.refused("does not lead", mapping=[(7, 1), (9, 0)])

    def test_map_has_an_id_twice(self):
        self.refused("does not lead", mapping=[(7, 0), (7, 0)])

    def test_id_has_two_records(self):
        records = [(7, [(0, 0)]), (9, [(0, 1)]), (7, [(1, 0)])]
        self.refused("more than one record", records=records)

    def test_number_of_samples_differs(self):
        self.refused("1 samples, but good has 2", samples=[[7]])

    def test_number_of_samples_differs_from_the_dense_ones(self):
        data = twin.batch(twin.ids([twin.feature("f", [[7]])]), dense=[DENSE])
        assert_refused(data, "1 samples, but non_id_type_features.0. dense has 2", "f")

    def test_number_of_samples_differs_from_the_labels(self):
        data = twin.batch(twin.ids([twin.feature("f", [[7]])]), labels=[DENSE])
        assert_refused(data, "2 samples, but f has 1", "labels[0] dense")

    def test_map_in_any_order_is_right(self):
        mapping = [(9, 1), (7, 0)]
        decoded = decode_persia_batch(twin.batch(twin.ids([twin.feature("f", TWO, mapping=mapping)])))
        assert decoded.id_feature(0)[1].tolist() == [7, 9, 7]

    def test_options_of_training_are_read_past(self):
        decoded = decode_persia_batch(
            twin.batch(twin.ids([twin.feature("f", TWO)], True, times=True), meta=b"m")
        )
        assert decoded.requires_grad
        assert decoded.meta == b"m"

    def test_feature_that_does_not_exist(self):
        with pytest.raises(IndexError):
            decode_persia_batch(twin.batch(twin.ids([]))).id_feature(0)


class TestWhole:
    def test_trailing_bytes_are_ignored(self):
        data = twin.batch(twin.ids([twin.feature("f", TWO)]), meta=b"m", batch_id=5)
        decoded = decode_persia_batch(data + b"anything")
        assert (decoded.batch_id, decoded.meta, decoded.batch_size) == (5, b"m", 2)

    def test_no_bytes(self):
        assert_refused(
            b"", "the bytes end inside the tensor count: 4 needed, 0 there", "non_id_type_features"
        )

    def test_remote_reference(self):
        decoded = decode_persia_batch(twin.batch(twin.remote("host:1", 2**63, 3)))
        assert (decoded.ids_kind, decoded.remote) == ("remote", ("host:1", 2**63, 3))
        assert decoded.batch_size is None

    def test_no_ids(self):
        decoded = decode_persia_batch(twin.batch(dense=[DENSE]))
        assert (decoded.ids_kind, decoded.feature_names, decoded.batch_size) == ("none", [], 2)

    def test_more_ids_in_a_sample_than_columns_have_numbers(self):
        ids = [*range(65_536), 5, 6, 7]
        decoded = decode_persia_batch(twin.batch(twin.ids([twin.feature("f", [[1], ids])])))
        _, values, offsets = decoded.id_feature(0)
        assert offsets.tolist() == [0, 1, 1 + len(ids)]
        assert sorted(values[1:].tolist()) == sorted(ids)

    def test_ids_only(self):
        whole = twin.batch(twin.ids([twin.feature("f", TWO)]), [DENSE], [DENSE], b"meta", 9)
        assert decode_persia_batch(whole).ids_only() == twin.batch(twin.ids([twin.feature("f", TWO)]))

    def test_what_is_no_buffer(self):
        with pytest.raises(TypeError):
            decode_persia_batch("text")


samples_of_ids = st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=6), max_size=6)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def csr(name, samples):
    values = np.array([sign for ids in samples for sign in ids], np.uint64)
    offsets = np.cumsum([0, *map(len, samples)]).astype(np.uint32)
    return name, values, offsets


class TestEncoder:
    @given(st.lists(st.tuples(names, samples_of_ids), max_size=3), names, st.binary(max_size=5) | st.none())
    def test_bytes_equal_the_twin(self, features, tensor_name, meta):
        ids = [csr(name, samples) for name, samples in features]
        array = np.arange(6, dtype=np.int16).reshape(2, 3)
        mine = encode_persia_batch(ids, [(tensor_name, array)], [(None, array)], True, meta, 2**64 - 1)
        assert mine == twin.encode(
            ids,
            requires_grad=True,
            dense=[twin.tensor(array, tensor_name)],
            labels=[twin.tensor(array)],
            meta=meta,
            batch_id=2**64 - 1,
        )

    @given(names, samples_of_ids)
    def test_round_trip(self, name, samples):
        expected = csr(name, samples)
        decoded = decode_persia_batch(encode_persia_batch([expected], [], [], False, None, None))
        for mine, given_ in zip(decoded.id_feature(0), expected, strict=True):
            np.testing.assert_array_equal(mine, given_)

    def test_no_ids(self):
        assert encode_persia_batch(None, [], [], False, None, None) == twin.batch()

    def test_too_many_samples(self):
        offsets = np.zeros(65_537, np.uint32)
        with pytest.raises(ValueError, match="65536 samples; a batch has 65535 at most"):
            encode_persia_batch([("f", np.empty(0, np.uint64), offsets)], [], [], False, None, None)

    @pytest.mark.parametrize("offsets", [[], [1, 2], [0, 2, 1, 2], [0, 1], [0, 3]], ids=str)
    def test_offsets_that_are_none(self, offsets):
        ids = [("f", np.array([7, 8], np.uint64), np.array(offsets, np.uint32))]
        with pytest.raises(ValueError, match="offsets"):
            encode_persia_batch(ids, [], [], False, None, None)

    def test_dtype_that_cannot_travel(self):
        with pytest.raises(ValueError, match="dtype"):
            encode_persia_batch(None, [("x", np.zeros(2, np.complex64))], [], False, None, None)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_noise_is_a_batch_or_a_decode_error(data):
    try:
        decode_persia_batch(data)
    except DecodeError as error:
        assert error.offset <= len(data)
