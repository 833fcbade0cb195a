"""Packets: rows that changed, published to a folder and read again by the shards that own them."""

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap._core import ids
from satrap._core import rows as kernels
from satrap.errors import InvalidInputError, MisroutedSignError, MissingFileError
from satrap.formats.manifest import (
    MAX_SEQUENCE,
    Dense,
    FileEntry,
    FileKind,
    Manifest,
    RowDType,
    format_manifest,
    parse_manifest,
)
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.row_file import RowFileWriter, read_row_file
from satrap.formats.strict_json import MAX_JSON_BYTES
from satrap.storage import Storage, Upload

__all__ = [
    "PacketContent",
    "ShardPart",
    "check_parts",
    "check_writable",
    "data_file_name",
    "entries_of",
    "manifest_of_data_file",
    "publish_packet",
    "read_manifest",
    "read_shard",
    "select_route",
    "split_by_shard",
]

Signs = NDArray[np.uint64]
ShardPart = tuple[int, Signs, NDArray[Any] | None]
"""dim, signs u64 [n], and rows [n, dim] of float32 or float16, or None: the signs are deleted."""

_DATA_NAME = re.compile(
    r"([0-9]{20}-[A-Za-z0-9][A-Za-z0-9_-]*)\.[0-9]+-[a-z0-9]+\.[0-9]+-of-[0-9]+(?:\.[0-9]+)?\.arrow"
)


@dataclass(frozen=True)
class PacketContent:
    """Records of one dim: signs u64 [n], and rows [n, dim] of floats, or None to delete the signs."""

    dim: int
    signs: Signs
    rows: NDArray[Any] | None = None


def data_file_name(
    sequence: int, writer: str, dim: int, dtype: RowDType | None, shard: int, shards: int, repeat: int = 0
) -> str:
    """The name of a data file; `repeat` counts those that would have the same name before it."""
    again = f".{repeat}" if repeat else ""
    return f"{sequence:020d}-{writer}.{dim}-{dtype or 'deletes'}.{shard}-of-{shards}{again}.arrow"


def manifest_of_data_file(name: str) -> str | None:
    """The name of the manifest that a data file belongs to; None if it is none by its name."""
    found = _DATA_NAME.fullmatch(name)
    return None if found is None else f"{found[1]}.json"


