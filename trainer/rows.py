"""The trainer's own copy of every row, which packets and checkpoints are made from.

A checkpoint is exactly the state at its sequence, though training goes on while it is written. So while one is
written the tables stand still: changes go to others that lie over them, and are moved down when it is finished.

    read(sign):  above?  its row.   erased above?  none.   otherwise what is below.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from satrap._core.table import Table

__all__ = ["FrozenRows", "RowDType", "Rows"]

RowDType = Literal["float32", "float16"]
Signs = NDArray[np.uint64]

_PAGE_ROWS = 65_536
_NO_TOMBSTONES = 1
"""Every ordinal here is 0: the last write wins, and an erased sign needs no memory of it."""


@dataclass(frozen=True)
class FrozenRows:
    """The rows of one moment, by dim. Valid until `Rows.thaw`; any thread may read it."""

    tables: Mapping[int, Table]

    @property
    def count(self) -> int:
        """Rows of all dims."""
        return sum(len(table) for table in self.tables.values())

    def pages(self, dim: int) -> Iterator[tuple[Signs, NDArray[Any]]]:
        """(signs u64 [n], rows [n, dim]), each sign once, in no order."""
        return _scan(self.tables[dim])


class Rows:
    """Rows by sign and dim, in native tables. The caller lets one thread write or read it at a time."""

    def __init__(self, dtype: RowDType) -> None:
        self.dtype: RowDType = dtype
        self._tables: dict[int, Table] = {}
        self._above: dict[int, Table] = {}
        self._erased: dict[int, Table] = {}
        self._frozen = False

    @property
    def count(self) -> int:
        """Rows of all dims."""
        if not self._frozen:
            return sum(len(table) for table in self._tables.values())
        covered = 0
        for dim, table in self._tables.items():
            for over in (self._above.get(dim), self._erased.get(dim)):
                if over is not None:
                    covered += sum(_count_present(table, signs) for signs, _ in _scan(over))
        below = sum(len(table) for table in self._tables.values())
        return below - covered + sum(len(table) for table in self._above.values())

    def reserve(self, dim: int, rows: int) -> None:
        """Make room for `rows` rows of a dim in all."""
        self._table(self._tables, dim).reserve(rows)

    def adopt(self, dim: int, table: Table) -> None:
        """Take a whole table, of the rows' dtype, of a dim that has no rows yet."""
        self._tables[dim] = table

    def write(self, dim: int, signs: Signs, rows: NDArray[Any]) -> None:
        """Set the rows ([n, dim] of float32 or float16) of signs; the last one of a sign counts."""
        if not len(signs):
            return
        if rows.dtype == np.float16 and self.dtype == "float32":
            rows = rows.astype(np.float32)
        self._table(self._above if self._frozen else self._tables, dim).upsert(signs, rows)
        if dim in self._erased:
            _forget(self._erased[dim], signs)

    def erase(self, dim: int, signs: Signs) -> None:
        """Let signs have no row."""
        if not len(signs):
            return
        if not self._frozen:
            if dim in self._tables:
                _forget(self._tables[dim], signs)
            return
        if dim in self._above:
            _forget(self._above[dim], signs)
        if dim not in self._erased:
            self._erased[dim] = Table(1, "float16")
        self._erased[dim].upsert(signs, np.zeros((len(signs), 1), np.float16))

    def read(self, dim: int, signs: Signs) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(rows [n, dim] of the rows' dtype, zeros where there is none; found bool [n])."""
        rows = np.zeros((len(signs), dim), self.dtype)
        found = np.zeros(len(signs), np.uint8)
        if not len(signs):
            return rows, found.astype(bool)
        if dim in self._tables:
            self._tables[dim].lookup(signs, rows, found)
        if self._frozen and dim in self._erased:
            erased = np.zeros(len(signs), np.uint8)
            self._erased[dim].contains(signs, erased)
            rows[erased == 1] = 0
            found[erased == 1] = 0
        if self._frozen and dim in self._above:
            newer = np.zeros_like(rows)
            there = np.zeros(len(signs), np.uint8)
            self._above[dim].lookup(signs, newer, there)
            rows[there == 1] = newer[there == 1]
            found[there == 1] = 1
        return rows, found.astype(bool)

    def freeze(self) -> FrozenRows:
        """Hold the present state still until `thaw`; it is not frozen already."""
        if self._frozen:
            raise RuntimeError("the rows are frozen already")
        self._frozen = True
        return FrozenRows(dict(self._tables))

    def thaw(self) -> None:
        """Move what changed since `freeze` down; takes as long as writing those rows anew."""
        if not self._frozen:
            return
        self._frozen = False
        above, erased = self._above, self._erased
        self._above, self._erased = {}, {}
        for dim, table in erased.items():
            for signs, _ in _scan(table):
                self.erase(dim, signs)
        for dim, table in above.items():
            for signs, rows in _scan(table):
                self.write(dim, signs, rows)

    def _table(self, tables: dict[int, Table], dim: int) -> Table:
        if dim not in tables:
            tables[dim] = Table(dim, self.dtype)
        return tables[dim]


def _scan(table: Table) -> Iterator[tuple[Signs, NDArray[Any]]]:
    start: int | None = 0
    while start is not None:
        signs, rows, _, start = table.scan(start, _PAGE_ROWS)
        if len(signs):
            yield signs, rows


def _forget(table: Table, signs: Signs) -> None:
    table.erase(signs, 0)
    table.forget_tombstones(_NO_TOMBSTONES)


def _count_present(table: Table, signs: Signs) -> int:
    return table.contains(signs, np.zeros(len(signs), np.uint8))
