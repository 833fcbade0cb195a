"""Rows for tables, and what tables hold afterwards."""

import numpy as np


def rows_of(signs: np.ndarray, dim: int, seed: int = 0) -> np.ndarray:
    """Random rows f32 [n, dim], the same for the same seed."""
    return np.random.default_rng(seed).standard_normal((len(signs), dim)).astype(np.float32)


def content(table) -> dict[int, tuple[bytes, int]]:
    """Row and ordinal of each sign."""
    at, found = 0, {}
    while at is not None:
        signs, rows, ordinals, at = table.scan(at, 1000)
        for sign, row, ordinal in zip(signs, rows, ordinals, strict=True):
            found[int(sign)] = (row.tobytes(), int(ordinal))
    return found


def expected_content(signs: np.ndarray, rows: np.ndarray, ordinal: int) -> dict[int, tuple[bytes, int]]:
    """What `content` finds where these rows were loaded with one ordinal."""
    return {int(sign): (row.tobytes(), ordinal) for sign, row in zip(signs, rows, strict=True)}
