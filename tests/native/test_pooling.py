"""Rows become float16 tensors: to the bit as numpy rounds, in whatever dtype and alignment the rows come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satrap._core.plan import Plan, Slot, SlotTable

FLOAT32, FLOAT16 = 1, 2
DIMS = [1, 7, 8, 16, 19, 64]


def one_feature(samples: list[list[int]], dim: int, **slot) -> Plan:
    values = np.array([sign for ids in samples for sign in ids], np.uint64)
    offsets = np.cumsum([0, *map(len, samples)]).astype(np.uint32)
    return Plan(SlotTable(8, [Slot(name="f", dim=dim, **slot)]), [[("f", values, offsets)]], 1)


def raw_values(rows: np.ndarray, dtype: int) -> np.ndarray:
    """The rows of a raw feature with one id per row, which are converted and nothing else."""
    plan = one_feature([[sign] for sign in range(len(rows))], rows.shape[1], summation=False)
    return plan.assemble([(dtype, rows.tobytes())])[0][0][2][1:]


def to_half(rows: np.ndarray) -> np.ndarray:
    """numpy's rounding, as bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.astype(np.float16).view(np.uint16)


ORDINARY = [0, -0.0, 1, -1, 65504, 65519.996, 65520, 1e9, -1e9, np.inf, -np.inf, np.nan]
TINY = [2**-14, 2**-14 * (1 - 2**-12), 2**-24, 2**-25, 2**-25 * 1.0001, 2**-26, 1e-40]
TIES = [1 + 2**-11, 1 + 3 * 2**-11]
INTERESTING = np.array([*ORDINARY, *TINY, *TIES], np.float32)


class TestConversion:
    def test_interesting_values(self):
        rows = np.resize(INTERESTING, (5, 32))
        np.testing.assert_array_equal(raw_values(rows, FLOAT32).view(np.uint16), to_half(rows))

    def test_signalling_nans_keep_their_payload(self):
        rows = np.array([0x7F800001, 0x7FA00000, 0xFF812345, 0x7FC00001] * 4, np.uint32).view(np.float32)
        rows = rows.reshape(1, 16)
        np.testing.assert_array_equal(raw_values(rows, FLOAT32).view(np.uint16), to_half(rows))

    @given(arrays(np.uint32, st.tuples(st.integers(1, 4), st.sampled_from(DIMS))))
    def test_any_bits(self, bits):
        rows = bits.view(np.float32)
        np.testing.assert_array_equal(raw_values(rows, FLOAT32).view(np.uint16), to_half(rows))

    def test_every_float16_stays_itself(self):
        rows = np.arange(2**16, dtype=np.uint16).reshape(-1, 64)
        np.testing.assert_array_equal(raw_values(rows, FLOAT16).view(np.uint16), rows)


class TestSums:
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16])
    def test_duplicates_count(self, dim, dtype):
        rows = np.arange(3 * dim, dtype=np.float32).reshape(3, dim) / 4
        data = rows.astype(np.float32 if dtype == FLOAT32 else np.float16).tobytes()
        (_, _, values) = one_feature([[0, 1, 1], [], [2, 0]], dim).assemble([(dtype, data)])[0][0]
        np.testing.assert_array_equal(values, [rows[0] + 2 * rows[1], np.zeros(dim), rows[2] + rows[0]])

    def test_sums_are_kept_in_float32(self):
        rows = np.array([[60000.0], [60000.0], [-60000.0]], np.float32)
        (_, _, values) = one_feature([[0, 1, 2]], 1).assemble([(FLOAT32, rows.tobytes())])[0][0]
        assert values.tolist() == [[60000.0]]

    def test_overflow_is_infinite(self):
        rows = np.array([[60000.0], [-60000.0]], np.float32)
        (_, _, values) = one_feature([[0, 0], [1, 1]], 1).assemble([(FLOAT32, rows.tobytes())])[0][0]
        assert values.tolist() == [[np.inf], [-np.inf]]

    def test_infinities_and_nans_go_through(self):
        rows = np.array([[np.inf] * 8, [-np.inf] * 8, [np.nan] * 8], np.float32)
        (_, _, values) = one_feature([[0], [0, 1], [2]], 8).assemble([(FLOAT32, rows.tobytes())])[0][0]
        assert np.isposinf(values[0]).all()
        assert np.isnan(values[1:]).all()

    def test_sqrt_scaling(self):
        rows = np.full((4, 2), 3.0, np.float32)
        plan = one_feature([[0, 1, 2, 3], [0], []], 2, sqrt_scaling=True)
        (_, _, values) = plan.assemble([(FLOAT32, rows.tobytes())])[0][0]
        assert values.tolist() == [[6.0, 6.0], [3.0, 3.0], [0.0, 0.0]]

    @pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16])
    @pytest.mark.parametrize("summation", [True, False])
    def test_rows_may_lie_anywhere(self, dtype, summation):
        rows = np.arange(16, dtype=np.float32 if dtype == FLOAT32 else np.float16).reshape(1, 16)
        plan = one_feature([[5]], 16, summation=summation)
        for shift in range(5):
            data = memoryview(bytes(shift) + rows.tobytes())[shift:]
            np.testing.assert_array_equal(plan.assemble([(dtype, data)])[0][0][2][-1], rows[0])

    def test_float_sums_are_near_the_exact_ones(self):
        rng = np.random.default_rng(7)
        rows = rng.normal(size=(500, 16)).astype(np.float32)
        samples = [rng.integers(0, 500, 100).tolist() for _ in range(20)]
        distinct = list(dict.fromkeys(sign for ids in samples for sign in ids))
        plan = one_feature(samples, 16)
        (_, _, values) = plan.assemble([(FLOAT32, rows[distinct].tobytes())])[0][0]
        exact = np.array([rows[ids].astype(np.float64).sum(0) for ids in samples])
        np.testing.assert_allclose(values.astype(np.float64), exact, rtol=1e-3, atol=1e-3)
