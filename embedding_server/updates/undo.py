"""What the last packets changed: enough to take each of them back, exactly.

    <generation>/undo/<number, 20 digits>      one file per packet, in the order in which packets were applied

A file (`undo_file.py`) is written before the packet's first row. It lives in the generation that it describes and dies
with it, as the watermark does.

**Unfinished.** A packet whose file is there but which is not applied was begun and not finished: the process was
killed, or the table had no room. Whatever becomes of that packet then (it may be refused, dropped, or be another one
of the same sequence), half of it must not stay: `revert` takes it back first. Taking a packet back moves the watermark
first, which makes it unfinished, then restores the rows, then removes the file; each of these may be done again, so a
kill between any two leaves what `revert` finishes.

**The chain.** Every move of the watermark has a file, also one that changes no row (a packet that is passed over): a
file whose predecessor did not leave the watermark that it found is of no use, nor are those before it.

Threads: whoever writes rows, which is one thread at a time.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from satrap._core.table import TableGeneration
from satrap.embedding_server.table_errors import table_errors
from satrap.embedding_server.updates.packet import PacketPart
from satrap.embedding_server.updates.undo_file import (
    UndoEntry,
    UndoRows,
    Watermark,
    read_undo_entry,
    read_undo_rows,
    undo_path,
    write_undo_file,
)
from satrap.errors import NoSpaceError

__all__ = ["FilePosition", "FileSet", "Position", "SequencePosition", "UndoLog", "usable_entries"]

log = logging.getLogger(__name__)

_FOLDER = "undo"


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
                UndoRows.capture(
                    store.tables.get(dim), dim, [part.signs for part in parts if part.dim == dim]
                )
                for dim in sorted({part.dim for part in parts})
            ]
        while True:
            try:
                with table_errors(self._folder):
                    write_undo_file(self._folder, entry, groups)
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

    def _read(self, entry: UndoEntry) -> list[UndoRows]:
        path = self._path(entry.number)
        with table_errors(path):
            return read_undo_rows(path)

    def _restore(self, store: TableGeneration, entry: UndoEntry, groups: Sequence[UndoRows]) -> None:
        tables = store.tables
        with table_errors(self._path(entry.number)):
            for group in groups:
                table = tables.get(group.dim)
                if table is not None:  # otherwise the packet did not come so far as to have one
                    group.restore(table)

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
                    entry = read_undo_entry(path)
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
        return undo_path(self._folder, number)


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
