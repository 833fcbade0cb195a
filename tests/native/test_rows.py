"""What is asked of rows before a table has them: one class of tests over the native kernels and numpy twins."""

from types import SimpleNamespace

import lookup_twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap._core import rows as native


def twin_norms(rows):
    with np.errstate(invalid="ignore", over="ignore"):
        squares = rows.astype(np.float64) ** 2
        lanes = np.zeros((len(rows), 8))
        for begin in range(0, rows.shape[1], 8):
            piece = squares[:, begin : begin + 8]
            lanes[:, : piece.shape[1]] += piece
        for width in (4, 2, 1):
            lanes[:, :width] += lanes[:, width : 2 * width]
        return np.sqrt(lanes[:, 0])


def twin_owned(signs, replica_index, replica_size):
    return lookup_twin.farmhash64(signs) % np.uint64(replica_size) == replica_index


def twin_inspect(signs, rows, replica_index=0, replica_size=1):
    misrouted = int((~twin_owned(signs, replica_index, replica_size)).sum())
    if rows is None:
        return misrouted, -1, 0.0
    finite = np.isfinite(rows).all(axis=1)
    bad = -1 if finite.all() else int(np.argmin(finite))
    return misrouted, bad, float(twin_norms(rows)[finite].max(initial=0))


def twin_select(signs, rows, replica_index, replica_size):
    owned = twin_owned(signs, replica_index, replica_size)
    return signs[owned], None if rows is None else rows[owned]


TWIN = SimpleNamespace(inspect=twin_inspect, norms=twin_norms, select=twin_select)

SIGNS = np.arange(100, dtype=np.uint64) * np.uint64(2**57 + 3)


def some_rows(n, dim, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(dtype)


class Kernels:
    kernels = TWIN

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("dim", [1, 7, 8, 16, 33])
    def test_norms(self, dim, dtype):
        rows = some_rows(100, dim, dtype)
        norms = self.kernels.norms(rows)
        assert norms.dtype == np.float64
        np.testing.assert_allclose(norms, np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-12)
        assert self.kernels.inspect(SIGNS, rows) == (0, -1, norms.max())

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("at", [(0, 0), (57, 18), (99, 32)])
    def test_the_first_row_that_is_not_finite(self, at, bad, dtype):
        rows = some_rows(100, 33, dtype)
        rows[at] = rows[99, 7] = bad
        finite = np.delete(rows, sorted({at[0], 99}), axis=0)
        _, first, norm = self.kernels.inspect(SIGNS, rows)
        assert first == at[0] and norm == self.kernels.norms(finite).max()
        assert not np.isfinite(self.kernels.norms(rows)[at[0]])

    def test_the_greatest_values_have_a_norm(self):
        rows = np.full((2, 4), np.finfo(np.float32).max)
        assert self.kernels.inspect(SIGNS[:2], rows) == (0, -1, 2 * float(np.finfo(np.float32).max))

    def test_signs_of_other_shards_are_counted(self):
        rows = some_rows(100, 2, np.float32)
        counts = [self.kernels.inspect(SIGNS, rows, index, 3)[0] for index in range(3)]
        assert sum(counts) == 200 and min(counts) > 40
        assert self.kernels.inspect(SIGNS, None, 1, 3) == (counts[1], -1, 0.0)

    def test_each_sign_is_selected_once_in_order(self):
        rows = some_rows(100, 3, np.float16)
        positions = []
        for index in range(3):
            signs, own = self.kernels.select(SIGNS, rows, index, 3)
            at = np.searchsorted(SIGNS, signs)
            assert (np.diff(at) > 0).all() and own.tobytes() == rows[at].tobytes()
            assert self.kernels.inspect(signs, own, index, 3)[0] == 0
            assert self.kernels.select(SIGNS, None, index, 3)[1] is None
            positions += at.tolist()
        assert sorted(positions) == list(range(100))

    def test_nothing(self):
        none, rows = np.empty(0, np.uint64), np.empty((0, 4), np.float32)
        assert self.kernels.inspect(none, rows, 1, 2) == (0, -1, 0.0)
        signs, own = self.kernels.select(none, rows, 1, 2)
        assert len(signs) == 0 and own.shape == (0, 4) and len(self.kernels.norms(rows)) == 0


class TestTwin(Kernels):
    pass


class TestNative(Kernels):
    kernels = native

    @given(st.integers(0, 2**32), st.integers(0, 40), st.integers(1, 40), st.sampled_from(["f4", "f2"]))
    @settings(deadline=None)
    def test_same_as_its_twin(self, seed, n, dim, dtype):
        random = np.random.default_rng(seed)
        signs = random.integers(0, 2**64 - 1, n, np.uint64)
        rows = random.integers(0, 256, (n, dim * np.dtype(dtype).itemsize), np.uint8).view(dtype)
        assert native.inspect(signs, rows, 1, 3) == TWIN.inspect(signs, rows, 1, 3)
        np.testing.assert_array_equal(native.norms(rows), TWIN.norms(rows))
        for mine, twins in zip(native.select(signs, rows, 1, 3), TWIN.select(signs, rows, 1, 3), strict=True):
            assert mine.dtype == twins.dtype and mine.tobytes() == twins.tobytes()

    def test_borrowed_bytes_at_any_alignment(self):
        rows = some_rows(100, 5, np.float32)
        signs = np.frombuffer(b"x" + SIGNS.tobytes(), np.uint8)[1:].view(np.uint64)
        moved = np.frombuffer(b"xyz" + rows.tobytes(), np.uint8)[3:].view(np.float32).reshape(100, 5)
        assert not signs.flags.aligned and not moved.flags.writeable
        assert native.inspect(signs, moved, 1, 3) == native.inspect(SIGNS, rows, 1, 3)
        assert native.select(signs, moved, 1, 3)[1].tobytes() == native.select(SIGNS, rows, 1, 3)[1].tobytes()

    def test_what_is_refused(self):
        rows = some_rows(100, 2, np.float32)
        with pytest.raises(ValueError, match="replica_index must be below replica_size: 3 of 3"):
            native.inspect(SIGNS, rows, 3, 3)
        with pytest.raises(ValueError, match="one for each of 100 signs, not 99"):
            native.inspect(SIGNS, rows[:99])
        with pytest.raises(ValueError, match="float32 or float16"):
            native.norms(rows.astype(np.float64))
        with pytest.raises(TypeError):
            native.inspect(SIGNS.astype(np.int64), rows)
