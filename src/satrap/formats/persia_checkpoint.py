"""PERSIA's checkpoint directories.

    <dir>/embedding_dump_done                      written last
    <dir>/s{r}/embedding_dump_done                 r = 0 .. num_shards - 1
    <dir>/s{r}/replica_{r}_shard_{i}.emb           i = 0 .. num_internal_shards - 1

Shard r holds the signs with farmhash64(sign) % num_shards == r, so a server of as many shards reads one folder; any
other number of servers reads all of them and keeps what is its own. Which internal shard a sign lies in depends on
a hash of PERSIA's process and says nothing.

`plan_checkpoint` decides from a listing; `open_checkpoint` makes the listing; `estimate_file`, `summarize_file` and
`load_file` look at one file, and are where the native decoder's errors become satrap's. Files are read piece by piece,
not mapped: one that shrinks meanwhile is refused, where a mapping would end the process.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from satrap._core import DecodeError, embedding_file
from satrap._core.embedding_file import EmbeddingFileSummary, MissingDimError
from satrap._core.table import Table
from satrap.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointIncompleteError,
    InvalidInputError,
)
from satrap.formats.persia_marker import MARKER, Marker, parse_marker

__all__ = [
    "CheckpointFile",
    "FileEstimate",
    "Folder",
    "MissingDimError",
    "PersiaCheckpoint",
    "ShardRoute",
    "estimate_file",
    "file_name",
    "load_file",
    "open_checkpoint",
    "plan_checkpoint",
    "read_file",
    "recovery_warning",
    "summarize_file",
]

T = TypeVar("T")


@dataclass(frozen=True)
class ShardRoute:
    """Which signs a server owns: those with farmhash64(sign) % replica_size == replica_index.

    Raises InvalidInputError unless 0 <= replica_index < replica_size.
    """

    replica_index: int = 0
    replica_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.replica_index < self.replica_size:
            raise InvalidInputError(
                f"there is no shard {self.replica_index} of {self.replica_size}: shards are numbered from 0, so "
                "replica_index must be below replica_size"
            )


@dataclass(frozen=True)
class CheckpointFile:
    """One internal shard's file, and its size in bytes when it was listed."""

    path: Path
    size: int


class FileEstimate(NamedTuple):
    """How many rows a file has, and of which dim (0 if there are none), if all of them are like the first ones."""

    dim: int
    rows: int


@dataclass(frozen=True)
class Folder:
    """A listing of one directory: its marker's bytes (None: no marker), its other files with their sizes."""

    marker: bytes | None = None
    files: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PersiaCheckpoint:
    """What one server reads of a checkpoint: `files`, whose rows still have to be filtered by `route`.

    `written_ns` is the least time of all markers, also of the shards that are not read, as far as they are there.
    `route` is the whole table (1 of 1) where the files hold nothing but the server's own rows.
    """

    path: Path
    num_shards: int
    num_internal_shards: int
    written_ns: int
    files: tuple[CheckpointFile, ...]
    route: ShardRoute
    warnings: tuple[str, ...]


def file_name(replica: int, internal_shard: int) -> str:
    """The name of a file in folder `s{replica}`."""
    return f"replica_{replica}_shard_{internal_shard}.emb"


def open_checkpoint(path: Path, owner: ShardRoute) -> PersiaCheckpoint:
    """List `path` and decide what the server `owner` reads of it.

    Raises:
        CheckpointIncompleteError: there is no such directory, a marker or a file is missing.
        CheckpointCorruptError: a marker cannot be read.
        CheckpointError: the markers disagree.
    """
    if not path.is_dir():
        raise CheckpointIncompleteError(path, "no such directory")
    marker = _marker(path)
    folders = {}
    for shard in _shards_read(marker.num_shards, owner):
        folder = path / f"s{shard}"
        if not folder.is_dir():
            break  # the first one that is missing is the one to name, however many the marker claims
        folders[shard] = _list_folder(folder)
    checkpoint = plan_checkpoint(path, marker, folders, owner)
    if marker.num_shards != owner.replica_size:
        return checkpoint
    # Every server finds the same time, whatever it reads, so that rows carry one ordinal everywhere.
    times = [_written_ns(path / f"s{shard}") for shard in range(marker.num_shards)]
    return replace(checkpoint, written_ns=min([checkpoint.written_ns, *(time for time in times if time)]))


