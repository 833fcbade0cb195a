"""The frontend's side of unpacking: a directory for the version, and a child process that fills it."""

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from satrap.errors import ArchiveError, NoSpaceError, UnavailableError
from satrap.serving.archive.manifest import ArchiveOptions, Manifest
from satrap.serving.archive.unpack import Limits
from satrap.serving.errand import ErrandError, run_errand
from satrap.serving.forks import Template
from satrap.serving.frames import Kind

__all__ = ["Unpacked", "Unpacker"]

log = logging.getLogger("satrap.serving")

_PREFIX = "satrap-serving-"
_STALE_SECONDS = 60.0
"""A working directory that nobody has locked is not taken for a dead server's before it is so old."""


@dataclass(frozen=True)
class Unpacked:
    """An archive that was unpacked and found good; `downloaded` is its file if that was downloaded for it."""

    manifest: Manifest
    options: ArchiveOptions
    directory: Path
    downloaded: Path | None = None


def no_room(archive: str) -> NoSpaceError:
    """The error of an archive for which the working directory has no room."""
    return NoSpaceError(
        f"{archive}: there is no room to unpack it in {tempfile.gettempdir()}: start the server with TMPDIR set to a "
        "folder that has, or unregister versions"
    )


class Unpacker:
    """Owns the working directory of this server, in which every version has one of its own. `open` it first."""

    def __init__(self, template: Template, limits: Limits) -> None:
        """Make nothing."""
        self._template, self._limits = template, limits
        self._root: Path | None = None
        self._lock = -1

    async def open(self) -> None:
        """Make the working directory; remove those of servers that were killed."""
        await asyncio.to_thread(_remove_stale, Path(tempfile.gettempdir()))
        self._root = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX))
        self._lock = os.open(self._root, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    async def unpack(self, archive: Path) -> Unpacked:
        """Unpack the archive at that absolute path into a new directory; on failure nothing of it is left.

        Raises:
            ArchiveError: the archive is refused, and why.
            NoSpaceError: the file system of the working directory is full.
            UnavailableError: no process or no directory could be had.
        """
        try:
            target = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._root))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_room(archive.name) from error
            raise UnavailableError(f"there is no room to unpack {archive.name}: {error}") from error
        try:
            head: dict[str, object] = {
                "archive": str(archive),
                "target": str(target),
                "max_bytes": self._limits.max_bytes,
                "max_files": self._limits.max_files,
            }
            try:
                answer = await run_errand(
                    self._template, "unpack", Kind.UNPACK, head, f"unpacking {archive.name}"
                )
            except ErrandError as error:
                raise ArchiveError(archive.name, f"its unpacking process {error}") from error
            if "no_room" in answer.head:
                raise no_room(archive.name)
            if "reason" in answer.head:
                raise ArchiveError(archive.name, str(answer.head["reason"]))
            manifest = Manifest.from_document(answer.head["manifest"])
            return Unpacked(manifest, ArchiveOptions(**answer.head["config"]), target)
        except BaseException:
            await self.remove(target)
            raise

    async def remove(self, directory: Path) -> None:
        """Remove the directory of a version whose workers are gone."""
        await asyncio.to_thread(_remove_tree, directory)

    async def close(self) -> None:
        """Remove everything."""
        if self._root is not None:
            await self.remove(self._root)
            os.close(self._lock)
            self._root = None


def _remove_stale(temporary: Path) -> None:
    """Remove the working directories of servers that are gone: a living one holds a lock on its own."""
    for directory in temporary.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or just removed by another server
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(descriptor).st_mtime > _STALE_SECONDS:
                _remove_tree(directory)
        except BlockingIOError:
            continue  # its server lives
        finally:
            os.close(descriptor)


def _remove_tree(directory: Path) -> None:
    """Remove it as far as that is possible: what a handler left there must neither fail a call nor the next start."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except RecursionError:
        log.warning("the folders in %s are too deep to be removed: remove it by hand", directory)
