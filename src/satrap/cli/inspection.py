"""What a path is, what its headers say, and whether it is whole."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from satrap.cli.records import print_record
from satrap.embedding_server.inventory import (
    FoundTable,
    HeldGeneration,
    inspect_generation,
    inspect_table_folder,
)
from satrap.errors import InvalidInputError, SatrapError
from satrap.formats.persia_checkpoint import CheckpointFile, ShardRoute, open_checkpoint, summarize_file
from satrap.formats.persia_marker import MARKER

__all__ = ["Facts", "examine", "show"]

Facts = dict[str, Any]

_PARTS = {
    b"SATRAPCT": ("control file", "control", "generation"),
    b"SATRAPDR": ("table's directory file", "directory", "table"),
    b"SATRAPSG": ("table's segment", r"segment-\d+", "table"),
}
"""By the magic of a file: what it is, the name it has, and what it is a part of, which is what can be checked."""


def examine(path: Path) -> Facts:
    """What there is at `path`; `kind` says what, `damage` why it cannot be used (a sentence, or empty).

    Raises:
        InvalidInputError: nothing that satrap knows.
    """
    if not path.exists():
        raise InvalidInputError(f"{path}: there is no such file or directory")
    if not path.is_dir():
        return _file(path)
    if (path / "control").exists():
        return _generation(inspect_generation(path))
    if (path / "directory").exists():
        return _table(inspect_table_folder(path))
    if (path / MARKER).exists():
        return _checkpoint(path)
    if (path / "lock").exists():
        return _shard(path)
    raise InvalidInputError(
        f"{path}: neither a table, a generation of tables (it has no 'control'), nor a PERSIA checkpoint (it has no "
        f"'{MARKER}')"
    )


def _file(path: Path) -> Facts:
    """A file, told by its first bytes. PERSIA's have no magic: a damaged one is told by its name."""
    if not path.is_file():
        raise InvalidInputError(f"{path}: neither a file nor a directory")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error
    part = _PARTS.get(magic)
    if part is None:
        facts = _embedding_file(path)
        if path.suffix == ".emb" or not facts["damage"]:
            return facts
        raise InvalidInputError(
            f"{path}: is none of satrap's or PERSIA's files (its first bytes are {magic.hex(' ') or 'none'})"
        )
    kind, name, whole = part
    folder = path.absolute().parent
    if not re.fullmatch(name, path.name):
        raise InvalidInputError(f"{path}: a {kind}, away from the folder it belongs to or under another name")
    if whole == "generation":
        return {"file": path.name, **_generation(inspect_generation(folder))}
    return {"file": path.name, **_table(inspect_table_folder(folder))}


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
        "row_dtype": info.row_dtype,
        "written_by": f"satrap {info.version}",
        "age_seconds": generation.age_seconds,
        "warnings": list(info.warnings),
        "rows": generation.rows,
        "bytes": generation.bytes,
        "ratio": generation.bytes / least if least else None,
        "tables": [_table(table) for table in generation.tables],
    }


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


def _checkpoint(path: Path) -> Facts:
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
    return facts | {
        "rows": rows,
        "rows_by_dim": {str(dim): rows_by_dim[dim] for dim in sorted(rows_by_dim)},
        "bytes_per_row": facts["bytes"] / rows if rows else None,
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
            (name.replace("_", " "), _text(name, value))
            for name, value in facts.items()
            if name not in ("kind", "path", "damage", "tables", "generations")
            and value not in (None, "", [], {})
        ],
    )
    for part in (*facts.get("tables", ()), *facts.get("generations", ())):
        _show(part)
    if facts["damage"]:
        print(f"damaged: {facts['damage']}")
    elif facts["kind"] != "shard's tables":
        print("whole: every header was read and is valid")


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
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{rows:,} of dim {dim}" for dim, rows in value.items())
    return str(value)