def plan_checkpoint(
    path: Path, marker: Marker, folders: Mapping[int, Folder], owner: ShardRoute
) -> PersiaCheckpoint:
    """Decide from the root `marker` and the listings of the folders `s{r}` what the server `owner` reads.

    Raises:
        CheckpointIncompleteError: a folder, a marker or a file is missing.
        CheckpointCorruptError: a folder's marker cannot be read.
        CheckpointError: a folder's marker disagrees with the root one.
    """
    files: list[CheckpointFile] = []
    warnings: list[str] = []
    written_ns = marker.written_ns
    for shard in _shards_read(marker.num_shards, owner):
        at = path / f"s{shard}"
        folder = folders.get(shard)
        if folder is None:
            raise CheckpointIncompleteError(at, f"the folder is missing; {_promise(path, marker)}")
        if folder.marker is None:
            raise CheckpointIncompleteError(
                at / MARKER, "the marker is missing: this shard was not written to its end"
            )
        own = parse_marker(at / MARKER, folder.marker)
        _check_agreement(path, marker, at, own)
        written_ns = min(written_ns, own.written_ns)
        files += _expected_files(path, marker, shard, folder)
        unknown = len(folder.files) - marker.num_internal_shards
        if unknown:
            warnings.append(f"{at}: {unknown} files that are not of the checkpoint were left alone")
    own_folder_only = marker.num_shards == owner.replica_size
    return PersiaCheckpoint(
        path=path,
        num_shards=marker.num_shards,
        num_internal_shards=marker.num_internal_shards,
        written_ns=written_ns,
        files=tuple(files),
        route=ShardRoute() if own_folder_only else owner,
        warnings=tuple(warnings),
    )


def estimate_file(file: CheckpointFile) -> FileEstimate | None:
    """Judge a file by its size and its first rows. None: they are not alike, only `summarize_file` can tell.

    Raises:
        CheckpointIncompleteError: the file is gone or cannot be read.
        CheckpointCorruptError: it is not what it says, as far as it was looked at.
    """
    found = _decode(file, embedding_file.estimate)
    return None if found is None else FileEstimate(*found)


def summarize_file(file: CheckpointFile, route: ShardRoute) -> EmbeddingFileSummary:
    """Read a whole file and count its rows by dim.

    Raises:
        CheckpointIncompleteError: the file is gone or cannot be read.
        CheckpointCorruptError: it is not what it says.
    """
    return _decode(
        file,
        lambda descriptor: embedding_file.summarize(descriptor, route.replica_index, route.replica_size),
    )


def load_file(
    file: CheckpointFile, tables: Sequence[Table], route: ShardRoute, *, ordinal: int = 0
) -> EmbeddingFileSummary:
    """Insert the route's rows of a file into the table of their dim, which nobody reads yet, and count them.

    Raises:
        CheckpointIncompleteError: the file is gone or cannot be read.
        CheckpointCorruptError: it is not what it says; some of its rows may be in the tables.
        MissingDimError: it has rows of a dim that none of the tables is for. It may be loaded again.
        satrap._core.table.TableSpaceError: a table was too small, and cannot grow.
    """
    return _decode(
        file,
        lambda descriptor: embedding_file.load(
            descriptor, tables, route.replica_index, route.replica_size, ordinal
        ),
    )


def read_file(file: CheckpointFile) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.float32]]]:
    """All rows of a file, of every shard, by dim: (dim, signs u64 [n], rows f32 [n, dim]). It is held whole.

    Raises:
        CheckpointIncompleteError: the file is gone or cannot be read.
        CheckpointCorruptError: it is not what it says.
    """
    signs, dims, lengths, values = _decode(file, embedding_file.read)
    del lengths
    starts = np.cumsum(dims, dtype=np.int64) - dims
    for dim in np.unique(dims):
        of_dim = np.flatnonzero(dims == dim)
        at = starts[of_dim][:, None] + np.arange(dim, dtype=np.int64)
        yield int(dim), np.ascontiguousarray(signs[of_dim]), values[at]


