"""PERSIA's checkpoint files and packets."""

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

class MissingDimError(ValueError):
    pass

def estimate(file: int | bytes | mmap.mmap) -> tuple[int, int] | None:
    """
    The dim and the number of rows that a .emb file (a descriptor, or a buffer of u8) has if its first entries
    are like all others, from these and its size: (0, 0) without rows, None if it has to be summarized.

    Raises DecodeError, OSError. The GIL is released.
    """

def summarize(file: int | bytes | mmap.mmap, replica_index: int = 0, replica_size: int = 1) -> EmbeddingFileSummary:
    """
    Read a whole .emb file (a descriptor, or a buffer of u8) and count. The rows counted by dim are those of
    one shard.

    Raises DecodeError, OSError. The GIL is released.
    """

def load(file: int | bytes | mmap.mmap, tables: Sequence[satrap._core.table.Table], replica_index: int = 0, replica_size: int = 1, ordinal: int = 0) -> EmbeddingFileSummary:
    """
    Insert one shard's rows of a .emb file into `tables` (at most one for each dim), which nobody reads yet, and
    count as `summarize` does. Any number of threads may load into the same tables.

    Raises DecodeError, MissingDimError (a ValueError), OSError, TableSpaceError: some of the rows are in the
    tables then, and the file may be loaded again. The GIL is released.
    """

def read_packet(data: bytes | bytearray | memoryview | mmap.mmap, replica_index: int = 0, replica_size: int = 1) -> tuple[int, dict[int, tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.float32]]], dict[int, int]]:
    """
    Read a whole .inc file: (unix_seconds, {dim: (signs u64 [n], rows f32 [n, dim])}, {dim: entries}).

    Rows are those of one shard, in the order of the file, without the optimizer's floats; entries are counted of
    every shard. A file that does not end with its time is refused.

    Raises DecodeError. The GIL is released.
    """

def read(file: int | bytes | mmap.mmap) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.float32]]:
    """
    Every live entry of a .emb file: (signs u64 [n], dims u32 [n], inner_lens u32 [n], values f32 [sum of dims]).

    Raises DecodeError, OSError. The GIL is released.
    """
