"""The file that takes one packet back: what the tables knew of its signs before its first row.

It is written under a temporary name and renamed, in the machine's byte order:

    magic "satrapUN"      8 bytes
    header length         u32, then u32 zero
    header                JSON, UTF-8, padded with blanks to a multiple of 8:
                          {"version": 1, "name", "sequence", "previous": [sequence, event_ns],
                           "groups": [{"dim", "dtype", "signs", "present"}]}
    per group, each array padded to a multiple of 8 bytes:
                          signs u64 [signs], ordinals u32 [signs], states u8 [signs], rows [present, dim]
    checksum              u64, XXH3-64 of everything before
"""

import contextlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from satrap._core.table import Table
from satrap.errors import TableFolderError

__all__ = [
    "UNDO_MAGIC",
    "UndoEntry",
    "UndoRows",
    "Watermark",
    "read_undo_entry",
    "read_undo_file",
    "read_undo_rows",
    "undo_path",
    "write_undo_file",
]

UNDO_MAGIC = b"satrapUN"
"""The first bytes."""

_PREFIX = struct.Struct("=8sII")
_CHECKSUM = struct.Struct("=Q")
_VERSION = 1
_MAX_HEADER = 1 << 20
_ALIGN = 8
_PRESENT = 1
_ROW_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}


class Watermark(NamedTuple):
    """How far a generation is: the last packet's sequence, and its newest event in nanoseconds since the epoch."""

    sequence: int
    event_ns: int


@dataclass(frozen=True)
class UndoEntry:
    """One packet that can be taken back; `previous` is the watermark that it found."""

    number: int
    name: str
    sequence: int
    previous: Watermark

    @property
    def after(self) -> int:
        """The sequence of the watermark that the packet left: it never goes back by itself."""
        return max(self.previous.sequence, self.sequence)


@dataclass(frozen=True)
class UndoRows:
    """What a table knew of signs (u64 [n]) before a packet: states u8 [n] (0 absent, 1 present, 2 deleted), ordinals
    u32 [n], and the rows [present, dim] of those present, in their order.
    """

    dim: int
    dtype: str
    signs: NDArray[np.uint64]
    states: NDArray[np.uint8]
    ordinals: NDArray[np.uint32]
    rows: NDArray[Any]

    @staticmethod
    def capture(table: Table | None, dim: int, signs: Sequence[NDArray[np.uint64]]) -> "UndoRows":
        """Ask a table; without one nothing is known of any sign."""
        # A sign that comes twice is kept twice, alike: that costs less than finding out.
        every = signs[0] if len(signs) == 1 else np.concatenate(signs)
        if table is None:
            n = len(every)
            nothing = np.zeros((0, dim), np.float32)
            return UndoRows(dim, "float32", every, np.zeros(n, np.uint8), np.zeros(n, np.uint32), nothing)
        states, ordinals, rows = table.capture(every)
        present = (
            rows if states.all() and states.max(initial=_PRESENT) == _PRESENT else rows[states == _PRESENT]
        )
        return UndoRows(dim, table.dtype, every, states, ordinals, np.ascontiguousarray(present))

    def restore(self, table: Table) -> None:
        """Put everything back into a table."""
        dtype: np.dtype[Any] = _ROW_DTYPES[table.dtype]
        present = self.states == _PRESENT
        rows: NDArray[Any] = np.zeros((len(self.signs), self.dim), dtype)
        rows[present] = self.rows
        table.restore(self.signs, self.states, self.ordinals, rows)

    def facts(self) -> dict[str, object]:
        """What the header says of it."""
        return {"dim": self.dim, "dtype": self.dtype, "signs": len(self.signs), "present": len(self.rows)}


def write_undo_file(folder: Path, entry: UndoEntry, groups: Sequence[UndoRows]) -> None:
    """Write the file of `entry` into `folder`, which is made if it has to be: whole, or not at all.

    Raises:
        OSError: it cannot be written.
    """
    header = json.dumps(
        {
            "version": _VERSION,
            "name": entry.name,
            "sequence": entry.sequence,
            "previous": list(entry.previous),
            "groups": [group.facts() for group in groups],
        }
    ).encode()
    header += b" " * (-len(header) % _ALIGN)
    digest = xxhash.xxh3_64()
    folder.mkdir(mode=0o700, exist_ok=True)
    path = undo_path(folder, entry.number)
    unnamed = path.with_name(f".{path.name}")
    try:
        with unnamed.open("wb") as file:
            for piece in (_PREFIX.pack(UNDO_MAGIC, len(header), 0), header, *_pieces(groups)):
                digest.update(piece)
                file.write(piece)
            file.write(_CHECKSUM.pack(digest.intdigest()))
        unnamed.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unnamed.unlink()
        raise


