"""What PERSIA's files are: embedding files, checkpoints of them, and incremental packets."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from satrap._core import embedding_file
from satrap.cli.inspection_facts import Facts, Reading, moment, owner_of, shown_values
from satrap.errors import SatrapError
from satrap.formats.persia_checkpoint import CheckpointFile, ShardRoute, open_checkpoint, summarize_file
from satrap.formats.persia_packet import PersiaDirectory, PersiaFile, PersiaListing, parse_packet
from satrap.storage import Storage

__all__ = [
    "examine_embedding_file",
    "examine_persia_checkpoint",
    "examine_persia_packet",
    "examine_persia_packets",
]


def examine_embedding_file(path: Path, sign: int | None) -> Facts:
    """An embedding file (`.emb`) of a checkpoint, and the rows of `sign` in it."""
    facts: Facts = {"kind": "PERSIA embedding file", "path": str(path), "damage": ""}
    size = path.stat().st_size
    facts["bytes"] = size
    try:
        summary = summarize_file(CheckpointFile(path, size), ShardRoute())
    except SatrapError as error:
        return facts | {"damage": str(error)}
    return facts | {
        "rows_of_header": summary.count,
        "nodes": summary.nodes,
        "rows": summary.live,
        "rows_by_dim": {str(dim): rows for dim, rows in sorted(summary.rows_by_dim.items())},
        "bytes_per_row": size / summary.live if summary.live else None,
        **_rows_of_files([path], sign),
    }


def examine_persia_checkpoint(path: Path, sign: int | None) -> Facts:
    """A checkpoint's directory: every file is counted to its end; of `sign`, the files of its shard are read."""
    facts: Facts = {"kind": "PERSIA checkpoint", "path": str(path), "damage": ""}
    try:
        checkpoint = open_checkpoint(path, ShardRoute())
        facts |= {
            "shards": checkpoint.num_shards,
            "files": len(checkpoint.files),
            "written": datetime.fromtimestamp(checkpoint.written_ns / 1e9, UTC).isoformat(timespec="seconds"),
            "bytes": sum(file.size for file in checkpoint.files),
            "warnings": list(checkpoint.warnings),
        }
        rows_by_dim: dict[int, int] = {}
        for file in checkpoint.files:
            for dim, rows in summarize_file(file, ShardRoute()).rows_by_dim.items():
                rows_by_dim[dim] = rows_by_dim.get(dim, 0) + rows
    except SatrapError as error:
        return facts | {"damage": str(error)}
    rows = sum(rows_by_dim.values())
    found: Facts = {}
    if sign is not None:
        owner = owner_of(sign, checkpoint.num_shards)
        own = [file.path for file in checkpoint.files if file.path.parent.name == f"s{owner}"]
        found = _rows_of_files(own, sign) | {"shard_of_id": f"{owner} of {checkpoint.num_shards}"}
    return facts | {
        "rows": rows,
        "rows_by_dim": {str(dim): rows_by_dim[dim] for dim in sorted(rows_by_dim)},
        "bytes_per_row": facts["bytes"] / rows if rows else None,
        **found,
    }


def _rows_of_files(paths: Sequence[Path], sign: int | None) -> Facts:
    """The rows of a sign in PERSIA's embedding files."""
    if sign is None:
        return {}
    found = []
    for path in paths:
        with path.open("rb") as file:
            signs, dims, _, values = embedding_file.read(file.fileno())
        starts = np.concatenate([[0], np.cumsum(dims, dtype=np.int64)])
        for index in np.flatnonzero(signs == np.uint64(sign)):
            row = values[starts[index] : starts[index + 1]]
            found.append({"file": path.name, "dim": int(dims[index]), **shown_values(row)})
    return {"id": sign, "rows_of_id": found}


def examine_persia_packet(storage: Storage, name: str, sign: int | None) -> Facts:
    """One packet file (`.inc`).

    Raises:
        StorageError: it cannot be read at the moment.
        FileNotFoundError: it is not there.
    """
    return _read_packets("PERSIA packet file", storage, [PersiaFile(name, storage.stat(name).size, 0)], sign)


def examine_persia_packets(storage: Storage, listing: PersiaListing, sign: int | None) -> Facts:
    """PERSIA's packets: every file is parsed, as that is the only way to know anything about it."""
    directories = list(listing.directories.values())
    files = [file for directory in directories for file in directory.files]
    facts = _read_packets("PERSIA packets", storage, files, sign, directories)
    unmarked = [directory.name for directory in directories if not directory.marked]
    return facts | {"path": storage.url, "directories": len(listing.directories), "unmarked": unmarked}


def _read_packets(
    kind: str,
    storage: Storage,
    files: Sequence[PersiaFile],
    sign: int | None,
    directories: Sequence[PersiaDirectory] = (),
) -> Facts:
    marked = {directory.name for directory in directories if directory.marked}
    reading = Reading(sign)
    times: list[int] = []
    damaged: list[str] = []
    waiting: list[str] = []
    for file in files:
        try:
            packet = parse_packet(storage.path_of(file.name), storage.read(file.name), ShardRoute())
        except SatrapError as error:
            unfinished = directories and file.directory not in marked
            (waiting if unfinished else damaged).append(str(error))
            continue
        times.append(packet.unix_seconds)
        for part in packet.parts:
            reading.add(
                part.dim, part.signs, part.rows, file=file.name, unix_seconds=str(packet.unix_seconds)
            )
    reading.found.sort(key=lambda found: int(found["unix_seconds"]))
    written = [moment(seconds * 10**9) for seconds in (min(times), max(times))] if times else None
    return {
        "kind": kind,
        "path": storage.path_of(files[0].name) if len(files) == 1 else storage.url,
        "damage": damaged[0] if damaged else "",
        "files": len(files),
        "damaged_files": len(damaged),
        "unfinished_files": waiting,
        "bytes": sum(file.size for file in files),
        "written": written,
        "ordinals": [str(min(times)), str(max(times))] if times else None,
        **reading.facts(),
        "checked": "every file was parsed to its last byte; the format has no checksums",
    }
