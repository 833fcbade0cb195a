"""Checkpoints of ours: a folder with all rows at one sequence, and the manifest that is published after them.

`docs/checkpoint-format.md` is the specification. Rows stream in both directions: nobody holds more than a page of them.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from satrap._core import rows as kernels
from satrap.errors import (
    CheckpointError,
    ManifestError,
    MisroutedSignError,
    MissingFileError,
    TruncatedFileError,
)
from satrap.formats.manifest import (
    Dense,
    DimLimits,
    FileEntry,
    Manifest,
    RowDType,
    format_manifest,
    parse_manifest_name,
)
from satrap.formats.packet import (
    PacketContent,
    ShardPart,
    check_parts,
    check_writable,
    data_file_name,
    entries_of,
    read_manifest,
    select_route,
    split_by_shard,
)
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.row_file import RowFileWriter, iter_row_file
from satrap.storage import Entry, Storage, Upload

__all__ = [
    "CheckpointWriter",
    "NormHistogram",
    "UpdateCheckpoint",
    "find_checkpoint_manifest",
    "open_checkpoint",
    "validate_checkpoint",
]

Signs = NDArray[np.uint64]


@dataclass(frozen=True)
class UpdateCheckpoint:
    """A checkpoint whose manifest has been read and whose files were there, with their sizes, when it was opened."""

    storage: Storage
    manifest: Manifest

    @property
    def path(self) -> str:
        """What a person calls it: the folder's path or URL."""
        return self.storage.url

    def entries(self, route: ShardRoute) -> list[FileEntry]:
        """The files that the server `route` reads."""
        return entries_of(self.manifest, route)

    def pages(self, entry: FileEntry, route: ShardRoute) -> Iterator[ShardPart]:
        """The rows of one file that `route` owns, page by page, holding one page at a time.

        That the file's bytes are the manifest's is known after the last page only: if an error is raised, what was
        given before is to be thrown away. Files may be read by several threads, each its own.

        Raises:
            UpdateError: as `read_shard`.
            StorageError: it cannot be read at the moment.
        """
        path = self.storage.path_of(entry.name)
        try:
            with self.storage.open(entry.name) as file:
                pages = iter_row_file(path, file, entry, self.manifest.shards)
                for page in pages:
                    try:
                        signs, rows = select_route(path, *page, entry, self.manifest.shards, route)
                    except MisroutedSignError:
                        deque(pages, maxlen=0)  # raises if its bytes are not the manifest's: that comes first
                        raise
                    if len(signs):
                        yield entry.dim, signs, rows
        except FileNotFoundError as error:
            raise _missing(path, self.manifest) from error


def find_checkpoint_manifest(listing: Sequence[Entry]) -> str | None:
    """The name of the manifest in a checkpoint's folder, None if there is none: it is no checkpoint (yet).

    Of several, which `open_checkpoint` refuses, the last.
    """
    names = [entry.name for entry in listing if not entry.is_folder and parse_manifest_name(entry.name)]
    return max(names, default=None)


def open_checkpoint(storage: Storage) -> UpdateCheckpoint:
    """Read the manifest of the checkpoint in this folder, and look for its files.

    Raises:
        MissingFileError: there is no manifest, or a file that it names is missing.
        ManifestError: there are two manifests, or it is a packet's; and as `read_manifest`.
        TruncatedFileError: a file has another size.
        StorageError: it cannot be read at the moment.
    """
    listing = storage.list()
    name = find_checkpoint_manifest(listing)
    if name is None:
        raise MissingFileError(
            storage.url, "there is no manifest: it is no checkpoint, or one that was not written to its end"
        )
    others = [entry.name for entry in listing if parse_manifest_name(entry.name) and entry.name != name]
    if others:
        raise ManifestError(
            storage.url, f"{others[0]} and {name}: a checkpoint has one manifest, and a folder of its own"
        )
    try:
        manifest = read_manifest(storage, name)
    except FileNotFoundError as error:
        raise MissingFileError(storage.path_of(name), "it went away while it was read") from error
    if manifest.kind != "full":
        raise ManifestError(storage.path_of(name), "it is the manifest of a packet, not of a checkpoint")
    sizes = {entry.name: entry.size for entry in listing if not entry.is_folder}
    for entry in manifest.files:
        path = storage.path_of(entry.name)
        if entry.name not in sizes:
            raise _missing(path, manifest)
        if sizes[entry.name] != entry.bytes:
            raise TruncatedFileError(
                path, f"it has {sizes[entry.name]} bytes, and the manifest says {entry.bytes}: copy it again"
            )
    return UpdateCheckpoint(storage, manifest)


def validate_checkpoint(checkpoint: UpdateCheckpoint, route: ShardRoute) -> int:
    """Read all that `route` reads of a checkpoint, check it, and say how many rows `route` owns. Errors as `pages`."""
    return sum(
        len(signs) for entry in checkpoint.entries(route) for _, signs, _ in checkpoint.pages(entry, route)
    )


