"""PERSIA's packets as PERSIA's own code writes them, in NumPy: a trainer for tests, its defects included."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MARKER = "inc_update_done"
Rows = Iterable[tuple[int, np.ndarray]]


def inc_bytes(rows: Rows, unix_seconds: int, optimizer_floats: int = 1) -> bytes:
    """A .inc file of (sign, row) with as many floats of optimizer state behind each."""
    entries = []
    for sign, row in rows:
        inner = np.concatenate([np.asarray(row, "<f4"), np.full(optimizer_floats, 0.5, "<f4")])
        entries.append(struct.pack("<I", len(inner)) + inner.tobytes() + struct.pack("<QQ", len(row), sign))
    return struct.pack("<I", len(entries)) + b"".join(entries) + struct.pack("<Q", unix_seconds)


def rows_of(signs: Iterable[int], value: float, dim: int = 4) -> list[tuple[int, np.ndarray]]:
    """A row of `dim` floats for each sign, all of `value`."""
    return [(sign, np.full(dim, value, np.float32)) for sign in signs]


@dataclass
class PersiaTrainer:
    """Publishes below a packet directory."""

    root: Path

    def write(
        self, directory: str, file: str, rows: Rows, unix_seconds: int, *, cut: int | None = None
    ) -> Path:
        """Write `s0/inc_...`/`0_0.inc`, or the first `cut` bytes of it."""
        folder = self.root / directory
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file
        path.write_bytes(inc_bytes(rows, unix_seconds)[:cut])
        return path

    def mark(self, *directories: str) -> None:
        """Say that they are whole."""
        for directory in directories:
            (self.root / directory).mkdir(parents=True, exist_ok=True)
            (self.root / directory / MARKER).touch()
