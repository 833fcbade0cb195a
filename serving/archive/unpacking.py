"""The frontend's side of unpacking: a directory for the version, and a child process that fills it."""

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from satrap.errors import ArchiveError
from satrap.serving.archive.manifest import ArchiveOptions, Manifest
from satrap.serving.archive.unpack import Limits
from satrap.serving.forks import Child, Template
from satrap.serving.frames import Frame, FrameError, FrameParser, Kind, encode
from satrap.serving.output import OutputLog

__all__ = ["Unpacked", "Unpacker"]

_CHUNK = 64 * 1024
_PREFIX = "satrap-serving-"
_STALE_SECONDS = 60.0
"""A working directory that nobody has locked is not taken for a dead server's before it is so old."""


@dataclass(frozen=True)
class Unpacked:
    """An archive that was unpacked and found good."""

    manifest: Manifest
    options: ArchiveOptions
    directory: Path


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
            UnavailableError: no process could be had.
        """
        target = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._root))
        try:
            head = {
                "archive": str(archive),
                "target": str(target),
                "max_bytes": self._limits.max_bytes,
                "max_files": self._limits.max_files,
            }
            answer = await self._ask(archive.name, head)
            if "reason" in answer.head:
                raise ArchiveError(archive.name, str(answer.head["reason"]))
            manifest = Manifest.from_document(answer.head["manifest"])
            return Unpacked(manifest, ArchiveOptions(**answer.head["config"]), target)
        except BaseException:
            await self.remove(target)
            raise

    async def remove(self, directory: Path) -> None:
        """Remove the directory of a version whose workers are gone."""
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def close(self) -> None:
        """Remove everything."""
        if self._root is not None:
            await self.remove(self._root)
            os.close(self._lock)
            self._root = None

    async def _ask(self, name: str, head: dict[str, object]) -> Frame:
        child = await self._template.fork("unpack")
        OutputLog(child.output, f"unpacking {name}")
        reader, writer = await asyncio.open_unix_connection(sock=child.connection)
        try:
            writer.writelines(encode(Kind.UNPACK, head))
            return await _read_frame(reader, name, child)
        finally:
            writer.close()
            child.kill()  # it has answered, or nobody waits for it any more
            os.close(child.pidfd)


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
                shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            continue  # its server lives
        finally:
            os.close(descriptor)


async def _read_frame(reader: asyncio.StreamReader, name: str, child: Child) -> Frame:
    parser = FrameParser()
    while data := await reader.read(_CHUNK):
        try:
            frames = parser.feed(data)
        except FrameError as error:
            raise ArchiveError(name, f"its unpacking process failed: {error}") from error
        if frames:
            return frames[0]
    raise ArchiveError(name, f"its unpacking process {await child.ended}")
