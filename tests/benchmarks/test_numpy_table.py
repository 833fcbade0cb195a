"""The peer's lookups: both tables find what is there, and zeros for what is not."""

import importlib
from pathlib import Path

import numpy as np
import pytest

SAMPLES, IDS, DIM, ROWS = 4, 8, 16, 1000


@pytest.fixture
def numpy_table(monkeypatch):
    handlers = Path(__file__).parents[2] / "benchmarks" / "peers" / "torchserve_handlers"
    monkeypatch.syspath_prepend(str(handlers))
    return importlib.import_module("numpy_table")


@pytest.mark.parametrize("table", ["SearchTable", "BucketTable"])
def test_sums_rows_and_takes_absent_ids_as_zeros(numpy_table, table, tmp_path):
    random = np.random.default_rng(1)
    keys = np.sort(random.choice(2**56, size=(2, ROWS), replace=False).astype(np.uint64), axis=1)
    rows = random.standard_normal((2, ROWS, DIM), dtype=np.float32)
    np.save(tmp_path / "keys.npy", keys)
    np.save(tmp_path / "rows.npy", rows.reshape(-1, DIM))
    chosen = random.integers(0, ROWS, size=SAMPLES * IDS)
    ids, expected = keys[1][chosen], rows[1][chosen]
    ids[[0, 5]] = [keys[1][chosen[0]] + np.uint64(1), np.uint64(2**56 - 1)]
    expected[[0, 5]] = 0
    pooled = getattr(numpy_table, table)(tmp_path).pooled(1, ids, SAMPLES)
    np.testing.assert_allclose(pooled, expected.reshape(SAMPLES, IDS, DIM).sum(axis=1), rtol=1e-5, atol=1e-5)
