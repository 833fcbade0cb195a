"""PERSIA's checkpoint files."""

from collections.abc import Sequence
import mmap

import numpy
import numpy.typing

import satrap._core.table


class EmbeddingFileSummary:
    """What a pass over a .emb file found."""

    @property
    def count(self) -> int:
        """Live nodes, as the header says."""

    @property
    def nodes(self) -> int:
        """Nodes, live and free."""

    @property
    def live(self) -> int:
        """Live nodes found, of every shard."""

    @property
    def rows_by_dim(self) -> dict[int, int]:
        """Rows of the shard asked for, by dim."""

    @property
    def linked(self) -> int | None:
        """
        Live nodes that the links lead to (all that PERSIA itself would load); None if count equals live.
        """

def summarize(file: bytes | mmap.mmap, replica_index: int = 0, replica_size: int = 1) -> EmbeddingFileSummary:
    """
    Read a whole .emb file (any buffer of u8) and count. The rows counted by dim are those of one shard.

    Raises DecodeError. The GIL is released.
    """

def load(file: bytes | mmap.mmap, tables: Sequence[satrap._core.table.Table], replica_index: int = 0, replica_size: int = 1, ordinal: int = 0) -> int:
    """
    Upsert one shard's rows of a .emb file into `tables` (at most one for each dim). Returns how many there are.

    Raises DecodeError (some of the rows before that place are in the tables then), ValueError if a dim has no
    table, MemoryError. The GIL is released.
    """

def read(file: bytes | mmap.mmap) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.float32]]:
    """
    Every live entry of a .emb file: (signs u64 [n], dims u32 [n], inner_lens u32 [n], values f32 [sum of dims]).

    Raises DecodeError. The GIL is released.
    """
