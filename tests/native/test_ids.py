"""The id kernels: one class of tests over the native ones and their numpy twins."""

import lookup_twin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satrap._core import ids as native

EDGES = np.array([0, 1, 2, 2**32, 2**56 - 2, 2**56 - 1, 2**56, 2**63, 2**64 - 1], np.uint64)
NO_IDS = np.empty(0, np.uint64)

u64_arrays = arrays(np.uint64, st.integers(0, 200))
few_values = arrays(np.uint64, st.integers(0, 200), elements=st.integers(0, 20))


class Kernels:
    """What both have to do."""

    kernels = lookup_twin

    def test_farmhash_is_that_of_the_crate(self):
        # of 8 little-endian bytes; golden cases with two shards prove the rule on more
        hashes = self.kernels.farmhash64(np.array([0, 1, 2**64 - 1], np.uint64))
        expected = [0x14397A23417AF284, 0x523BE90BB03B5A61, 0x2FFFE7A41FB59155]
        assert hashes.tolist() == expected

    def test_prefix_has_persias_modulus(self):
        prefix = 3 << 56
        out = self.kernels.add_prefix(EDGES, prefix, 8)
        assert out[EDGES == 0] == out[EDGES == 2**56 - 1] == prefix  # they meet: the modulus is 2^56 - 1
        assert out[EDGES == 2**56 - 2] == prefix + 2**56 - 2
        assert out[EDGES == 2**56] == prefix + 1

    def test_prefix_of_zero_changes_nothing(self):
        np.testing.assert_array_equal(self.kernels.add_prefix(EDGES, 0, 8), EDGES)

    def test_prefix_wraps_at_64_bits(self):
        ids = np.array([2**63 - 2], np.uint64)
        assert self.kernels.add_prefix(ids, 2**63 + 5, 1).tolist() == [3]

    def test_63_bits_leave_one_id(self):
        assert set(self.kernels.add_prefix(EDGES, 2, 63).tolist()) == {2}

    @pytest.mark.parametrize("bits", [0, 64, 100])
    def test_bits_out_of_range_are_refused(self, bits):
        with pytest.raises(ValueError, match="1 to 63"):
            self.kernels.add_prefix(EDGES, 1, bits)

    def test_hash_stack_rounds_have_buckets_of_their_own(self):
        buckets = self.kernels.hash_stack(EDGES, 3, 50)
        assert buckets.shape == (3, len(EDGES))
        for round_ in range(3):
            assert (buckets[round_] // 50 == round_).all()

    def test_hash_stack_without_buckets_is_refused(self):
        with pytest.raises(ValueError, match="embedding_size"):
            self.kernels.hash_stack(EDGES, 2, 0)

    def test_dedup_keeps_order_of_first_occurrence(self):
        distinct, inverse = self.kernels.dedup(np.array([7, 7, 3, 9, 3, 0], np.uint64))
        assert distinct.tolist() == [7, 3, 9, 0]
        assert inverse.tolist() == [0, 0, 1, 2, 1, 3]

    def test_split_keeps_order_within_a_shard(self):
        signs = np.arange(1000, dtype=np.uint64)
        by_shard, order, starts = self.kernels.split_by_shard(signs, 3)
        np.testing.assert_array_equal(signs[order], by_shard)
        for shard in range(3):
            part = by_shard[int(starts[shard]) : int(starts[shard + 1])]
            assert (np.diff(part.astype(np.int64)) > 0).all()
            assert {lookup_twin.farmhash64_of(sign) % 3 for sign in part.tolist()} == {shard}

    def test_split_into_no_shards_is_refused(self):
        with pytest.raises(ValueError, match="replica_size"):
            self.kernels.split_by_shard(EDGES, 0)

    def test_no_ids(self):
        assert len(self.kernels.farmhash64(NO_IDS)) == 0
        assert self.kernels.hash_stack(NO_IDS, 2, 5).shape == (2, 0)
        assert [len(part) for part in self.kernels.dedup(NO_IDS)] == [0, 0]
        assert self.kernels.split_by_shard(NO_IDS, 2)[2].tolist() == [0, 0, 0]


class TestTwin(Kernels):
    """The twin first: what it says is what the native kernels are compared with."""


class TestNative(Kernels):
    kernels = native

    @given(u64_arrays)
    def test_farmhash_equals_the_twin(self, ids):
        np.testing.assert_array_equal(native.farmhash64(ids), lookup_twin.farmhash64(ids))

    @given(u64_arrays, st.integers(0, 2**64 - 1), st.integers(1, 63))
    def test_prefix_equals_the_twin(self, ids, prefix, bits):
        np.testing.assert_array_equal(
            native.add_prefix(ids, prefix, bits), lookup_twin.add_prefix(ids, prefix, bits)
        )

    @given(u64_arrays, st.integers(0, 4), st.integers(1, 2**64 - 1))
    def test_hash_stack_equals_the_twin(self, ids, rounds, size):
        np.testing.assert_array_equal(
            native.hash_stack(ids, rounds, size), lookup_twin.hash_stack(ids, rounds, size)
        )

    @given(few_values | u64_arrays)
    def test_dedup_equals_the_twin(self, ids):
        for mine, twin in zip(native.dedup(ids), lookup_twin.dedup(ids), strict=True):
            np.testing.assert_array_equal(mine, twin)

    @given(u64_arrays, st.integers(1, 9))
    def test_split_equals_the_twin(self, ids, shards):
        expected = lookup_twin.split_by_shard(ids, shards)
        for mine, twin in zip(native.split_by_shard(ids, shards), expected, strict=True):
            np.testing.assert_array_equal(mine, twin)

    def test_other_dtypes_are_refused(self):
        with pytest.raises(TypeError):
            native.farmhash64(np.zeros(3, np.int64))
