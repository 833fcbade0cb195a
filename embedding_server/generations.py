"""The generations of tables that lie in an identity's folder, and what their control files say."""

import re
from pathlib import Path

from satrap._core.table import TableError, TableSpaceError, read_control
from satrap.embedding_server.takeover import Found, GenerationInfo
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = ["examine_generation", "list_generations"]


def list_generations(folder: Path) -> list[Found]:
    """Every generation in an identity's folder, oldest first."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if re.fullmatch(r"\d{8,}", entry.name))
    except OSError:
        return []
    return [examine_generation(entry) for entry in entries]


def examine_generation(folder: Path) -> Found:
    """What a generation's control file says; its damage is a finding too."""
    number = int(folder.name) if folder.name.isdecimal() else 0
    if folder.is_symlink():
        return Found(number, folder, damage=f"{folder}: a link, not a folder of ours")
    if not (folder / "control").exists():
        return Found(number, folder)  # its server ended before it had one
    try:
        control = read_control(str(folder))
        info = GenerationInfo.from_bytes(control.info)
    except (TableError, TableSpaceError) as error:
        return Found(number, folder, damage=str(error))
    except ValueError as error:
        return Found(number, folder, damage=f"{folder / 'control'}: its description cannot be read: {error}")
    return Found(
        number,
        folder,
        state=control.state,
        boot_id=control.boot_id,
        owner=ShardRoute(control.replica_index, control.replica_size),
        info=info,
        pid=control.pid,
        locked=control.locked,
    )
