"""Writes checkpoints as PERSIA's `ctx.dump` does, so that PERSIA and satrap can load them.

`satrap.formats.persia_checkpoint` describes the directory, `native/include/satrap/embedding_file.h` the files.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from satrap._core import ids
from satrap.errors import CheckpointError, InvalidInputError
from satrap.formats.persia_checkpoint import file_name
from satrap.formats.persia_marker import MARKER, Marker, format_marker

__all__ = ["write_persia_checkpoint"]

Signs = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.float32]

_HEADER = np.dtype(
    [("count", "<u8"), ("first", "<u4"), ("last", "<u4"), ("free", "<u4"), ("end", "<u4"), ("nodes", "<u4")]
)
_FREE_NODE = np.dtype([("next", "<u4"), ("previous", "<u4"), ("live", "u1")])
_MAX_NODES = 2**32 - 2


@dataclass(frozen=True)
class _Part:
    """The rows of one dim that go to one file."""

    signs: Signs
    rows: Rows


def write_persia_checkpoint(
    path: Path | str,
    tables: Mapping[int, tuple[Signs, Rows]],
    *,
    num_shards: int,
    num_internal_shards: int = 4,
    optimizer_floats: int = 0,
    free_nodes: int = 0,
    written_ns: int | None = None,
) -> None:
    """Write `tables` (dim -> signs u64 [n], rows f32 [n, dim]) as the new directory `path`.

    The directory appears whole or not at all: it is written and synced under a temporary name beside `path` and
    renamed. PERSIA's shard of a sign is farmhash64(sign) % num_shards; within a shard, rows are spread over
    `num_internal_shards` files. Each row is followed by `optimizer_floats` zeros, each file ends with `free_nodes`
    empty nodes, as PERSIA's preallocated lists do. `written_ns` is the markers' time (default: now).

    Raises:
        CheckpointError: `path` exists, or cannot be written.
        InvalidInputError: arrays of the wrong shape or dtype, a sign that occurs twice, counts below their least.
    """
    path = Path(path)
    _check(tables, num_shards, num_internal_shards, optimizer_floats, free_nodes)
    if path.exists():
        raise CheckpointError(
            path, "exists already; a checkpoint is never overwritten, choose another directory"
        )
    marker = format_marker(
        Marker(num_shards, num_internal_shards, time.time_ns() if written_ns is None else written_ns)
    )
    parts = _split(tables, num_shards, num_internal_shards)
    with _published(path) as folder:
        for shard in range(num_shards):
            shard_folder = folder / f"s{shard}"
            shard_folder.mkdir()
            for internal_shard in range(num_internal_shards):
                _write_file(
                    shard_folder / file_name(shard, internal_shard),
                    parts[shard * num_internal_shards + internal_shard],
                    optimizer_floats,
                    free_nodes,
                )
            _write_synced(shard_folder / MARKER, [marker])
            _sync_folder(shard_folder)
        _write_synced(folder / MARKER, [marker])
        _sync_folder(folder)


def _check(
    tables: Mapping[int, tuple[Signs, Rows]],
    num_shards: int,
    num_internal_shards: int,
    optimizer_floats: int,
    free_nodes: int,
) -> None:
    for name, value, least in (
        ("num_shards", num_shards, 1),
        ("num_internal_shards", num_internal_shards, 1),
        ("optimizer_floats", optimizer_floats, 0),
        ("free_nodes", free_nodes, 0),
    ):
        if value < least:
            raise InvalidInputError(f"{name} must be at least {least}, not {value}")
    for dim, (signs, rows) in tables.items():
        if dim < 1:
            raise InvalidInputError(f"dim must be at least 1, not {dim}")
        if signs.dtype != np.uint64 or signs.ndim != 1:
            raise InvalidInputError(
                f"signs of dim {dim} must be uint64 [n], not {signs.dtype} {list(signs.shape)}"
            )
        if rows.dtype != np.float32 or rows.shape != (len(signs), dim):
            raise InvalidInputError(
                f"rows of dim {dim} must be float32 [{len(signs)}, {dim}], not {rows.dtype} {list(rows.shape)}"
            )
    signs = np.sort(np.concatenate([signs for signs, _ in tables.values()] or [np.empty(0, np.uint64)]))
    twice = np.flatnonzero(signs[1:] == signs[:-1])
    if len(twice):
        raise InvalidInputError(f"the sign {signs[twice[0]]} occurs twice; one sign has one row, of one dim")


def _split(
    tables: Mapping[int, tuple[Signs, Rows]], num_shards: int, num_internal_shards: int
) -> list[list[_Part]]:
    """The parts of each file, file by file."""
    files: list[list[_Part]] = [[] for _ in range(num_shards * num_internal_shards)]
    for signs, rows in tables.values():
        hashes = ids.farmhash64(np.ascontiguousarray(signs))
        # PERSIA picks the internal shard by a hash of its process; readers do not care.
        file_of = (hashes % np.uint64(num_shards)) * np.uint64(num_internal_shards) + (
            hashes >> np.uint64(32)
        ) % np.uint64(num_internal_shards)
        order = np.argsort(file_of, kind="stable")
        ends = np.searchsorted(file_of[order], np.arange(1, len(files), dtype=np.uint64))
        for parts, chosen in zip(files, np.split(order, ends), strict=True):
            if len(chosen):
                parts.append(_Part(signs[chosen], rows[chosen]))
    return files


def _write_file(path: Path, parts: Sequence[_Part], optimizer_floats: int, free_nodes: int) -> None:
    live = sum(len(part.signs) for part in parts)
    nodes = live + free_nodes
    if nodes > _MAX_NODES:
        raise InvalidInputError(f"{path.name} would have {nodes:,} nodes; use more internal shards")
    header = np.array(
        [(live, min(live, 1), live, live + 1 if free_nodes else 0, nodes, nodes)],
        _HEADER,
    )
    blocks = [header.tobytes()]
    done = 0
    for part in parts:
        blocks.append(_live_nodes(part, done, live, optimizer_floats))
        done += len(part.signs)
    free = np.zeros(free_nodes, _FREE_NODE)
    free["next"][:-1] = np.arange(live + 2, nodes + 1, dtype=np.uint32)
    _write_synced(path, [*blocks, free.tobytes()])


def _live_nodes(part: _Part, before: int, live: int, optimizer_floats: int) -> bytes:
    """The part's nodes, linked in their order; `before` nodes precede them, the list has `live`."""
    count, dim = part.rows.shape
    node = np.dtype(
        [
            *_FREE_NODE.descr,
            ("inner_len", "<u4"),
            ("row", "<f4", (dim,)),
            ("optimizer", "<f4", (optimizer_floats,)),
            ("dim", "<u8"),
            ("sign", "<u8"),
        ]
    )
    nodes = np.zeros(count, node)
    index = np.arange(before + 1, before + count + 1, dtype=np.uint32)
    nodes["next"] = np.where(index == live, 0, index + 1)
    nodes["previous"] = index - 1
    nodes["live"] = 1
    nodes["inner_len"] = dim + optimizer_floats
    nodes["row"] = part.rows
    nodes["dim"] = dim
    nodes["sign"] = part.signs
    return nodes.tobytes()


@contextlib.contextmanager
def _published(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` when the body ends well and disappears when it does not."""
    folder = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise CheckpointError(path, f"cannot be written: {error.strerror}") from error
    try:
        yield folder
        folder.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(path, f"cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_synced(path: Path, blocks: Sequence[bytes]) -> None:
    with path.open("xb") as stream:
        for block in blocks:
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
