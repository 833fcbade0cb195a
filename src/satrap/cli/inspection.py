"""What a path or URL is, told by its contents; what knows each kind says the rest."""

import re
from contextlib import suppress
from pathlib import Path

from satrap.cli.inspection_facts import Facts
from satrap.cli.persia_inspection import examine_embedding_file, examine_persia_checkpoint
from satrap.cli.table_inspection import (
    examine_applied_files,
    examine_generation,
    examine_shard,
    examine_table,
    examine_undo_file,
)
from satrap.cli.update_inspection import examine_update_file, examine_update_folder
from satrap.embedding_server.updates.persia_ledger import LEDGER_NAMES
from satrap.embedding_server.updates.undo_file import UNDO_MAGIC
from satrap.errors import InvalidInputError
from satrap.formats.persia_marker import MARKER
from satrap.formats.persia_packet import PACKET_MARKER
from satrap.storage import Storage, open_storage

__all__ = ["examine"]

_PARTS = {
    b"SATRAPCT": ("control file", "control", "generation"),
    b"SATRAPDR": ("table's directory file", "directory", "table"),
    b"SATRAPSG": ("table's segment", r"segment-\d+", "table"),
}
"""By the magic of a file: what it is, the name it has, and what it is a part of, which is what can be checked."""


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
        return examine_generation(path, sign)
    if (path / "directory").exists():
        return examine_table(path, sign)
    if (path / MARKER).exists():
        return examine_persia_checkpoint(path, sign)
    update = examine_update_folder(storage, sign)
    if update is not None:
        return update
    if (path / "lock").exists():
        if sign is not None:
            raise InvalidInputError(
                f"{path}: a shard's tables: name one of its generations to see the rows of an id"
            )
        return examine_shard(path)
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
    if magic == UNDO_MAGIC:
        return examine_undo_file(path, sign)
    if path.name in LEDGER_NAMES:
        return examine_applied_files(path)
    part = _PARTS.get(magic)
    if part is None:
        update = examine_update_file(open_storage(path.parent), path.name, sign)
        if update is not None:
            return update
        facts = examine_embedding_file(path, sign)
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
        return {"file": path.name, **examine_generation(folder, sign)}
    return {"file": path.name, **examine_table(folder, sign)}
