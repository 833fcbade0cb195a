"""What every storage can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from satrap.errors import PathEscapeError

__all__ = ["Data", "Entries", "Entry", "Storage", "Upload", "check_name"]

Data = bytes | bytearray | memoryview


@dataclass(frozen=True, order=True)
class Entry:
    """A file or folder of a listing. `modified_ns` is 0 where the storage does not say; a folder has no size."""

    name: str
    size: int = 0
    modified_ns: int = 0
    is_folder: bool = False


Entries = list[Entry]
"""In the order of their names."""


class Upload(ABC):
    """A file that is being written and that nobody sees yet. One thread at a time."""

    @abstractmethod
    def write(self, data: Data) -> int:
        """Append all of `data`, and say how many bytes that were.

        Raises:
            StorageError: it cannot be written; `discard` is what is left to do.
        """

    @abstractmethod
    def sync(self) -> None:
        """Make what was written durable, where that can be done before it is published. `publish` does it otherwise;
        for several files it is quicker to sync all of them before the first one is published.

        Raises:
            StorageError: it cannot be written.
        """

    @abstractmethod
    def publish(self, *, replace: bool = False, sync_folder: bool = True) -> None:
        """Make the file appear under its name, whole and durable. Its name is durable after `Storage.sync` only
        if `sync_folder` is False. If this fails, what was written is gone and nothing has appeared, unless only the
        name could not be made durable. With `replace`, where renames do not overwrite (HDFS), a small file may be seen
        cut short for a moment, or be left so by a crash, but not absent.

        Raises:
            FileExistsError: the name is taken and `replace` is False.
            StorageError: it cannot be written.
        """

    @abstractmethod
    def discard(self) -> None:
        """Take away what was written; nothing if the file is published or discarded already. Never raises."""


class Storage(ABC):
    """A folder of files and of folders. Names are relative to it, with `/` between folder and file.

    Several threads may use it. An absent file is a FileNotFoundError, a name that leads out of the folder a
    PathEscapeError, everything else a StorageError.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """What a person calls this folder: the path, or the URL."""

    @property
    @abstractmethod
    def local(self) -> Path | None:
        """The folder's path where it is one of this machine's, else None."""

    @abstractmethod
    def list(self, folder: str = "", after: str = "", *, temporary: bool = False) -> Entries:
        """What lies directly in `folder`, with names greater than `after`, in the order of the names (by code point).

        Temporary names, which begin with a dot, are left out unless `temporary` is True. Names that are not UTF-8
        are nobody's and left out.
        """

    @abstractmethod
    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """All bytes of a file; of one that has more than `limit`, the first `limit` + 1."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The file, open for reading, seekable."""

    @abstractmethod
    def upload(self, name: str) -> Upload:
        """Begin to write a file. The folder it lies in is made if it is missing."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or an empty folder, which an object store forgets with its last file."""

    @abstractmethod
    def stat(self, name: str) -> Entry:
        """What a listing says of `name`."""

    @abstractmethod
    def subfolder(self, name: str) -> "Storage":
        """The folder `name` as a storage of its own; it need not exist."""

    @abstractmethod
    def sync(self, folder: str = "") -> None:
        """Make the names in `folder` durable, where that is not done already by publishing."""

    def publish(
        self,
        name: str,
        data: Data | Callable[[Upload], object],
        *,
        replace: bool = False,
        sync_folder: bool = True,
    ) -> None:
        """Write a file, by its bytes or by a function that writes them; as `Upload.publish`, and as its errors."""
        upload = self.upload(name)
        try:
            if callable(data):
                data(upload)
            else:
                upload.write(data)
            upload.publish(replace=replace, sync_folder=sync_folder)
        finally:
            upload.discard()

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def path_of(self, name: str) -> str:
        """What a person calls the file `name` of this folder."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url


def check_name(url: str, name: str) -> None:
    """Refuse a name that leads out of its folder, or nowhere.

    Raises:
        PathEscapeError: it is absolute, or has empty parts, `.`, `..`, or a NUL.
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise PathEscapeError(url, f"the name {name!r} does not lead to a file below this folder")
