"""Folders of this machine, mounted ones included."""

import errno
import os
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from satrap.errors import PathEscapeError, StorageError
from satrap.storage.base import Data, Entries, Entry, Storage, Upload, check_name
from satrap.storage.temporary import is_temporary, temporary_name

__all__ = ["LocalStorage"]

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space; what was not written whole was taken away again",
    errno.EDQUOT: "the quota is used up: free some space; what was not written whole was taken away again",
    errno.EFBIG: "the file would be larger than this process or the file system may write",
    errno.EACCES: "permission denied: give the user that runs this process access",
    errno.EPERM: "permission denied: give the user that runs this process access",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOTEMPTY: "the folder is not empty",
    errno.ELOOP: "the symbolic links lead in a circle",
}

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL)
"""What file systems without hard links say when one is made."""


class LocalStorage(Storage):
    """A folder by its path. Symbolic links are followed as long as they stay in the folder."""

    def __init__(self, path: Path) -> None:
        """Keep the absolute path, so that a later change of the working directory changes nothing."""
        self._path = path.absolute()

    @property
    def url(self) -> str:
        """The path."""
        return str(self._path)

    @property
    def local(self) -> Path:
        """The path."""
        return self._path

    def list(self, folder: str = "", after: str = "", *, temporary: bool = False) -> Entries:
        """As promised; files that come or go meanwhile may or may not be there."""
        with self._translated(folder):
            try:
                return sorted(self._entries(self._place(folder), after, temporary))
            except FileNotFoundError:
                return []

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """As promised. A file that shrinks meanwhile is read as far as it goes."""
        with self.open(name) as file, self._translated(name):
            # Never asked for more than there is: Python would take that much memory first.
            return file.read(-1 if limit is None else min(limit, os.fstat(file.fileno()).st_size) + 1)

    def open(self, name: str) -> BinaryIO:
        """As promised. A pipe or a device is refused, not waited for."""
        check_name(self.url, name)
        with self._translated(name):
            descriptor = os.open(self._place(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                kind = os.fstat(descriptor).st_mode
                if not modes.S_ISREG(kind):
                    folder = modes.S_ISDIR(kind)
                    raise StorageError(
                        self.path_of(name), _REASONS[errno.EISDIR] if folder else "is not a file"
                    )
                return os.fdopen(descriptor, "rb")
            except BaseException:
                os.close(descriptor)
                raise

    def upload(self, name: str) -> Upload:
        """A temporary file beside the one to be."""
        with self._translated(name):
            place = self._place(name, parent=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(temporary_name(place.name))
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return _LocalUpload(self.path_of(name), place, temporary, descriptor)

    def remove(self, name: str) -> None:
        """As promised; of a symbolic link the link."""
        with self._translated(name):
            place = self._place(name, parent=True)
            if place.is_dir() and not place.is_symlink():
                place.rmdir()
            else:
                place.unlink()

    def stat(self, name: str) -> Entry:
        """As promised."""
        with self._translated(name):
            return _entry(name, self._place(name).stat())

    def subfolder(self, name: str) -> "LocalStorage":
        """As promised; a symbolic link out of this folder is refused here, and within it below."""
        check_name(self.url, name)
        with self._translated(name):
            self._place(name)
        return LocalStorage(self._path / name)

    def sync(self, folder: str = "") -> None:
        """As promised."""
        with self._translated(folder):
            _sync_folder(self._place(folder))

    def _place(self, name: str, *, parent: bool = False) -> Path:
        """The file's own path, free of links, which lies below the folder's. With `parent` the name itself may be a
        link, as it is not followed.
        """
        root = os.path.realpath(self._path)
        if not name and not parent:
            return Path(root)
        check_name(self.url, name)
        if parent:
            folder, _, last = name.rpartition("/")
            place = f"{os.path.realpath(f'{root}/{folder}')}/{last}" if folder else f"{root}/{last}"
        else:
            place = os.path.realpath(f"{root}/{name}")
        if not place.startswith(f"{root.rstrip('/')}/"):
            raise PathEscapeError(self.path_of(name), f"a symbolic link leads out of {self.url}, to {place}")
        return Path(place)

    def _entries(self, folder: Path, after: str, temporary: bool) -> Iterator[Entry]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name <= after or (is_temporary(name) and not temporary) or not _is_utf8(name):
                    continue
                try:
                    yield _entry(name, entry.stat())
                except OSError:
                    # Gone, or a link that leads nowhere: whoever reads it is told what is wrong with it.
                    with suppress(FileNotFoundError):
                        yield _entry(name, entry.stat(follow_symlinks=False))

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        with translated(self.path_of(name)):
            yield


class _LocalUpload(Upload):
    """Written to a temporary name, synced, and linked to its own."""

    def __init__(self, url: str, place: Path, temporary: Path, descriptor: int) -> None:
        self._url, self._place, self._temporary = url, place, temporary
        self._descriptor: int | None = descriptor
        self._synced = False

    def write(self, data: Data) -> int:
        assert self._descriptor is not None, "published or discarded already"
        self._synced = False
        rest = memoryview(data).cast("B")
        length = len(rest)
        with translated(self._url):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        return length

    def sync(self) -> None:
        assert self._descriptor is not None, "published or discarded already"
        if not self._synced:
            with translated(self._url):
                os.fsync(self._descriptor)
            self._synced = True

    def publish(self, *, replace: bool = False, sync_folder: bool = True) -> None:
        assert self._descriptor is not None, "published or discarded already"
        try:
            self.sync()
            with translated(self._url):
                if replace:
                    self._temporary.rename(self._place)
                else:
                    self._link()
                if sync_folder:
                    _sync_folder(self._place.parent)
        except FileNotFoundError as error:
            raise StorageError(self._url, "the folder went away while it was written to") from error
        finally:
            self.discard()

    def discard(self) -> None:
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        self._descriptor = None
        with suppress(OSError):
            self._temporary.unlink()

    def _link(self) -> None:
        """A rename that never overwrites: the second name is made only if it is free, then the first one goes."""
        try:
            os.link(self._temporary, self._place, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self._place):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._place)) from None
            self._temporary.rename(self._place)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Make a StorageError of what the operating system says, absent and taken names excepted."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise StorageError(url, reason) from error


def _entry(name: str, status: os.stat_result) -> Entry:
    folder = modes.S_ISDIR(status.st_mode)
    return Entry(name, 0 if folder else status.st_size, status.st_mtime_ns, folder)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems whose folders need no syncing
            raise
    finally:
        os.close(descriptor)
