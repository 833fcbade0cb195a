"""What the last packets changed: enough to take each of them back, exactly.

    <generation>/undo/<number, 20 digits>      one file per packet, in the order in which packets were applied

A file is written (temporary name, rename) before the packet's first row, and says what the table knew of each of its
signs. It lives in the generation that it describes and dies with it, as the watermark does. Written in the machine's
byte order:

    magic "satrapUN"      8 bytes
    header length         u32, then u32 zero
    header                JSON, UTF-8, padded with blanks to a multiple of 8:
                          {"version": 1, "name", "sequence", "previous": [sequence, event_ns],
                           "groups": [{"dim", "dtype", "signs", "present"}]}
    per group, each array padded to a multiple of 8 bytes:
                          signs u64 [signs], ordinals u32 [signs], states u8 [signs], rows [present, dim]
    checksum              u64, XXH3-64 of everything before

**Unfinished.** A packet whose file is there but which is not applied was begun and not finished: the process was
killed, or the table had no room. Whatever becomes of that packet then (it may be refused, dropped, or be another one
of the same sequence), half of it must not stay: `revert` takes it back first. Taking a packet back moves the watermark
first, which makes it unfinished, then restores the rows, then removes the file; each of these may be done again, so a
kill between any two leaves what `revert` finishes.

**The chain.** Every move of the watermark has a file, also one that changes no row (a packet that is passed over): a
file whose predecessor did not leave the watermark that it found is of no use, nor are those before it.

Threads: whoever writes rows, which is one thread at a time.
"""

import contextlib
import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from satrap._core.table import Table, TableGeneration
from satrap.embedding_server.table_directory import table_errors
from satrap.embedding_server.updates.packet import PacketPart
from satrap.errors import NoSpaceError, TableFolderError

__all__ = [
    "FilePosition",
    "FileSet",
    "Position",
    "SequencePosition",
    "UndoEntry",
    "UndoLog",
    "UndoRows",
    "Watermark",
    "read_undo_file",
    "usable_entries",
]

log = logging.getLogger(__name__)

_FOLDER = "undo"
_MAGIC = b"satrapUN"
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


class Position(Protocol):
    """What is applied, for the two formats of packets."""

    def is_applied(self, entry: UndoEntry) -> bool:
        """Whether the packet counts as applied, wholly."""

    def step_back(self, entry: UndoEntry) -> None:
        """Let it no longer count, durably; `entry` is the last one applied, or begun. Nothing if it does not count."""


class FileSet(Protocol):
    """Names of applied files; `discard` is by rename, and done when it returns."""

    def __contains__(self, name: object) -> bool: ...

    def discard(self, name: str) -> None:
        """Take a name out."""


class SequencePosition:
    """Packets with sequences: the watermark says it all."""

    def __init__(self, store: TableGeneration) -> None:
        self._store = store

    def is_applied(self, entry: UndoEntry) -> bool:
        """Whether the watermark is there."""
        return entry.sequence <= self._store.applied[0]

    def step_back(self, entry: UndoEntry) -> None:
        """Set the watermark that the packet found."""
        self._store.set_applied(*entry.previous)


class FilePosition:
    """PERSIA's packets: the set of applied file names says it, the watermark is the greatest time among them."""

    def __init__(self, store: TableGeneration, applied: FileSet) -> None:
        self._store, self._applied = store, applied

    def is_applied(self, entry: UndoEntry) -> bool:
        """Whether the file's name is in the set."""
        return entry.name in self._applied

    def step_back(self, entry: UndoEntry) -> None:
        """Take the name out, and set the watermark that the file found."""
        self._applied.discard(entry.name)
        self._store.set_applied(*entry.previous)


