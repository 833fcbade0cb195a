"""Whether there is room for tables, asked before anything is made: memory, the cgroup's limit, the table directory.

What is made later is allocated page by page and fails by an error too; this one comes before minutes of loading.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satrap.embedding_server.tables import RowDType
from satrap.errors import NoSpaceError

__all__ = ["Room", "check_room", "needed_bytes", "present_room", "require_room"]

_SLOTS = 7
_BUCKET_BYTES = 64
_ORDINAL_BYTES = 4
_FILL = 0.85
"""A table that is loaded at once is filled so far (docs/table.md)."""


@dataclass(frozen=True)
class Room:
    """Bytes that may still be taken, and of what."""

    what: str
    bytes: int
    advice: str


def needed_bytes(rows: Mapping[int, int], row_dtype: RowDType) -> int:
    """Memory of tables with so many rows of each dim."""
    return sum(round(count * _slot_bytes(dim, row_dtype) / _FILL) for dim, count in rows.items())


def check_room(what: str, needed: int, rooms: "tuple[Room, ...]") -> None:
    """Refuse what does not fit.

    Raises:
        NoSpaceError: the sentence says how much is needed, how much there is, and what to do.
    """
    for room in rooms:
        if needed > room.bytes:
            raise NoSpaceError(
                f"{what}: its tables take about {needed:,} bytes, and {room.what} has room for {room.bytes:,}; "
                f"{room.advice}"
            )


def require_room(what: str, rows: Mapping[int, int], row_dtype: RowDType, table_directory: Path) -> None:
    """Refuse tables of so many rows by dim that do not fit now.

    Raises:
        NoSpaceError: as `check_room`.
    """
    check_room(what, needed_bytes(rows, row_dtype), present_room(table_directory))


def present_room(
    table_directory: Path, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> tuple[Room, ...]:
    """What there is now. A limit that cannot be read is none."""
    advice = "use more shards, row_dtype: float16, or updates.checkpoint_switch: in_place"
    rooms = []
    available = _meminfo(proc / "meminfo", "MemAvailable")
    if available is not None:
        rooms.append(Room("the machine", available, advice))
    limit = _cgroup_room(proc / "self/cgroup", cgroups)
    if limit is not None:
        rooms.append(Room("the cgroup", limit, advice))
    try:
        system = os.statvfs(table_directory)
    except OSError:
        return tuple(rooms)
    larger = (
        "give it more (containers: a larger shm, e.g. --shm-size), or set embedding_server.table_directory"
    )
    return (
        *rooms,
        Room(f"the file system of {table_directory}", system.f_bavail * system.f_frsize, larger),
    )


def _slot_bytes(dim: int, row_dtype: RowDType) -> float:
    row = -(-dim * np.dtype(row_dtype).itemsize // 8) * 8
    return _BUCKET_BYTES / _SLOTS + row + _ORDINAL_BYTES


def _meminfo(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            key, _, rest = line.partition(":")
            if key == name:
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_room(own: Path, cgroups: Path) -> int | None:
    """What the cgroups (version 2) of this process leave, the tightest one; unused page cache counts as free."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    if not names:
        return None
    folder = cgroups / names[0]
    rooms = []
    while folder == cgroups or cgroups in folder.parents:
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is not None and used is not None:
            free = _statistic(folder / "memory.stat", "inactive_file")
            rooms.append(max(0, limit - used + free))
        folder = folder.parent
    return min(rooms, default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
