"""What a server answers from: one generation of tables, whole, and what was asked of it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from satrap._core.table import Table
from satrap.embedding_server.origin import NO_ORIGIN, Origin

__all__ = ["Counters", "Generation", "RowDType", "Totals"]

RowDType = Literal["float32", "float16"]


@dataclass(frozen=True)
class Generation:
    """The tables of one checkpoint, by dim, where they came from, and where other processes find them.

    `folder` and `instance_id` (16 random bytes) lead a process of the same machine to the tables. A server holds one
    generation at a time and replaces it by a single assignment (also when a packet brings a new dim); a call that has
    begun goes on with the one that it took, whose memory lives as long as that call.
    """

    row_dtype: RowDType
    tables: Mapping[int, Table]
    folder: str
    instance_id: bytes
    checkpoint: str = ""
    warnings: tuple[str, ...] = ()
    origin: Origin = NO_ORIGIN

    @property
    def rows(self) -> int:
        """Rows of all dims."""
        return sum(len(table) for table in self.tables.values())


class Totals(NamedTuple):
    """Signs asked since start, those that no table holds, and those that a table of another dim holds."""

    lookups: int = 0
    missing: int = 0
    dim_mismatch: int = 0


class Counters:
    """Totals that any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()

    def add(self, lookups: int, missing: int, dim_mismatch: int) -> None:
        """Count one call's signs."""
        with self._lock:
            before = self._totals
            self._totals = Totals(
                before.lookups + lookups, before.missing + missing, before.dim_mismatch + dim_mismatch
            )

    @property
    def totals(self) -> Totals:
        """What was counted so far."""
        return self._totals
