"""What a path is, what its headers say, and whether it is whole."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from satrap._core import embedding_file, ids
from satrap._core.table import TableError, TableReader, read_control
from satrap.cli.records import print_record
from satrap.cli.update_inspection import (
    Facts,
    examine_update_file,
    examine_update_folder,
    lines_of,
    moment,
    shown_values,
)
from satrap.embedding_server.inventory import (
    FoundTable,
    HeldGeneration,
    inspect_generation,
    inspect_table_folder,
)
from satrap.embedding_server.updates.persia_ledger import parse_applied
from satrap.embedding_server.updates.undo import read_undo_file
from satrap.errors import InvalidInputError, SatrapError, TableFolderError
from satrap.formats.persia_checkpoint import CheckpointFile, ShardRoute, open_checkpoint, summarize_file
from satrap.formats.persia_marker import MARKER
from satrap.formats.persia_packet import PACKET_MARKER
from satrap.storage import Storage, open_storage

__all__ = ["Facts", "examine", "show"]

_PARTS = {
    b"SATRAPCT": ("control file", "control", "generation"),
    b"SATRAPDR": ("table's directory file", "directory", "table"),
    b"SATRAPSG": ("table's segment", r"segment-\d+", "table"),
}
"""By the magic of a file: what it is, the name it has, and what it is a part of, which is what can be checked."""


_SHOWN_APART = ("kind", "path", "damage", "tables", "generations", "id", "rows_of_id", "checked")


def examine(location: str, sign: int | None = None) -> Facts:
    """What there is at `location`, a path or a URL, and the rows of `sign` in it.

    `kind` says what it is, `damage` why it cannot be used (a sentence, or empty).

    Raises:
        InvalidInputError: nothing that satrap knows.
        StorageError: it cannot be read at the moment.
    """
    storage = open_storage(location)
    if storage.local is None:
        return _remote(storage, sign)
    path = Path(location) if "://" not in location else storage.local
    if not path.exists():
        raise InvalidInputError(f"{path}: there is no such file or directory")
    if not path.is_dir():
        return _file(path, sign)
    if (path / "control").exists():
        return _generation(inspect_generation(path)) | _held_rows(path, sign)
    if (path / "directory").exists():
        return _table(inspect_table_folder(path)) | _held_rows(path.parent, sign)
    if (path / MARKER).exists():
        return _checkpoint(path, sign)
    update = examine_update_folder(storage, sign)
    if update is not None:
        return update
    if (path / "lock").exists():
        if sign is not None:
            raise InvalidInputError(
                f"{path}: a shard's tables: name one of its generations to see the rows of an id"
            )
        return _shard(path)
    raise InvalidInputError(
        f"{path}: neither a table, a generation of tables (it has no 'control'), a PERSIA checkpoint (it has no "
        f"'{MARKER}'), nor a folder of packets or checkpoints (it has no manifest)"
    )


def _remote(storage: Storage, sign: int | None) -> Facts:
    """A folder behind a URL, or a file."""
    folder, _, name = storage.url.rpartition("/")
    found: Facts | None = None
    if not folder.endswith("/"):
        parent = open_storage(folder)
        with suppress(FileNotFoundError):
            if not parent.stat(name).is_folder:
                found = examine_update_file(parent, name, sign)
    found = found or examine_update_folder(storage, sign)
    if found is None:
        raise InvalidInputError(f"{storage.url}: no packet or checkpoint, nor a folder of them")
    return found


def _file(path: Path, sign: int | None) -> Facts:
    """A file, told by its first bytes, or by its name. PERSIA's have no magic: a damaged one is told by its name."""
    if not path.is_file():
        raise InvalidInputError(f"{path}: neither a file nor a directory")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error
    if path.name in (MARKER, PACKET_MARKER):
        return {"file": path.name, **examine(str(path.absolute().parent), sign)}
    if magic == b"satrapUN":
        return _undo_file(path, sign)
    if path.name in ("applied.json", "applied-recent.json"):
        return _applied_files(path)
    part = _PARTS.get(magic)
    if part is None:
        update = examine_update_file(open_storage(path.parent), path.name, sign)
        if update is not None:
            return update
        facts = _embedding_file(path)
        if path.suffix == ".emb" or not facts["damage"]:
            return facts | _rows_of_files([path], sign, bool(facts["damage"]))
        raise InvalidInputError(
            f"{path}: is none of satrap's or PERSIA's files (its first bytes are {magic.hex(' ') or 'none'})"
        )
    kind, name, whole = part
    folder = path.absolute().parent
    if not re.fullmatch(name, path.name):
        raise InvalidInputError(f"{path}: a {kind}, away from the folder it belongs to or under another name")
    if whole == "generation":
        return {"file": path.name, **_generation(inspect_generation(folder)), **_held_rows(folder, sign)}
    return {"file": path.name, **_table(inspect_table_folder(folder)), **_held_rows(folder.parent, sign)}


