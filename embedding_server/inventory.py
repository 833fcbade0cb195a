"""What tables a machine holds, for whoever looks: nothing is locked, taken over or changed.

table directory ▸ identities ▸ generations ▸ tables
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from satrap._core.table import TableInspection, inspect_table
from satrap.embedding_server.generations import examine_generation, list_generations
from satrap.embedding_server.identity_lock import Holder, holder_of
from satrap.embedding_server.table_directory import Identity, held_identities
from satrap.embedding_server.table_errors import table_errors
from satrap.embedding_server.takeover import Found
from satrap.errors import SatrapError, TableFolderError

__all__ = [
    "FoundTable",
    "HeldGeneration",
    "held_generations",
    "inspect_generation",
    "inspect_table_folder",
    "list_identity",
]


@dataclass(frozen=True)
class FoundTable:
    """A table's folder, and what its files say; `damage` is the reason if they cannot be used."""

    folder: Path
    files: TableInspection | None = None
    damage: str = ""

    @property
    def rows(self) -> int:
        """Rows present."""
        return self.files.rows if self.files is not None else 0

    @property
    def ratio(self) -> float | None:
        """Memory in units of what signs and rows alone would take; None without rows."""
        if self.files is None or not self.files.rows:
            return None
        return self.files.bytes / (self.files.rows * (8 + self.files.row_bytes))


@dataclass(frozen=True)
class HeldGeneration:
    """A generation, whose it is, who holds it, and its tables. `bytes` is the memory of all its files."""

    found: Found
    identity: Identity | None = None
    holder: Holder | None = None
    tables: tuple[FoundTable, ...] = field(default=())
    bytes: int = 0

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def age_seconds(self) -> float | None:
        """Since it was made; None if that is not known."""
        info = self.found.info
        return (time.time_ns() - info.created_ns) / 1e9 if info is not None and info.created_ns else None

    @property
    def damage(self) -> str:
        """The first reason why something of it cannot be used."""
        return self.found.damage or next((table.damage for table in self.tables if table.damage), "")


def held_generations(directory: Path) -> Iterator[HeldGeneration]:
    """Every generation in a table directory, of all users whose folders can be read."""
    for identity, folder in held_identities(directory):
        yield from list_identity(identity, folder)


def list_identity(identity: Identity, folder: Path) -> Iterator[HeldGeneration]:
    """Every generation of an identity's folder."""
    holder = holder_of(folder)
    for found in list_generations(folder):
        yield _held(found, identity, holder, count_slots=False)


def inspect_generation(folder: Path) -> HeldGeneration:
    """One generation, all headers of its tables checked; damage is a finding, not an error."""
    return _held(examine_generation(folder), None, holder_of(folder.parent), count_slots=True)


def inspect_table_folder(folder: Path, *, count_slots: bool = True) -> FoundTable:
    """One table, its headers checked; damage is a finding, not an error."""
    try:
        with table_errors(folder):
            return FoundTable(folder, inspect_table(str(folder), count_slots))
    except TableFolderError as error:
        return FoundTable(folder, damage=str(error))
    except SatrapError as error:
        return FoundTable(folder, damage=f"{folder}: {error}")


def _held(
    found: Found, identity: Identity | None, holder: Holder | None, *, count_slots: bool
) -> HeldGeneration:
    try:
        folders = sorted(
            (entry for entry in found.folder.iterdir() if entry.is_dir() and (entry / "directory").exists()),
            key=lambda entry: (len(entry.name), entry.name),
        )
        size = sum(path.lstat().st_blocks * 512 for path in found.folder.rglob("*"))
    except OSError:  # it was removed while we looked, or is another user's
        return HeldGeneration(found, identity, holder)
    tables = tuple(inspect_table_folder(folder, count_slots=count_slots) for folder in folders)
    return HeldGeneration(found, identity, holder, tables, size)
