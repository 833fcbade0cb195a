"""Rows by sign."""

from typing import Annotated, Any, Literal

import numpy
import numpy.typing
from numpy.typing import NDArray


MAX_DIM: int = 4096

class Table:
    """
    Rows of one dim and dtype by sign (any u64).

    Any number of threads may look up, scan and ask while one writes (several writers take turns): a
    reader never sees half a row, nor waits for growth. A row is atomic, a batch is not. The GIL is
    released. Arrays must be C-contiguous and of the exact dtype; nothing is converted silently.
    """

    def __init__(self, dim: int, dtype: Literal['float32', 'float16'], capacity_hint: int = 0) -> None:
        """
        An empty table for `capacity_hint` rows, which grows beyond that.

        Raises ValueError unless 1 <= dim <= MAX_DIM and dtype is 'float32' or 'float16'; MemoryError.
        """

    def lookup(self, signs: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu')], found: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')] | None = None) -> int:
        """
        Copy the row of signs[i] (u64 [n]) into out[i] ([n, dim] of the table's dtype), zeros where there is none.

        `found` (u8 [n]) gets 1 or 0 for each. Returns how many were missing.
        """

    def contains(self, signs: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], found: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> int:
        """
        Set found[i] (u8 [n]) to 1 where signs[i] (u64 [n]) has a row, else 0. Returns how many have.
        """

    def upsert(self, signs: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu', writable=False)], ordinal: int = 0) -> int:
        """
        Write rows ([n, dim] float32, or the table's dtype; rounded to float16 where needed) for signs (u64 [n]).

        A stored row of a greater ordinal stays; an equal one is overwritten; later entries of the batch win.
        Returns how many were written. Raises MemoryError: the rows before are there, the table is whole.
        """

    def erase(self, signs: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], ordinal: int = 4294967295) -> int:
        """
        Remove the rows of signs (u64 [n]) whose ordinal is not greater. Returns how many went.
        """

    def reserve(self, rows: int) -> None:
        """Make room for `rows` in all. Raises MemoryError."""

    def scan(self, start: int = 0, limit: int = 65536) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[Any], numpy.typing.NDArray[numpy.uint32], int | None]:
        """
        One page of rows: (signs u64 [n], rows [n, dim], ordinals u32 [n], next_start or None after the last).

        A page holds about `limit` rows. Between pages writes may be seen or not; growth may repeat or skip rows.
        """

    def __len__(self) -> int: ...

    @property
    def size(self) -> int:
        """Rows present."""

    @property
    def bytes(self) -> int:
        """Memory held, everything counted."""

    @property
    def dim(self) -> int: ...

    @property
    def dtype(self) -> Literal['float32', 'float16']: ...

    def __repr__(self) -> str: ...