def _undo_file(path: Path, sign: int | None) -> Facts:
    """What one packet changed, as it was before."""
    facts: Facts = {"kind": "undo file", "path": str(path), "damage": "", "bytes": path.stat().st_size}
    try:
        entry, groups = read_undo_file(path)
    except SatrapError as error:
        return facts | {"damage": str(error)}
    facts |= {
        "packet": entry.name,
        "sequence": str(entry.sequence),
        "leads_back_to": str(entry.previous.sequence),
        "dims": [
            {
                "dim": group.dim,
                "dtype": group.dtype,
                "signs": [int(group.signs.min()), int(group.signs.max())] if len(group.signs) else None,
                "changed": len(group.signs),
                "were_present": len(group.rows),
            }
            for group in groups
        ],
        "checked": "every byte was read, and its checksum is right",
    }
    if sign is None:
        return facts
    found = []
    for group in groups:
        place = np.cumsum(group.states == 1) - 1
        for index in np.flatnonzero(group.signs == np.uint64(sign)):
            was = ("absent", "present", "deleted")[int(group.states[index])]
            row = shown_values(group.rows[place[index]]) if was == "present" else {}
            found.append({"dim": group.dim, "was": was, "ordinal": str(group.ordinals[index]), **row})
    return facts | {"id": sign, "rows_of_id": found}


def _applied_files(path: Path) -> Facts:
    """Which of PERSIA's files are applied."""
    facts: Facts = {"kind": "list of PERSIA's applied files", "path": str(path), "damage": ""}
    try:
        settled = parse_applied(path.read_bytes())
    except ValueError as error:
        return facts | {"damage": f"{path}: {error}"}
    times = [done.unix_seconds for done in settled.values()]
    return facts | {
        "files": len(settled),
        "ordinals": [str(min(times)), str(max(times))] if times else None,
        "checked": "all of it was read",
    }


def _held_rows(folder: Path, sign: int | None) -> Facts:
    """The rows of a sign in a generation that serves, or has."""
    if sign is None:
        return {}
    try:
        control = read_control(str(folder))
        dims = sorted(
            int(entry.name.partition("-")[0]) for entry in folder.iterdir() if (entry / "directory").exists()
        )
        reader = TableReader(str(folder), control.instance_id, folder.stat().st_uid)
    except (TableError, OSError, ValueError) as error:
        raise TableFolderError(folder, f"its rows cannot be read: {error}") from error
    found = []
    try:
        for dim in dims:
            [(dtype, data)], missing, mismatched = reader.lookup(
                [(dim, np.array([sign], np.uint64).tobytes())]
            )
            if not missing and not mismatched:
                row = np.frombuffer(data, np.float32 if dtype == 1 else np.float16)
                found.append({"dim": dim, **shown_values(row)})
    finally:
        reader.close()
    owner = int(ids.farmhash64(np.array([sign], np.uint64))[0]) % control.replica_size
    return {"id": sign, "shard_of_id": f"{owner} of {control.replica_size}", "rows_of_id": found}


def _rows_of_files(paths: Sequence[Path], sign: int | None, damaged: bool) -> Facts:
    """The rows of a sign in PERSIA's embedding files."""
    if sign is None or damaged:
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


def _table(table: FoundTable) -> Facts:
    facts: Facts = {"kind": "table", "path": str(table.folder), "damage": table.damage}
    files = table.files
    if files is None:
        return facts
    facts |= {
        "dim": files.dim,
        "dtype": files.dtype,
        "rows": files.rows,
        "erased": files.tombstones,
        "segments": files.segments,
        "slots": files.slots,
        "used": (files.occupied + files.tombstones) / files.slots if files.slots else None,
        "buckets_overflowed": files.overflowed,
        "bytes": files.bytes,
        "bytes_per_row": files.bytes / files.rows if files.rows else None,
        "ratio": table.ratio,
    }
    # While a batch is written the writer's count is behind; afterwards both are the same.
    if files.occupied != files.rows:
        facts["rows_in_slots"] = files.occupied
    return facts