def publish_packet(
    storage: Storage,
    *,
    stream: str,
    writer: str,
    sequence: int,
    previous: int,
    parts: Sequence[PacketContent],
    num_shards: int = 1,
    dtype: RowDType = "float32",
    oldest_event_ns: int = 0,
    newest_event_ns: int = 0,
    embedding_config: str | None = None,
    dense: Dense | None = None,
    published_ns: int | None = None,
    before_manifest: Callable[[], object] | None = None,
) -> Manifest:
    """Publish a packet: its data files first, durable, then the manifest, which makes it visible.

    Records count in the order of `parts`; the last one of a sign wins. `published_ns` is now, if it is not given.
    `before_manifest` is called when everything but the manifest is durable. A publication that was cut off may be
    repeated: data files of the same name are replaced, a manifest never is.

    Raises:
        FileExistsError: there is a manifest of this sequence and writer.
        InvalidInputError: an argument that the format has no place for; nothing was written.
        StorageError: it cannot be written; nothing is visible.
    """
    manifest = Manifest(
        kind="incremental",
        stream=stream,
        writer=writer,
        sequence=sequence,
        previous=previous,
        shards=num_shards,
        published_ns=0,
        oldest_event_ns=oldest_event_ns,
        newest_event_ns=newest_event_ns,
        files=(),
        embedding_config=embedding_config,
        dense=dense,
    )
    check_writable(storage, manifest)
    check_parts(parts)
    files = _row_files(manifest, parts, dtype)
    manifest = replace(manifest, files=tuple(entry for entry, _ in files))
    check_writable(storage, manifest)
    if storage.exists(manifest.name):
        raise FileExistsError(f"{storage.path_of(manifest.name)} is published already")
    _publish_together(storage, {entry.name: data for entry, data in files})
    if before_manifest is not None:
        before_manifest()
    manifest = replace(manifest, published_ns=time.time_ns() if published_ns is None else published_ns)
    storage.publish(manifest.name, format_manifest(manifest))
    return manifest


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Read the manifest `name`.

    Raises:
        FileNotFoundError: it is not there.
        UpdateError: as `parse_manifest`; or PathEscapeError: it is a link out of its folder.
        StorageError: it cannot be read at the moment.
    """
    return parse_manifest(storage.path_of(name), storage.read(name, limit=MAX_JSON_BYTES))


def entries_of(manifest: Manifest, route: ShardRoute) -> list[FileEntry]:
    """The files that the server `route` reads: its own if the update has as many shards, otherwise all."""
    if manifest.shards == route.replica_size:
        return [entry for entry in manifest.files if entry.shard == route.replica_index]
    return list(manifest.files)


def read_shard(storage: Storage, manifest: Manifest, route: ShardRoute) -> list[ShardPart]:
    """The records of a packet that the server `route` owns, in their order. All that is read is checked.

    Raises:
        MissingFileError: a file is not there.
        PathEscapeError: a file is a link out of the folder.
        TruncatedFileError, ChecksumError, RowFileError, RowCountError: as `read_row_file`.
        MisroutedSignError: a file has a record of another shard than it says.
        StorageError: a file cannot be read at the moment.
    """
    return [
        (entry.dim, signs, rows)
        for entry in entries_of(manifest, route)
        for signs, rows in _read_file(storage, manifest, entry, route)
        if len(signs)
    ]


def select_route(
    path: str, signs: Signs, rows: NDArray[Any] | None, entry: FileEntry, shards: int, route: ShardRoute
) -> tuple[Signs, NDArray[Any] | None]:
    """What `route` owns of records of a file.

    Raises:
        MisroutedSignError: one of them is not of the file's shard.
    """
    if shards == 1 and route.replica_size == 1:
        return signs, rows
    misrouted = kernels.inspect(signs, None, entry.shard, shards)[0]
    if misrouted:
        owners = ids.farmhash64(signs) % np.uint64(shards)
        first = int(np.flatnonzero(owners != entry.shard)[0])
        raise MisroutedSignError(
            path,
            f"the sign {signs[first]} and {misrouted - 1} others belong to other shards (it to {owners[first]} of "
            f"{shards}), and the file says that its records are of shard {entry.shard}",
        )
    if shards == route.replica_size:
        return signs, rows
    return kernels.select(signs, rows, route.replica_index, route.replica_size)


def check_parts(parts: Sequence[PacketContent]) -> None:
    """Refuse arrays that the format has no place for.

    Raises:
        InvalidInputError: a dim outside 1 to 4096, or arrays of another shape or dtype.
    """
    for part in parts:
        if not 1 <= part.dim <= 4096:
            raise InvalidInputError(f"a dim is 1 to 4096, not {part.dim}")
        if part.signs.dtype != np.uint64 or part.signs.ndim != 1:
            raise InvalidInputError(
                f"signs of dim {part.dim} must be uint64 [n], not {part.signs.dtype} {list(part.signs.shape)}"
            )
        rows = part.rows
        if rows is not None and (rows.dtype.kind != "f" or rows.shape != (len(part.signs), part.dim)):
            raise InvalidInputError(
                f"rows of dim {part.dim} must be floats [{len(part.signs)}, {part.dim}], not {rows.dtype} "
                f"{list(rows.shape)}"
            )


def check_writable(storage: Storage, manifest: Manifest) -> None:
    """Refuse to write a manifest that readers will refuse.

    Raises:
        InvalidInputError: as `parse_manifest`.
    """
    name = manifest.name if 0 <= manifest.sequence <= MAX_SEQUENCE else f"sequence {manifest.sequence}"
    parse_manifest(storage.path_of(name), format_manifest(manifest))


def _row_files(
    manifest: Manifest, parts: Sequence[PacketContent], dtype: RowDType
) -> list[tuple[FileEntry, bytes]]:
    """The data files of a packet, in the order in which their records count."""
    files: dict[str, tuple[FileEntry, bytes]] = {}
    for part in _joined(parts):
        kind: FileKind = "deletes" if part.rows is None else "rows"
        kept = None if part.rows is None else dtype
        for shard, signs, rows in split_by_shard(part, manifest.shards):
            place = (manifest.sequence, manifest.writer, part.dim, kept, shard, manifest.shards)
            repeat = 0
            while (name := data_file_name(*place, repeat)) in files:
                repeat += 1
            sink = io.BytesIO()
            file = RowFileWriter(sink, part.dim, kept, shard, manifest.shards)
            file.write(signs, rows)
            entry = FileEntry(name, kind, part.dim, kept, shard, *file.close())
            files[name] = (entry, sink.getvalue())
    return list(files.values())


def _joined(parts: Sequence[PacketContent]) -> Iterator[PacketContent]:
    """Neighbours of one dim and kind as one; the order of the records stays. Empty parts are left out."""
    waiting: list[PacketContent] = []
    for part in parts:
        if not len(part.signs):
            continue
        if waiting and (waiting[0].dim, waiting[0].rows is None) != (part.dim, part.rows is None):
            yield _concatenated(waiting)
            waiting = []
        waiting.append(part)
    if waiting:
        yield _concatenated(waiting)


def _concatenated(parts: Sequence[PacketContent]) -> PacketContent:
    if len(parts) == 1:
        return parts[0]
    rows = [part.rows for part in parts if part.rows is not None]
    return PacketContent(
        parts[0].dim, np.concatenate([part.signs for part in parts]), np.concatenate(rows) if rows else None
    )


def split_by_shard(part: PacketContent, num_shards: int) -> Iterator[tuple[int, Signs, NDArray[Any] | None]]:
    """The records of each shard that has any, in their order."""
    if num_shards == 1:
        yield 0, np.ascontiguousarray(part.signs), part.rows
        return
    signs, order, starts = ids.split_by_shard(np.ascontiguousarray(part.signs), num_shards)
    for shard in range(num_shards):
        own = slice(int(starts[shard]), int(starts[shard + 1]))
        if own.stop > own.start:
            yield shard, signs[own], None if part.rows is None else part.rows[order[own]]


def _publish_together(storage: Storage, files: Mapping[str, bytes]) -> None:
    """Publish files; those that are there are replaced. Syncing them one after another would cost a journal's commit
    each.
    """
    uploads: list[Upload] = []
    try:
        for name, content in files.items():
            uploads.append(storage.upload(name))
            uploads[-1].write(content)
        for upload in uploads:
            upload.sync()
        for upload in uploads:
            upload.publish(replace=True, sync_folder=False)
        if uploads:
            storage.sync()
    finally:
        for upload in uploads:
            upload.discard()


def _read_file(
    storage: Storage, manifest: Manifest, entry: FileEntry, route: ShardRoute
) -> Iterator[tuple[Signs, NDArray[Any] | None]]:
    path = storage.path_of(entry.name)
    try:
        data = storage.read(entry.name, limit=entry.bytes)
    except FileNotFoundError as error:
        raise MissingFileError(
            path,
            f"{manifest.name} names this file, and it is not there; copy it again, or let the trainer publish anew",
        ) from error
    for signs, rows in read_row_file(path, data, entry, manifest.shards):
        yield select_route(path, signs, rows, entry, manifest.shards, route)
