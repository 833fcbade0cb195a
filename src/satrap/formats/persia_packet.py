"""PERSIA's incremental packets.

    <dir>/s{r}/inc_%Y%m%d%H%M%S/{r}_{k}.inc         rows that shard r of the trainer has changed
    <dir>/s{r}/inc_%Y%m%d%H%M%S/inc_update_done     empty, written last

    .inc     u32 n | n x entry | u64 unix_seconds
    entry    u32 inner_len | inner_len x f32 | u64 dim | u64 sign

All little-endian, without padding. The embedding is the first `dim` floats of an entry, the rest is the optimizer's and
is dropped. There is no checksum: a file is believed only after all of it has parsed and nothing follows the time at its
end. The directory's name is the trainer's local time when a file was begun, and no more than a label; any number of
`s{r}` may be there, whatever the number of embedding servers.

`list_packets` makes the listing that decisions are made from; `parse_packet` is where the native decoder's errors
become satrap's.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from satrap._core import DecodeError, embedding_file
from satrap.errors import PersiaPacketError
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_marker import SHARD_FOLDER
from satrap.storage import Entry, Storage

__all__ = [
    "PACKET_MARKER",
    "PersiaDirectory",
    "PersiaFile",
    "PersiaListing",
    "PersiaOrder",
    "PersiaPacket",
    "PersiaRows",
    "is_persia",
    "list_directory",
    "list_packets",
    "parse_packet",
]

PACKET_MARKER = "inc_update_done"
"""The file that says that a directory is whole."""

_DIRECTORY = re.compile(r"inc_.+")
_FILE = ".inc"
_NANOS = 1_000_000_000


class PersiaOrder(NamedTuple):
    """The place of a file among all others: by time, then directory, then file, then the trainer's shard."""

    unix_seconds: int
    directory: str
    file: str
    shard: str


@dataclass(frozen=True)
class PersiaFile:
    """One .inc file as it was listed: `name` is its path under the packet directory, `s0/inc_.../0_0.inc`.

    A file with another size or time is another file, of the same name. `modified_ns` is nanoseconds since the epoch by
    the storage's clock, 0 if it does not say.
    """

    name: str
    size: int
    modified_ns: int

    @property
    def directory(self) -> str:
        """`s0/inc_...`."""
        return self.name.rpartition("/")[0]

    def order(self, unix_seconds: int) -> PersiaOrder:
        """Its place, if that is the time at its end."""
        shard, directory, file = self.name.split("/")
        return PersiaOrder(unix_seconds, directory, file, shard)

    def order_without_time(self) -> PersiaOrder:
        """The place of a file that cannot be read, hence has no time: when it was last changed.

        It says only where a stream waits, for as long as somebody has to decide about the file.
        """
        return self.order(self.modified_ns // _NANOS)


@dataclass(frozen=True)
class PersiaDirectory:
    """One `s{r}/inc_...`: its files by name, and whether its marker is there, since when (nanoseconds, 0 unknown).

    `changed_ns` is when a file last came to it or went, 0 if the storage does not say.
    """

    name: str
    marked: bool
    files: tuple[PersiaFile, ...] = ()
    marked_ns: int = 0
    changed_ns: int = 0


@dataclass(frozen=True)
class PersiaListing:
    """All directories by name, in the order of their names."""

    directories: Mapping[str, PersiaDirectory] = field(default_factory=dict)


class PersiaRows(NamedTuple):
    """Records of one dim in the order of the file: signs u64 [n], rows float32 [n, dim]."""

    dim: int
    signs: NDArray[np.uint64]
    rows: NDArray[np.float32]


@dataclass(frozen=True)
class PersiaPacket:
    """One .inc file, whole: its time, one shard's records by dim, and how many records of all shards it has."""

    unix_seconds: int
    parts: tuple[PersiaRows, ...]
    records: int


def parse_packet(path: str, data: bytes, route: ShardRoute) -> PersiaPacket:
    """Parse all of a file, and keep the rows of `route`; `path` is for the errors only.

    Raises:
        PersiaPacketError: it is cut, counts what is not there, or something follows its end.
    """
    try:
        unix_seconds, parts, counts = embedding_file.read_packet(
            data, route.replica_index, route.replica_size
        )
    except DecodeError as error:
        raise PersiaPacketError(path, error.message, error.offset) from error
    return PersiaPacket(
        unix_seconds,
        tuple(PersiaRows(dim, signs, rows) for dim, (signs, rows) in sorted(parts.items())),
        sum(counts.values()),
    )


def list_packets(
    storage: Storage,
    entries: Iterable[Entry] | None = None,
    known: Callable[[str, int], PersiaDirectory | None] = lambda name, changed_ns: None,
) -> PersiaListing:
    """What is in a packet directory now; an absent one is empty. `entries` are its own, if they are known.

    Of one `inc_...` the marker is seen or not in the same listing as the files. A file that is missed was written
    after the marker, and is seen the next time. `known` may spare a listing of an `inc_...`, by its name and the time
    when a file last came to it or went (0: not known).

    Raises:
        StorageError: the packet directory cannot be listed.
    """
    directories = {}
    root = storage.list() if entries is None else entries
    for shard in _folders(root, SHARD_FOLDER):
        for entry in _folders(storage.list(shard.name), _DIRECTORY):
            name = f"{shard.name}/{entry.name}"
            found = known(name, entry.modified_ns)
            if found is None:
                found = replace(list_directory(storage, name), changed_ns=entry.modified_ns)
            directories[name] = found
    return PersiaListing(directories)


def is_persia(storage: Storage) -> bool:
    """Whether PERSIA publishes there, or has: there is an `s{r}/inc_...`.

    Raises:
        StorageError: the directory cannot be listed.
    """
    shards = _folders(storage.list(after="s"), SHARD_FOLDER)
    return any(_folders(storage.list(shard.name), _DIRECTORY) for shard in shards)


def _folders(entries: Iterable[Entry], names: re.Pattern[str]) -> list[Entry]:
    return [entry for entry in entries if entry.is_folder and names.fullmatch(entry.name)]


def list_directory(storage: Storage, name: str) -> PersiaDirectory:
    """What is in one `inc_...` now; the empty name is the storage's own folder.

    Raises:
        StorageError: it cannot be listed.
    """
    files = []
    marked, marked_ns = False, 0
    for entry in storage.list(name):
        if entry.name == PACKET_MARKER:
            marked, marked_ns = True, entry.modified_ns
        elif entry.name.endswith(_FILE) and not entry.is_folder:
            files.append(PersiaFile(f"{name}/{entry.name}".lstrip("/"), entry.size, entry.modified_ns))
    return PersiaDirectory(name, marked, tuple(files), marked_ns)