def _generation(generation: HeldGeneration) -> Facts:
    found, info = generation.found, generation.found.info
    facts: Facts = {"kind": "generation", "path": str(found.folder), "damage": generation.damage}
    if found.owner is None or info is None:
        return facts
    least = sum(table.rows * (8 + table.files.row_bytes) for table in generation.tables if table.files)
    return facts | {
        "state": found.state,
        "shard": f"{found.owner.replica_index} of {found.owner.replica_size}",
        "held_by": found.pid if found.locked else None,
        "checkpoint": info.checkpoint,
        "replacing": f"{info.replacing.checkpoint} is being put in its place" if info.replacing else None,
        "stream": info.origin.stream or None,
        "row_dtype": info.row_dtype,
        "written_by": f"satrap {info.version}",
        "age_seconds": generation.age_seconds,
        "applied": _applied(found.folder),
        "warnings": list(info.warnings),
        "rows": generation.rows,
        "bytes": generation.bytes,
        "ratio": generation.bytes / least if least else None,
        "tables": [_table(table) for table in generation.tables],
    }


def _applied(folder: Path) -> str | None:
    """How far the generation's updates are, None if there was none."""
    try:
        sequence, event_ns = read_control(str(folder)).applied
    except (TableError, OSError):
        return None
    return f"{sequence} (newest event {moment(event_ns) or 'unknown'})" if sequence else None


def _shard(folder: Path) -> Facts:
    generations = [
        _generation(inspect_generation(entry)) for entry in sorted(folder.iterdir()) if entry.is_dir()
    ]
    damage = next((str(facts["damage"]) for facts in generations if facts["damage"]), "")
    return {"kind": "shard's tables", "path": str(folder), "damage": damage, "generations": generations}


def _embedding_file(path: Path) -> Facts:
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
    }


def _checkpoint(path: Path, sign: int | None) -> Facts:
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
        owner = int(ids.farmhash64(np.array([sign], np.uint64))[0]) % checkpoint.num_shards
        own = [file.path for file in checkpoint.files if file.path.parent.name == f"s{owner}"]
        found = _rows_of_files(own, sign, damaged=False) | {
            "shard_of_id": f"{owner} of {checkpoint.num_shards}"
        }
    return facts | {
        "rows": rows,
        "rows_by_dim": {str(dim): rows_by_dim[dim] for dim in sorted(rows_by_dim)},
        "bytes_per_row": facts["bytes"] / rows if rows else None,
        **found,
    }


def show(facts: Facts, *, as_json: bool) -> None:
    """Print what `examine` found."""
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts)


def _show(facts: Mapping[str, Any]) -> None:
    """The facts, then those of each part."""
    print_record(
        f"{facts['kind']} {facts['path']}",
        [
            (name.replace("_", " ") if first else "", line)
            for name, value in facts.items()
            if name not in _SHOWN_APART and value not in (None, "", [], {})
            for first, line in _lines(_text(name, value))
        ],
    )
    for part in (*facts.get("tables", ()), *facts.get("generations", ())):
        _show(part)
    if "rows_of_id" in facts:
        print(f"id {facts['id']}")
        for line in lines_of(facts["rows_of_id"]) if facts["rows_of_id"] else ["has no row here"]:
            print(f"  {line}")
    if facts["damage"]:
        print(f"damaged: {facts['damage']}")
    elif facts["kind"] != "shard's tables":
        print(f"whole: {facts.get('checked', 'every header was read and is valid')}")


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """The lines of a value, and whether each is the first one."""
    for index, line in enumerate(text.splitlines()):
        yield index == 0, line


def _text(name: str, value: Any) -> str:
    if name == "held_by":
        return f"process {value}"
    if name == "bytes":
        return f"{value:,} ({decimal(value)})"
    if name == "ratio":
        return f"{value:.3f} x rows x (8 + row bytes)"
    if name == "used":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if name in ("written", "ordinals") and isinstance(value, list):
        return " to ".join(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(lines_of(value))
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{rows:,} of dim {dim}" for dim, rows in value.items())
    return str(value)