class NormHistogram:
    """Norms of rows, counted in bins of 1 % width, so that any number of rows takes the same memory.

    Deterministic: the same rows in any order give the same quantiles.
    """

    _BINS: Final = 1 << 15

    def __init__(self) -> None:
        """An empty one."""
        self._counts = np.zeros(self._BINS, np.int64)

    def add(self, norms: NDArray[np.float64]) -> None:
        """Count norms [n]; those that are not finite are left out."""
        # A float32's upper half is its exponent and 7 bits of its mantissa; norms have no sign.
        with np.errstate(over="ignore"):
            bits = norms.astype(np.float32).view(np.uint32) >> 16
        self._counts += np.bincount(bits, minlength=self._BINS)[: self._BINS]

    def quantile(self, share: float) -> float:
        """A norm that at least `share` of the finite ones are not above, and at most 1 % more than the least such. 0
        without any.
        """
        finite = self._counts[: np.float32(np.inf).view(np.uint32) >> 16]
        total = int(finite.sum())
        if not total:
            return 0.0
        reached = int(np.searchsorted(np.cumsum(finite), math.ceil(share * total)))
        return float(np.array(((reached + 1) << 16) - 1, np.uint32).view(np.float32))


class CheckpointWriter:
    """Writes a checkpoint into a folder: pages in any order, then `finish`. One thread at a time.

    Nothing is visible before `finish`. As a context it discards what is not finished.

        with CheckpointWriter(storage, stream="ads", writer="5a1c", sequence=812, num_shards=2) as checkpoint:
            for dim, signs, rows in pages:
                checkpoint.write(dim, signs, rows)
            manifest = checkpoint.finish()
    """

    def __init__(
        self,
        storage: Storage,
        *,
        stream: str,
        writer: str,
        sequence: int,
        num_shards: int = 1,
        dtype: RowDType = "float32",
        oldest_event_ns: int = 0,
        newest_event_ns: int = 0,
        embedding_config: str | None = None,
        dense: Dense | None = None,
    ) -> None:
        """Look whether the folder is free, and whether the manifest will be one that readers take.

        Raises:
            CheckpointError: there is a manifest in the folder.
            InvalidInputError: an argument that the format has no place for.
            StorageError: the folder cannot be listed.
        """
        self._storage = storage
        self._manifest = Manifest(
            kind="full",
            stream=stream,
            writer=writer,
            sequence=sequence,
            previous=None,
            shards=num_shards,
            published_ns=0,
            oldest_event_ns=oldest_event_ns,
            newest_event_ns=newest_event_ns,
            files=(),
            embedding_config=embedding_config,
            dense=dense,
        )
        self._dtype = dtype
        self._files: dict[tuple[int, int], _OpenFile] = {}
        self._norms: dict[int, NormHistogram] = {}
        self._rows: dict[int, int] = {}
        check_writable(storage, self._manifest)
        there = find_checkpoint_manifest(storage.list())
        if there is not None:
            raise CheckpointError(
                storage.url,
                f"there is a manifest already, {there}; a checkpoint has a folder of its own and is never overwritten: "
                "choose another folder",
            )

    def write(self, dim: int, signs: Signs, rows: NDArray[Any]) -> None:
        """Append a page: signs u64 [n], rows [n, dim] of floats. A sign should come once; if not, the last row counts.

        Pages of 65,536 rows or more per shard make the best files.

        Raises:
            InvalidInputError: arrays of another shape or dtype.
            StorageError: it cannot be written; `discard` is what is left to do.
        """
        page = PacketContent(dim, signs, rows)
        check_parts([page])
        if not len(signs):
            return
        for shard, own_signs, own_rows in split_by_shard(page, self._manifest.shards):
            self._file(dim, shard).rows.write(own_signs, own_rows)
        with np.errstate(over="ignore"):
            written = np.ascontiguousarray(rows, self._dtype)
        self._norms.setdefault(dim, NormHistogram()).add(kernels.norms(written))
        self._rows[dim] = self._rows.get(dim, 0) + len(signs)

    def finish(self, *, published_ns: int | None = None) -> Manifest:
        """Make all of it durable, and then visible, by the manifest.

        Raises:
            StorageError: it cannot be written; nothing is visible.
        """
        entries = []
        for (dim, shard), file in sorted(self._files.items()):
            written = file.rows.close()
            file.upload.sync()
            entries.append(FileEntry(file.name, "rows", dim, self._dtype, shard, *written))
        for file in self._files.values():
            file.upload.publish(replace=True, sync_folder=False)
        if self._files:
            self._storage.sync()
        manifest = replace(
            self._manifest,
            files=tuple(entries),
            published_ns=time.time_ns() if published_ns is None else published_ns,
            limits={
                dim: DimLimits(rows, self._norms[dim].quantile(0.999))
                for dim, rows in sorted(self._rows.items())
            },
        )
        self._storage.publish(manifest.name, format_manifest(manifest))
        self._files.clear()
        return manifest

    def discard(self) -> None:
        """Take away what is not published; nothing after `finish`. Never raises."""
        for file in self._files.values():
            file.upload.discard()
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _file(self, dim: int, shard: int) -> "_OpenFile":
        found = self._files.get((dim, shard))
        if found is None:
            manifest = self._manifest
            name = data_file_name(
                manifest.sequence, manifest.writer, dim, self._dtype, shard, manifest.shards
            )
            upload = self._storage.upload(name)
            try:
                rows = RowFileWriter(upload, dim, self._dtype, shard, manifest.shards)
            except BaseException:
                upload.discard()
                raise
            found = self._files[dim, shard] = _OpenFile(name, upload, rows)
        return found


@dataclass(frozen=True)
class _OpenFile:
    name: str
    upload: Upload
    rows: RowFileWriter


def _missing(path: str, manifest: Manifest) -> MissingFileError:
    return MissingFileError(
        path,
        f"{manifest.name} names this file, and it is not there: copy the checkpoint again, or load another one",
    )
