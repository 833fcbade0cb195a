"""Folders that tables may lie in: whose they are, who else could take them away, and whether they are memory."""

import logging
import os
import stat
from pathlib import Path

from satrap.errors import TableFolderError

__all__ = ["check_own", "check_table_directory", "make_table_directory"]

log = logging.getLogger(__name__)

_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
_EVERYBODYS = 0o1777
"""Each user makes a folder of their own in the table directory, and nobody removes another's, as in /tmp."""


def make_table_directory(directory: Path) -> None:
    """Make it for all users, if it is missing."""
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(_EVERYBODYS)


def check_table_directory(directory: Path) -> None:
    """Who else could take our folder away, and whether it is memory at all.

    Raises:
        TableFolderError: everybody may rename or remove what lies in it.
    """
    status = directory.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise TableFolderError(
            directory,
            "everybody may remove what others keep there: set its sticky bit (chmod +t), or choose another "
            "--table-directory",
        )
    if status.st_uid not in (0, os.geteuid()):
        log.warning(
            "%s: belongs to user %d, who can take away the tables that lie there", directory, status.st_uid
        )
    kind = _file_system_of(directory)
    if kind and kind not in _IN_MEMORY:
        log.warning(
            "%s: lies on %s, not in memory (tmpfs): rows go through the page cache of a disk", directory, kind
        )


def _file_system_of(directory: Path) -> str:
    """The type of the mount with this device, as /proc/self/mountinfo names it; empty if it does not say."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for mount in mounts:
        fields, _, kind = mount.partition(" - ")
        if fields.split()[2] == number:
            return kind.split()[0]
    return ""


def check_own(folder: Path) -> None:
    """In a directory where everybody may make folders, what is not ours may lead anywhere.

    Raises:
        TableFolderError: it is no folder of this user's, or a link.
    """
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        what = "is a link, which is not followed"
    elif status.st_uid != os.geteuid():
        what = f"belongs to user {status.st_uid}, not to {os.geteuid()}, whose tables would lie there"
    else:
        return
    raise TableFolderError(folder, f"{what}: have it removed, or choose another --table-directory")
