"""What the trainer of `updates.py` trains: which ids a packet has, and what their rows are after it.

Both follow from numbers, so every process of a run knows them without being told.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIM", "FEATURE", "Stream", "is_row_of", "rows_of", "version_of"]

DIM = 16
FEATURE = "feature_0"

_NEW_SHARE = 10
_HOT_SHARE = 10
_HOT_IDS = 2_000
_MODULUS = 8_191

Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """Packets over a table of `rows` rows: a tenth of each packet new ids, a tenth of few hot ones, the rest any."""

    rows: int
    packet_rows: int
    seed: int

    def first_ids(self) -> Ids:
        """Of the checkpoint, whose rows have version 0."""
        return np.arange(self.rows, dtype=np.uint64)

    def ids(self, packet: int) -> Ids:
        """Of packet number 1, 2, ...: distinct."""
        random = np.random.default_rng((self.seed, packet))
        fresh = self.packet_rows // _NEW_SHARE
        first = self.rows + (packet - 1) * fresh
        hot = random.choice(min(_HOT_IDS, self.rows), min(self.packet_rows // _HOT_SHARE, self.rows), False)
        old = random.permutation(np.unique(random.integers(0, self.rows, self.packet_rows)))
        known = np.concatenate([hot, old[~np.isin(old, hot)]])[: self.packet_rows - fresh]
        return np.concatenate([np.arange(first, first + fresh), known]).astype(np.uint64)

    def last_versions(self, packets: int) -> tuple[Ids, NDArray[np.int64]]:
        """Every id there is after so many packets, and the packet that wrote it last (0: the checkpoint)."""
        fresh = self.packet_rows // _NEW_SHARE
        versions = np.zeros(self.rows + packets * fresh, np.int64)
        for packet in range(1, packets + 1):
            versions[self.ids(packet)] = packet
        return np.arange(len(versions), dtype=np.uint64), versions


def rows_of(ids: Ids, versions: NDArray[np.int64] | int) -> Rows:
    """The rows f32 [n, DIM] of ids after the packet that wrote them; whole numbers, so they compare exactly."""
    rows = np.empty((len(ids), DIM), np.float32)
    rows[:, 0] = versions
    mixed = (ids * np.uint64(31) + np.asarray(versions).astype(np.uint64) * np.uint64(17)) % np.uint64(
        _MODULUS
    )
    rows[:, 1:] = mixed.astype(np.float32)[:, None] + np.arange(1, DIM, dtype=np.float32)
    return rows


def version_of(rows: Rows) -> NDArray[np.int64]:
    """Which packet wrote each row."""
    return rows[:, 0].astype(np.int64)


def is_row_of(ids: Ids, rows: Rows) -> NDArray[np.bool_]:
    """Whether each row is, in every value, one that its id has had: no half of one and half of another."""
    same: NDArray[np.bool_] = (rows == rows_of(ids, version_of(rows))).all(axis=1)
    return same
