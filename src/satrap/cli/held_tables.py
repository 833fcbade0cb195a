"""What memory tables hold on this machine, and how to give it back."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from satrap.cli.records import print_record
from satrap.embedding_server.identity_lock import holder_of
from satrap.embedding_server.inventory import HeldGeneration, held_generations
from satrap.embedding_server.table_directory import held_identities, remove_identity
from satrap.errors import InvalidInputError

__all__ = ["remove", "show"]


def show(directory: Path, *, as_json: bool) -> None:
    """Print every generation in a table directory."""
    held = list(held_generations(directory))
    if as_json:
        print(json.dumps([_facts(generation) for generation in held], indent=2))
        return
    if not held:
        print(f"no tables in {directory}")
        return
    print(f"tables in {directory}")
    for generation in held:
        facts = _facts(generation)
        print_record(
            f"{facts['tables']}, generation {facts['generation']}",
            [
                ("state", str(facts["state"])),
                ("held by", f"process {generation.holder.pid or '?'}" if generation.holder else "nobody"),
                ("rows", f"{generation.rows:,}"),
                ("memory", decimal(generation.bytes)),
                ("age", _age(generation.age_seconds)),
                ("user", str(facts["uid"])),
                ("checkpoint", str(facts["checkpoint"]) or "none"),
                ("damage", generation.damage or ""),
            ],
        )


def remove(directory: Path, names: Sequence[str], *, remove_all: bool) -> None:
    """Remove the tables named, or all of this user's that no server holds.

    Raises:
        InvalidInputError: nothing is named, or something that is not there.
        TableHeldError: a server holds one of those named; those before it are removed.
    """
    if remove_all == bool(names):
        raise InvalidInputError("say which tables, as `satrap tables list` names them, or --all")
    own = directory / str(os.geteuid())
    folders = [_folder(own, name) for name in names]
    if remove_all:
        folders = [
            folder
            for identity, folder in held_identities(directory)
            if identity.uid == os.geteuid() and holder_of(folder) is None
        ]
    for folder in folders:
        remove_identity(folder)
        print(f"removed {folder}")


def _folder(own: Path, name: str) -> Path:
    """The folder of tables that a user named; a whole path will do as well."""
    relative = name.removeprefix(f"{own}/")
    if not re.fullmatch(r"[^/.][^/]*/\d+-of-\d+", relative):
        raise InvalidInputError(
            f"{name!r} names no tables: name them as `satrap tables list` does, NAMESPACE/I-of-N"
        )
    folder = own / relative
    if not folder.is_dir():
        raise InvalidInputError(f"there are no tables {relative} in {own}")
    return folder


def _facts(generation: HeldGeneration) -> dict[str, object]:
    found, identity, info = generation.found, generation.identity, generation.found.info
    assert identity is not None
    return {
        "uid": identity.uid,
        "tables": f"{identity.namespace}/{identity.owner.replica_index}-of-{identity.owner.replica_size}",
        "generation": found.folder.name,
        "folder": str(found.folder),
        "state": "damaged" if generation.damage else found.state,
        "damage": generation.damage,
        "held": generation.holder is not None,
        "pid": generation.holder.pid if generation.holder else None,
        "rows": generation.rows,
        "bytes": generation.bytes,
        "age_seconds": generation.age_seconds,
        "checkpoint": info.checkpoint if info else "",
    }


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