def undo_path(folder: Path, number: int) -> Path:
    """What the file of a number is called."""
    return folder / f"{number:020d}"


def read_undo_file(path: Path) -> tuple[UndoEntry, list[UndoRows]]:
    """Everything that one file says, checked, for whoever looks.

    Raises:
        TableFolderError: it is damaged, cut, or no undo file.
        OSError: it cannot be read.
    """
    groups = read_undo_rows(path)
    try:
        entry = read_undo_entry(path)
    except ValueError as error:
        raise TableFolderError(path, f"is damaged ({error})") from error
    return entry, groups


def _pieces(groups: Sequence[UndoRows]) -> list[memoryview | bytes]:
    pieces: list[memoryview | bytes] = []
    for group in groups:
        for array in (group.signs, group.ordinals, group.states, group.rows):
            pieces += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _ALIGN)]
    return pieces


def read_undo_entry(path: Path) -> UndoEntry:
    """What the header says; the rest is checked when it is needed.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _entry(path, _header(file.read(_PREFIX.size), file.read))


def _entry(path: Path, header: dict[str, Any]) -> UndoEntry:
    try:
        sequence, event_ns = header["previous"]
        return UndoEntry(
            int(path.name),
            str(header["name"]),
            int(header["sequence"]),
            Watermark(int(sequence), int(event_ns)),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"its header is not what it must be: {error!r}") from error


def _header(prefix: bytes, read: Callable[[int], bytes]) -> dict[str, Any]:
    if len(prefix) < _PREFIX.size:
        raise ValueError("it is cut")
    magic, length, _ = _PREFIX.unpack(prefix)
    if magic != UNDO_MAGIC or length > _MAX_HEADER:
        raise ValueError("it is no undo file")
    header = json.loads(read(length))
    if not isinstance(header, dict) or header.get("version") != _VERSION:
        raise ValueError("it is of another version")
    return header


def read_undo_rows(path: Path) -> list[UndoRows]:
    """What it keeps of each dim, all of it checked.

    Raises:
        TableFolderError: it is damaged.
        OSError: it cannot be read.
    """
    data = memoryview(path.read_bytes())
    try:
        body = data[: -_CHECKSUM.size]
        if len(data) < _PREFIX.size + _CHECKSUM.size:
            raise ValueError("it is cut")
        if xxhash.xxh3_64_intdigest(body) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
            raise ValueError("its checksum does not fit")
        length = _PREFIX.unpack(body[: _PREFIX.size])[1]
        header = _header(bytes(body[: _PREFIX.size]), lambda size: bytes(body[_PREFIX.size :][:size]))
        return list(_groups(header["groups"], body[_PREFIX.size + length :]))
    except (KeyError, TypeError, ValueError) as error:
        raise TableFolderError(
            path,
            f"is damaged ({error}), so what its packet changed cannot be taken back: load a checkpoint, or restart the "
            "server after `satrap tables remove`",
        ) from error


def _groups(facts: Sequence[Mapping[str, Any]], body: memoryview) -> Iterator[UndoRows]:
    offset = 0

    def take(dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        nonlocal offset
        array = np.frombuffer(body, dtype, count, offset)
        offset += -(-array.nbytes // _ALIGN) * _ALIGN
        return array

    for group in facts:
        dim, n, present = int(group["dim"]), int(group["signs"]), int(group["present"])
        dtype = _ROW_DTYPES[group["dtype"]]
        signs, ordinals = take(np.dtype(np.uint64), n), take(np.dtype(np.uint32), n)
        states = take(np.dtype(np.uint8), n)
        rows = take(dtype, present * dim).reshape(present, dim)
        yield UndoRows(dim, group["dtype"], signs, states, ordinals, rows)
