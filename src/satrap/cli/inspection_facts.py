"""What is said of something that is inspected: facts by name, for a person or as JSON."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap._core import ids
from satrap._core import rows as kernels

__all__ = ["DimSummary", "Facts", "Reading", "moment", "owner_of", "shown_values"]

Facts = dict[str, Any]
"""`kind`, `path` and `damage` (a sentence, or empty) are always among them."""


@dataclass
class DimSummary:
    """What is said of the records of one dim, counted while they are read."""

    dim: int
    rows: int = 0
    deletes: int = 0
    signs: tuple[int, int] | None = None
    norms: tuple[float, float] | None = None
    not_finite: int = 0

    def add(self, signs: NDArray[np.uint64], rows: NDArray[Any] | None) -> None:
        """Count records."""
        if not len(signs):
            return
        least, most = int(signs.min()), int(signs.max())
        self.signs = (
            (least, most) if self.signs is None else (min(least, self.signs[0]), max(most, self.signs[1]))
        )
        if rows is None:
            self.deletes += len(signs)
            return
        self.rows += len(signs)
        norms = kernels.norms(rows)
        finite = norms[np.isfinite(norms)]
        self.not_finite += len(norms) - len(finite)
        if len(finite):
            low, high = float(finite.min()), float(finite.max())
            self.norms = (
                (low, high) if self.norms is None else (min(low, self.norms[0]), max(high, self.norms[1]))
            )

    def facts(self) -> Facts:
        """For printing."""
        return {
            "dim": self.dim,
            "rows": self.rows,
            "deletes": self.deletes,
            "signs": list(self.signs) if self.signs else None,
            "norms": list(self.norms) if self.norms else None,
            "not_finite": self.not_finite,
        }


@dataclass
class Reading:
    """What a reading of some records found: of each dim, and of one sign."""

    sign: int | None
    dims: dict[int, DimSummary] = field(default_factory=dict)
    found: list[Facts] = field(default_factory=list)

    def add(self, dim: int, signs: NDArray[np.uint64], rows: NDArray[Any] | None, **where: Any) -> None:
        """Count records: signs u64 [n], rows [n, dim] (none: deletes); `where` is told with those of the sign."""
        self.dims.setdefault(dim, DimSummary(dim)).add(signs, rows)
        if self.sign is None:
            return
        for index in np.flatnonzero(signs == np.uint64(self.sign)):
            row = None if rows is None else rows[index]
            self.found.append({**where, "dim": dim, **shown_values(row)})

    def facts(self) -> Facts:
        """For printing."""
        facts: Facts = {"dims": [self.dims[dim].facts() for dim in sorted(self.dims)]}
        return facts if self.sign is None else facts | {"id": self.sign, "rows_of_id": self.found}


def moment(nanoseconds: int) -> str | None:
    """A time for printing, None for 0."""
    if not nanoseconds:
        return None
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        return f"{nanoseconds} ns"


def shown_values(row: NDArray[Any] | None) -> Facts:
    """A row for printing; JSON has no word for what is not finite."""
    if row is None:
        return {"deleted": True}
    return {"values": [value if math.isfinite(value) else str(value) for value in map(float, row)]}


def owner_of(sign: int, shards: int) -> int:
    """The shard of `shards` that has the rows of a sign."""
    return int(ids.farmhash64(np.array([sign], np.uint64))[0]) % shards
