"""Rows by sign."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy
import numpy.typing
from numpy.typing import NDArray


MAX_DIM: int = 4096

class TableError(Exception):
    pass

class TableSpaceError(MemoryError):
    pass

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

    def erase(self, signs: Annotated[NDArray[numpy.uint64], dict(shape=(None,), order='C', device='cpu', writable=False)], ordinal: int) -> int:
        """
        Remove the rows of signs (u64 [n]), except where a greater ordinal is stored. Returns how many went.

        A tombstone with the ordinal stays, so that an older upsert does not bring a row back.
        """

    def capture(self, signs: numpy.typing.NDArray[numpy.uint64]) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[Any]]:
        """
        What the table knows of signs (u64 [n]), to restore it later: (states u8 [n], ordinals u32 [n], rows [n, dim]).

        A state is 0 absent (ordinal 0), 1 present, 2 tombstone; rows that are not present are zeros. Takes turns with writers.
        """

    def restore(self, signs: numpy.typing.NDArray[numpy.uint64], states: numpy.typing.NDArray[numpy.uint8], ordinals: numpy.typing.NDArray[numpy.uint32], rows: numpy.typing.NDArray[Any]) -> int:
        """
        Put signs back into what capture() returned for them, whatever ordinals they have now.

        Rows (of the table's dtype) and tombstones get the ordinals given. A sign that was absent becomes a tombstone
        of ordinal 0, behind which any row may come again. Sent again it ends in the same table; later entries win.
        Returns how many signs were written. Raises ValueError: an array of another length, shape or dtype, or a
        state above 2, nothing is written; MemoryError: the signs before are restored, the table is whole.
        """

    def forget_tombstones(self, horizon: int) -> None:
        """
        Let rebuilds drop tombstones with an ordinal below `horizon`: nothing older will come.
        """

    def reserve(self, rows: int) -> None:
        """Make room for `rows` in all. Raises TableSpaceError."""

    def finish_bulk(self) -> None:
        """
        End a load (embedding_file.load): count the rows, and give back room that none came for. Raises
        TableSpaceError, after which the table is as it was.
        """

    def scan(self, start: int = 0, limit: int = 65536) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[Any], numpy.typing.NDArray[numpy.uint32], int | None]:
        """
        One page of rows: (signs u64 [n], rows [n, dim], ordinals u32 [n], next_start or None after the last).

        A page holds about `limit` rows. Between pages writes may be seen or not; growth may repeat rows, but leaves none out.
        """

    def tombstones(self, start: int = 0, limit: int = 65536) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32], int | None]:
        """
        One page of signs that are erased: (signs u64 [n], ordinals u32 [n], next_start or None after the last).

        As `scan`. Takes turns with writers.
        """

    def __len__(self) -> int: ...

    @property
    def size(self) -> int:
        """Rows present."""

    @property
    def bytes(self) -> int:
        """Memory held, everything counted."""

    @property
    def huge_pages(self) -> bool:
        """Whether all segments of 2 MiB and more are in huge pages."""

    @property
    def dim(self) -> int: ...

    @property
    def dtype(self) -> Literal['float32', 'float16']: ...

    def __repr__(self) -> str: ...

class TableControl:
    """What a generation's control file said at one moment."""

    @property
    def instance_id(self) -> bytes: ...

    @property
    def boot_id(self) -> bytes: ...

    @property
    def replica_index(self) -> int: ...

    @property
    def replica_size(self) -> int: ...

    @property
    def layout(self) -> int: ...

    @property
    def state(self) -> Literal['loading', 'serving', 'abandoned']: ...

    @property
    def pid(self) -> int:
        """The server that holds the lock, or held it last."""

    @property
    def tables(self) -> int:
        """How many tables are whole."""

    @property
    def locked(self) -> bool:
        """Whether a living process holds the generation."""

    @property
    def heartbeat_age_ns(self) -> int: ...

    @property
    def info(self) -> bytes: ...

    @property
    def applied(self) -> tuple[int, int]:
        """(sequence, event_time_ns) of the last packet that is wholly applied."""

def read_control(folder: str) -> TableControl:
    """
    What the control file of the generation in `folder` says; it is neither locked nor changed.

    Raises TableError: there is none, or it is damaged, cut, or of another layout.
    """

class TableInspection:
    """What the files of a table say."""

    @property
    def dim(self) -> int: ...

    @property
    def dtype(self) -> Literal['float32', 'float16']: ...

    @property
    def row_bytes(self) -> int: ...

    @property
    def boot_id(self) -> bytes: ...

    @property
    def rows(self) -> int:
        """As the writer counts them, after each batch."""

    @property
    def occupied(self) -> int:
        """Slots with a row, counted."""

    @property
    def tombstones(self) -> int:
        """Slots with an erased sign."""

    @property
    def slots(self) -> int: ...

    @property
    def overflowed(self) -> int:
        """Buckets that a search goes past."""

    @property
    def changing(self) -> int:
        """Buckets that the writer is, or was, inside."""

    @property
    def segments(self) -> int: ...

    @property
    def bytes(self) -> int:
        """Memory of all files of the folder."""

def inspect_table(folder: str, count_slots: bool = True) -> TableInspection:
    """
    Read every header in a table's folder, those of buckets only if `count_slots` is set; nothing is changed.

    Raises TableError: something is damaged, missing, or of another layout; TableSpaceError.
    """

def present_boot() -> bytes:
    """16 bytes that differ from one run of the machine to the next."""

MAX_INFO_BYTES: int = 30704

def discard_generation(folder: str) -> None:
    """
    Mark the generation in `folder` abandoned and remove it, whatever state it is in.

    Raises TableError: a living process holds it, or it cannot be removed.
    """

class TableGeneration:
    """
    The tables of one checkpoint in a folder of their own, with their writer: it holds the control
    file's lock, and a thread of its own keeps the heartbeat fresh. Any thread may call.
    """

    @staticmethod
    def create(folder: str, *, instance: bytes, boot_id: bytes, replica_index: int, replica_size: int, info: bytes, file_mode: int = 384, folder_mode: int = 448, group: int | None = None) -> TableGeneration:
        """
        Make `folder`, and in it a generation without tables that is loading.

        `instance` and `boot_id` have 16 bytes, `info` at most MAX_INFO_BYTES. Raises TableSpaceError,
        TableError, ValueError.
        """

    @staticmethod
    def recover(folder: str, *, boot_id: bytes, replica_index: int, replica_size: int) -> TableGeneration:
        """
        Take over the generation that another process left in `folder`, tables included.

        Raises TableError with the reason why it is refused, after which nothing has changed;
        TableSpaceError.
        """

    def add_table(self, dim: int, dtype: Literal['float32', 'float16'], rows: int, threads: int = 1) -> Table:
        """
        A new table with room for `rows` rows, which `threads` threads allocate.

        Raises TableSpaceError, after which nothing of it is left; ValueError: there is one of `dim`.
        """

    @property
    def tables(self) -> dict[int, Table]:
        """The tables by dim."""

    def serve(self) -> None:
        """Say that it is whole: the next start may take it over."""

    def abandon(self) -> None:
        """
        Tell readers in other processes to leave. Tables go on for those of this process.
        """

    def remove(self) -> None:
        """
        Abandon, unlink everything, and close. Memory is given back when the last reader lets go.
        """

    def close(self) -> None:
        """
        Let go of lock and heartbeat. The tables stay where they are, for `recover`.
        """

    def set_applied(self, sequence: int, event_time_ns: int) -> None:
        """
        Everything up to the packet `sequence` is applied; its newest event is of that time.
        """

    @property
    def applied(self) -> tuple[int, int]:
        """(sequence, event_time_ns), (0, 0) at first."""

    @property
    def info(self) -> bytes:
        """
        What was told at its creation, or set since; replaced whole or not at all.
        """

    @info.setter
    def info(self, arg: bytes, /) -> None: ...

    @property
    def state(self) -> Literal['loading', 'serving', 'abandoned']: ...

    @property
    def instance_id(self) -> bytes: ...

    @property
    def folder(self) -> str: ...

    @property
    def bytes(self) -> int:
        """Memory held, everything counted."""

class TableReader:
    """
    The tables of a generation that a server on this machine writes, mapped read-only.

    Any thread may use it at any time, and close it. Make it after a fork, never before: threads of its own follow
    the tables as they grow. The GIL is released.
    """

    def __init__(self, folder: str, instance_id: bytes, uid: int) -> None:
        """
        Attach the generation in `folder`, which must hold that id (16 bytes) and belong to user `uid` or root.

        Raises TableError with the reason: missing, damaged, cut, of another instance, owner, layout or boot, loading,
        abandoned; TableSpaceError: no descriptor or no memory left. Nothing stays mapped then.
        """

    @property
    def folder(self) -> str: ...

    @property
    def instance_id(self) -> bytes: ...

    def condition(self) -> tuple[Literal['live', 'orphaned', 'abandoned'], float]:
        """
        The state, and seconds since the server's last heartbeat.

        orphaned: nobody holds the lock, or no heartbeat for a second. abandoned: superseded or given up.
        Raises TableError: closed, or the state is damaged.
        """

    @property
    def state(self) -> Literal['live', 'orphaned', 'abandoned']:
        """The state alone. Raises TableError as condition()."""

    @property
    def applied(self) -> tuple[int, int]:
        """
        How far the server's updates are: the last packet's sequence number, and its newest event in nanoseconds since the epoch. Raises TableError: closed.
        """

    def lookup(self, groups: Sequence[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], int, int]:
        """
        Rows of [(dim, signs as packed u64)]: ([(dtype, rows)], missing, dim_mismatch).

        dtype is 1 (float32) or 2 (float16); rows are packed, zeros for signs that no table holds (missing) or one
        of another dim (dim_mismatch). Raises TableError: closed, or a file cannot be used; TableSpaceError: it
        cannot be mapped.
        """

    def close(self) -> None:
        """
        Unmap everything; lookups that run end first, later ones raise TableError.
        """