def recovery_warning(checkpoint: PersiaCheckpoint, summaries: Sequence[EmbeddingFileSummary]) -> str | None:
    """One sentence for the operator if headers and contents disagree, else None. `summaries` are of `files`."""
    damaged = [
        (file, summary)
        for file, summary in zip(checkpoint.files, summaries, strict=True)
        if summary.count != summary.live
    ]
    if not damaged:
        return None
    counted = sum(summary.count for _, summary in damaged)
    live = sum(summary.live for _, summary in damaged)
    linked = sum(summary.linked or 0 for _, summary in damaged)
    which = f"{damaged[0][0].path}" + (f" and {len(damaged) - 1} more files" if len(damaged) > 1 else "")
    # A header that counts more rows than the file has room for is damaged itself, and says nothing about losses.
    nodes = sum(summary.nodes for _, summary in damaged)
    lost = f"; {counted - live:,} rows are lost" if live < counted <= nodes else ""
    return (
        f"{which}: the headers count {counted:,} rows and the links lead to {linked:,}, but {live:,} are there; all of "
        f"them were read. PERSIA's eviction damages its lists, and PERSIA itself would load the {linked:,} only{lost}"
    )


def _shards_read(num_shards: int, owner: ShardRoute) -> range:
    """The folders that `owner` reads: its own if the checkpoint has as many shards, otherwise all."""
    if num_shards == owner.replica_size:
        return range(owner.replica_index, owner.replica_index + 1)
    return range(num_shards)


def _expected_files(path: Path, marker: Marker, shard: int, folder: Folder) -> list[CheckpointFile]:
    files = []
    for internal_shard in range(marker.num_internal_shards):
        name = file_name(shard, internal_shard)
        if name not in folder.files:
            raise CheckpointIncompleteError(
                path / f"s{shard}" / name, f"the file is missing; {_promise(path, marker)}"
            )
        files.append(CheckpointFile(path / f"s{shard}" / name, folder.files[name]))
    return files


def _check_agreement(path: Path, root: Marker, at: Path, own: Marker) -> None:
    if (own.num_shards, own.num_internal_shards) != (root.num_shards, root.num_internal_shards):
        raise CheckpointError(
            at / MARKER,
            f"it speaks of {own.num_shards} shards of {own.num_internal_shards} files, but {path / MARKER} of "
            f"{root.num_shards} of {root.num_internal_shards}: the folder is of another checkpoint",
        )


def _promise(path: Path, marker: Marker) -> str:
    return (
        f"{path / MARKER} says that there are {marker.num_shards} shards of {marker.num_internal_shards} files each. "
        "Copy the whole directory again, or name another checkpoint"
    )


def _marker(path: Path) -> Marker:
    try:
        return parse_marker(path / MARKER, (path / MARKER).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointIncompleteError(
            path / MARKER,
            "the marker is missing: this is no PERSIA checkpoint, or one that was not written to its end",
        ) from error
    except OSError as error:
        raise CheckpointIncompleteError(path / MARKER, f"cannot be read: {error.strerror}") from error


def _written_ns(folder: Path) -> int | None:
    """The time of a shard's marker; None if it cannot be had, which matters only to the servers that read the shard."""
    try:
        return parse_marker(folder / MARKER, (folder / MARKER).read_bytes()).written_ns
    except (OSError, CheckpointError):
        return None


def _list_folder(folder: Path) -> Folder:
    try:
        files = {entry.name: entry.stat().st_size for entry in folder.iterdir() if entry.is_file()}
        marker = (folder / MARKER).read_bytes() if files.pop(MARKER, None) is not None else None
    except OSError as error:
        raise CheckpointIncompleteError(folder, f"cannot be read: {error.strerror}") from error
    return Folder(marker, files)


def _decode(file: CheckpointFile, read: Callable[[int], T]) -> T:
    """Open the file, and translate what goes wrong with it."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read(descriptor)
        finally:
            os.close(descriptor)
    except DecodeError as error:
        raise CheckpointCorruptError(file.path, error.message, error.offset) from error
    except OSError as error:
        raise CheckpointIncompleteError(file.path, f"cannot be read: {error.strerror}") from error
