"""What a server keeps in its table directory: tables, generations, and what belongs to these."""

from pathlib import Path

import numpy as np

from satrap._core.table import TableError, TableReader, read_control
from satrap.cli.inspection_facts import Facts, moment, owner_of, shown_values
from satrap.embedding_server.inventory import (
    FoundTable,
    HeldGeneration,
    inspect_generation,
    inspect_table_folder,
)
from satrap.embedding_server.updates.persia_ledger import parse_applied
from satrap.embedding_server.updates.undo_file import read_undo_file
from satrap.errors import SatrapError, TableFolderError

__all__ = [
    "examine_applied_files",
    "examine_generation",
    "examine_shard",
    "examine_table",
    "examine_undo_file",
]


def examine_generation(folder: Path, sign: int | None) -> Facts:
    """A generation of tables, and the rows of `sign` in it.

    Raises:
        TableFolderError: the rows cannot be read.
    """
    return _generation(inspect_generation(folder)) | _held_rows(folder, sign)


def examine_table(folder: Path, sign: int | None) -> Facts:
    """One table of a generation, and the rows of `sign` in all of them.

    Raises:
        TableFolderError: the rows cannot be read.
    """
    return _table(inspect_table_folder(folder)) | _held_rows(folder.parent, sign)


def examine_undo_file(path: Path, sign: int | None) -> Facts:
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


def examine_applied_files(path: Path) -> Facts:
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
    """The rows of a sign in a generation, whether a server holds it or not."""
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
    owner = owner_of(sign, control.replica_size)
    return {"id": sign, "shard_of_id": f"{owner} of {control.replica_size}", "rows_of_id": found}


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


def examine_shard(folder: Path) -> Facts:
    """All generations of a shard."""
    generations = [
        _generation(inspect_generation(entry)) for entry in sorted(folder.iterdir()) if entry.is_dir()
    ]
    damage = next((str(facts["damage"]) for facts in generations if facts["damage"]), "")
    return {"kind": "shard's tables", "path": str(folder), "damage": damage, "generations": generations}