class UndoLog:
    """The undo files of one generation."""

    def __init__(self, generation: Path, keep: int) -> None:
        """`keep` files stay when `prune` is called. The packet that is being applied has one in any case."""
        self._folder = generation / _FOLDER
        self._keep = keep
        self._entries: list[UndoEntry] | None = None

    def entries(self) -> list[UndoEntry]:
        """Every whole file, oldest first. Those that are damaged are left out, and those before them are useless."""
        if self._entries is None:
            self._entries = self._listed()
        return list(self._entries)

    def begin(
        self,
        store: TableGeneration,
        name: str,
        sequence: int,
        parts: Sequence[PacketPart],
        position: Position,
    ) -> None:
        """Keep what a packet is about to change; without `parts` only the watermark's move.

        An unfinished packet is taken back before. Where there is no room the oldest files go: to be up to date is worth
        more than to be able to go back.

        Raises:
            NoSpaceError: there is no room all the same; no row has changed.
            TableFolderError: the folder cannot be used.
        """
        self.revert(store, position)
        entries = self.entries()
        number = entries[-1].number + 1 if entries else 1
        entry = UndoEntry(number, name, sequence, Watermark(*store.applied))
        with table_errors(self._folder):
            groups = [
                _Group.capture(store.tables.get(dim), dim, [part.signs for part in parts if part.dim == dim])
                for dim in sorted({part.dim for part in parts})
            ]
        while True:
            try:
                with table_errors(self._folder):
                    self._write(entry, groups)
                break
            except NoSpaceError as error:
                oldest = next(iter(self.entries()), None)
                if oldest is None:
                    raise
                log.warning("%s: %s cannot be taken back any more: %s", self._folder, oldest.name, error)
                self._remove(oldest)
        self._entries = [*self.entries(), entry]

    def revert(self, store: TableGeneration, position: Position) -> bool:
        """Take back a packet that was begun and not finished; whether there was one.

        Raises:
            NoSpaceError: the table needs room for it; it can be tried again.
            TableFolderError: the folder cannot be used.
        """
        entries = self.entries()
        if not entries or position.is_applied(entries[-1]):
            return False
        self.take_back(store, entries[-1], position)
        return True

    def take_back(
        self,
        store: TableGeneration,
        entry: UndoEntry,
        position: Position,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Take back the last packet that was applied, or go on with doing so. `on_step` is told each step's name.

        Raises:
            NoSpaceError, TableFolderError: as `revert`; the packet is unfinished then.
        """
        entries = self.entries()
        if not entries or entries[-1] != entry:
            raise AssertionError(f"{entry.name} is not the last packet of the undo log")
        groups = self._read(entry)  # before the watermark says that they are back
        position.step_back(entry)
        on_step("undo_stepped_back")
        self._restore(store, entry, groups)
        on_step("undo_restored")
        self._remove(entry)
        on_step("undo_removed")

    def prune(self) -> None:
        """Keep the newest `keep` files. Call it after a packet's watermark.

        Raises:
            TableFolderError: one cannot be removed.
        """
        entries = self.entries()
        for entry in entries[: max(0, len(entries) - self._keep)]:
            self._remove(entry)

    def clear(self) -> None:
        """Forget everything, before rows change without a record.

        Raises:
            TableFolderError: a file cannot be removed.
        """
        with table_errors(self._folder):
            for path in self._paths():
                path.unlink(missing_ok=True)
        self._entries = []

    def last_applied(self, applied: int, position: Position) -> str:
        """The name of the packet that left the watermark `applied`; empty if that is not known any more."""
        last = next(reversed(self.entries()), None)
        if last is None or last.sequence != applied or not position.is_applied(last):
            return ""
        return last.name

    def reaches(self, applied: int) -> int:
        """The least sequence that can be gone back to, from the watermark `applied`."""
        usable = usable_entries(self.entries(), applied)
        return usable[0].previous.sequence if usable else applied

    def _read(self, entry: UndoEntry) -> "list[_Group]":
        path = self._path(entry.number)
        with table_errors(path):
            return _read_groups(path)

    def _restore(self, store: TableGeneration, entry: UndoEntry, groups: "Sequence[_Group]") -> None:
        tables = store.tables
        with table_errors(self._path(entry.number)):
            for group in groups:
                table = tables.get(group.dim)
                if table is not None:  # otherwise the packet did not come so far as to have one
                    group.restore(table)

    def _write(self, entry: UndoEntry, groups: Sequence["_Group"]) -> None:
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
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._path(entry.number)
        unnamed = path.with_name(f".{path.name}")
        try:
            with unnamed.open("wb") as file:
                for piece in (_PREFIX.pack(_MAGIC, len(header), 0), header, *_pieces(groups)):
                    digest.update(piece)
                    file.write(piece)
                file.write(_CHECKSUM.pack(digest.intdigest()))
            unnamed.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unnamed.unlink()
            raise

    def _remove(self, entry: UndoEntry) -> None:
        with table_errors(self._folder):
            self._path(entry.number).unlink(missing_ok=True)
        if self._entries is not None:
            self._entries = [other for other in self._entries if other != entry]

    def _listed(self) -> list[UndoEntry]:
        with table_errors(self._folder):
            paths = self._paths()
            found: list[UndoEntry] = []
            for path in paths:
                try:
                    entry = _read_entry(path)
                except ValueError as error:
                    log.warning("%s: is damaged, and no packet before it can be taken back: %s", path, error)
                    # Left where they are, those before it would have greater numbers than the next one.
                    for useless in (path, *(self._path(older.number) for older in found)):
                        useless.unlink(missing_ok=True)
                    found = []
                    continue
                found.append(entry)
            for path in self._folder.glob(".*"):
                path.unlink(missing_ok=True)
        return found

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.name.isdecimal())
        except FileNotFoundError:
            return []

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020d}"


def usable_entries(entries: Sequence[UndoEntry], applied: int) -> list[UndoEntry]:
    """The newest entries whose watermarks hang together up to `applied`, oldest first."""
    usable: list[UndoEntry] = []
    expected = applied
    for entry in reversed(entries):
        if entry.after != expected:
            break
        usable.append(entry)
        expected = entry.previous.sequence
    return usable[::-1]


@dataclass(frozen=True)
class UndoRows:
    """What a table knew of signs (u64 [n]) before a packet: states u8 [n] (0 absent, 1 present, 2 deleted), ordinals
    u32 [n], and the rows of those present, in their order.
    """

    dim: int
    dtype: str
    signs: NDArray[np.uint64]
    states: NDArray[np.uint8]
    ordinals: NDArray[np.uint32]
    rows: NDArray[Any]


def read_undo_file(path: Path) -> tuple[UndoEntry, list[UndoRows]]:
    """Everything that one file says, checked, for whoever looks.

    Raises:
        TableFolderError: it is damaged, cut, or no undo file.
        OSError: it cannot be read.
    """
    groups = _read_groups(path)
    try:
        entry = _read_entry(path)
    except ValueError as error:
        raise TableFolderError(path, f"is damaged ({error})") from error
    return entry, [
        UndoRows(group.dim, group.dtype, group.signs, group.states, group.ordinals, group.rows)
        for group in groups
    ]


@dataclass(frozen=True)
class _Group:
    """What a table knew of signs (u64 [n]): states u8 [n], ordinals u32 [n], the rows of those present."""

    dim: int
    dtype: str
    signs: NDArray[np.uint64]
    states: NDArray[np.uint8]
    ordinals: NDArray[np.uint32]
    rows: NDArray[Any]

    @staticmethod
    def capture(table: Table | None, dim: int, signs: Sequence[NDArray[np.uint64]]) -> "_Group":
        """Ask a table; without one nothing is known of any sign."""
        # A sign that comes twice is kept twice, alike: that costs less than finding out.
        every = signs[0] if len(signs) == 1 else np.concatenate(signs)
        if table is None:
            n = len(every)
            nothing = np.zeros((0, dim), np.float32)
            return _Group(dim, "float32", every, np.zeros(n, np.uint8), np.zeros(n, np.uint32), nothing)
        states, ordinals, rows = table.capture(every)
        present = (
            rows if states.all() and states.max(initial=_PRESENT) == _PRESENT else rows[states == _PRESENT]
        )
        return _Group(dim, table.dtype, every, states, ordinals, np.ascontiguousarray(present))

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


def _pieces(groups: Sequence[_Group]) -> list[memoryview | bytes]:
    pieces: list[memoryview | bytes] = []
    for group in groups:
        for array in (group.signs, group.ordinals, group.states, group.rows):
            pieces += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _ALIGN)]
    return pieces


def _read_entry(path: Path) -> UndoEntry:
    """What the header says; the rest is checked when it is needed.

    Raises:
        ValueError: it is damaged.
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
    if magic != _MAGIC or length > _MAX_HEADER:
        raise ValueError("it is no undo file")
    header = json.loads(read(length))
    if not isinstance(header, dict) or header.get("version") != _VERSION:
        raise ValueError("it is of another version")
    return header


def _read_groups(path: Path) -> list[_Group]:
    """Everything, checked.

    Raises:
        TableFolderError: it is damaged.
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


def _groups(facts: Sequence[Mapping[str, Any]], body: memoryview) -> Iterator[_Group]:
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
        yield _Group(dim, group["dtype"], signs, states, ordinals, rows)
