"""Folders that fsspec knows by their URL: S3, HDFS, memory and others."""

import io
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from satrap.errors import InvalidInputError, SatrapError, StorageError
from satrap.storage.base import Data, Entries, Entry, Storage, Upload, check_name
from satrap.storage.temporary import is_temporary, temporary_name

__all__ = ["RemoteStorage"]

_OBJECT_STORES = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "cos", "r2", "memory"}
)
"""Here a file appears when it is closed, whole, and a rename would be a copy."""

_PART_BYTES = 16 << 20
"""What an upload holds in memory; S3's limit of 10,000 parts then is 160 GB a file."""

_PAGE = 1000
"""Names that S3 gives in one answer, at most."""

_OVERWRITTEN_BYTES = 1 << 20
"""A file of this size at most is overwritten in its place where a rename cannot replace: for a moment it is cut short,
which a reader of a decision sees and waits for, but never absent, which would be another decision."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # botocore would wait for minutes, and try again what s3fs tries five times; whoever polls comes again anyway.
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 1}}},
}


class RemoteStorage(Storage):
    """A folder by its URL. The connection is made when it is first needed, and is fsspec's, shared."""

    def __init__(self, url: str) -> None:
        """Keep the URL.

        Raises:
            InvalidInputError: no such scheme, or its package is not installed.
        """
        self._url = url.rstrip("/") if not url.endswith("://") else url
        self._scheme = url.partition("://")[0]
        try:
            fsspec.get_filesystem_class(self._scheme.partition("::")[0])
        except ImportError as error:
            hint = "pip install 'satrap[s3]'" if self._scheme in ("s3", "s3a") else str(error)
            raise InvalidInputError(f"{url}: the package for {self._scheme}:// is missing: {hint}") from error
        except ValueError as error:
            raise InvalidInputError(
                f"{url}: there is no storage {self._scheme}://; a path, or s3://, hdfs://, webhdfs://, memory://"
            ) from error

    @property
    def url(self) -> str:
        """The URL."""
        return self._url

    @property
    def local(self) -> None:
        """None: it is not a folder of this machine."""
        return

    def list(self, folder: str = "", after: str = "", *, temporary: bool = False) -> Entries:
        """As promised; S3 is asked only for the names after `after`."""
        place = self._place(folder)
        with self._translated(folder):
            if self._scheme in ("s3", "s3a"):
                try:
                    found = self._list_s3(place, after)
                except FileNotFoundError as error:  # S3 says so of buckets only
                    raise StorageError(
                        self.path_of(folder), f"{error}: create it, or correct the URL"
                    ) from error
            else:
                try:
                    listed = self._fs.ls(place, detail=True)
                except FileNotFoundError:
                    return []
                if any(info["name"].rstrip("/") == place and info["type"] != "directory" for info in listed):
                    raise StorageError(self.path_of(folder), "is a file, not a folder")
                found = [_entry(info) for info in listed]
        return sorted(
            entry
            for entry in found
            if entry.name > after and entry.name and (temporary or not is_temporary(entry.name))
        )

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """As promised."""
        check_name(self._url, name)
        place = self._place(name)
        with self._translated(name):
            if limit is not None and self._fs.info(place)["size"] > limit:
                with self.open(name) as file:
                    return file.read(limit + 1)
            return bytes(self._fs.cat_file(place))

    def open(self, name: str) -> BinaryIO:
        """As promised."""
        check_name(self._url, name)
        with self._translated(name):
            if self._scheme == "memory":  # its files are one object, with one position, for all who open them
                return io.BytesIO(self._fs.cat_file(self._place(name)))
            return io.BufferedReader(_RemoteFile(self._fs.open(self._place(name), "rb"), self.path_of(name)))

    def upload(self, name: str) -> Upload:
        """One object, or a temporary file where there are renames."""
        check_name(self._url, name)
        with self._translated(name):
            place = self._place(name)
            if self._scheme == "memory":  # a file of it that is being written is there already
                return _MemoryUpload(self.path_of(name), self._fs, place, io.BytesIO())
            if self._scheme in _OBJECT_STORES:
                file = self._fs.open(place, "wb", autocommit=False, block_size=_PART_BYTES)
                return _ObjectUpload(self.path_of(name), self._fs, place, file)
            folder, _, last = place.rpartition("/")
            self._fs.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/{temporary_name(last)}"
            return _RenamedUpload(
                self.path_of(name), self._fs, place, temporary, self._fs.open(temporary, "wb")
            )

    def remove(self, name: str) -> None:
        """As promised."""
        check_name(self._url, name)
        place = self._place(name)
        with self._translated(name):
            if self._fs.info(place)["type"] != "directory":
                self._fs.rm_file(place)
                return
            # Asked first, because HDFS would remove what is in it as well. An object store has no folders to remove,
            # and the `rmdir` of WebHDFS does nothing.
            if self.list(name, temporary=True):
                raise StorageError(self.path_of(name), "the folder is not empty")
            if self._scheme not in _OBJECT_STORES:
                remove = self._fs.rm if self._scheme == "webhdfs" else self._fs.rmdir
                remove(place)

    def stat(self, name: str) -> Entry:
        """As promised."""
        with self._translated(name):
            found = _entry(self._fs.info(self._place(name)))
            return Entry(name, found.size, found.modified_ns, found.is_folder)

    def subfolder(self, name: str) -> "RemoteStorage":
        """As promised."""
        check_name(self._url, name)
        return RemoteStorage(f"{self._url}/{name}")

    def sync(self, folder: str = "") -> None:
        """Nothing: what is published is durable."""

    @cached_property
    def _connection(self) -> tuple[Any, str]:
        """The file system and the folder's path in it."""
        options = _OPTIONS.get(self._scheme, {})
        fs, root = url_to_fs(self._url, use_listings_cache=False, **options)
        return fs, root.rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._connection[0]

    def _place(self, name: str) -> str:
        if name:
            check_name(self._url, name)
        with self._translated(name):
            root = self._connection[1]
        return f"{root}/{name}" if name else root

    def _list_s3(self, place: str, after: str) -> Entries:
        """The names after `after`, page by page; fsspec would ask for all of them."""
        bucket, _, key = place.partition("/")
        prefix = f"{key}/" if key else ""
        request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", "MaxKeys": _PAGE}
        if after:
            request["StartAfter"] = prefix + after
        entries: Entries = []
        while True:
            answer = self._fs.call_s3("list_objects_v2", **request)
            entries += [_entry({**item, "type": "file"}, "Key") for item in answer.get("Contents", ())]
            entries += [
                Entry(item["Prefix"].rstrip("/").rpartition("/")[2], is_folder=True)
                for item in answer.get("CommonPrefixes", ())
            ]
            if not answer.get("IsTruncated"):
                return entries
            request["ContinuationToken"] = answer["NextContinuationToken"]

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        with _translated(self.path_of(name)):
            yield


class _RemoteFile(io.RawIOBase):
    """A file of fsspec's whose errors are satrap's."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _translated(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _translated(self._url):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            with suppress(Exception):
                self._file.close()
        super().close()


class _RemoteUpload(Upload):
    """What both ways have in common."""

    def __init__(self, url: str, fs: Any, place: str, file: Any) -> None:
        self._url, self._fs, self._place, self._file = url, fs, place, file
        self._done = False

    def write(self, data: Data) -> int:
        assert not self._done, "published or discarded already"
        with _translated(self._url):
            self._file.write(data)
        return memoryview(data).nbytes

    def sync(self) -> None:
        """Nothing: publishing does it."""

    def publish(self, *, replace: bool = False, sync_folder: bool = True) -> None:
        assert not self._done, "published or discarded already"
        with _translated(self._url):
            try:
                if not replace and _is_there(self._fs, self._place):
                    raise FileExistsError(f"{self._url} exists already")
                self._finish(replace)
                self._done = True
            except FileNotFoundError as error:
                raise StorageError(
                    self._url, f"the folder or bucket to write to is not there: {error}"
                ) from error
            finally:
                self.discard()

    def discard(self) -> None:
        if not self._done:
            self._done = True
            with suppress(Exception):
                self._drop()

    @abstractmethod
    def _finish(self, replace: bool) -> None:
        """Let the file appear, whole. Raises what the file system raises."""

    @abstractmethod
    def _drop(self) -> None:
        """Take away what was written. What it raises is ignored."""


class _ObjectUpload(_RemoteUpload):
    """One object, which appears when it is committed."""

    def _finish(self, replace: bool) -> None:
        self._file.close()
        self._file.commit()

    def _drop(self) -> None:
        # Not closed: closing would write it.
        self._file.discard()
        self._file.closed = True


class _MemoryUpload(_RemoteUpload):
    """Kept aside, and put whole."""

    def _finish(self, replace: bool) -> None:
        self._fs.pipe_file(self._place, self._file.getvalue(), mode="overwrite" if replace else "create")

    def _drop(self) -> None:
        self._file.close()


class _RenamedUpload(_RemoteUpload):
    """A temporary file, renamed."""

    def __init__(self, url: str, fs: Any, place: str, temporary: str, file: Any) -> None:
        super().__init__(url, fs, place, file)
        self._temporary = temporary

    def _finish(self, replace: bool) -> None:
        self._file.close()
        if replace and _is_there(self._fs, self._place):
            # HDFS renames to free names only.
            if self._fs.info(self._temporary)["size"] <= _OVERWRITTEN_BYTES:
                self._fs.pipe_file(self._place, self._fs.cat_file(self._temporary))
                self._fs.rm_file(self._temporary)
                return
            self._fs.rm_file(self._place)
        self._fs.mv(self._temporary, self._place)
        self._fs.info(self._place)  # WebHDFS does not say that it did nothing

    def _drop(self) -> None:
        self._file.close()
        self._fs.rm_file(self._temporary)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Make a StorageError of whatever the storage's packages raise, absent and taken names excepted."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, SatrapError):
        raise
    except Exception as error:
        raise StorageError(url, _reason(error)) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "libhdfs" in text or "libjvm" in text:
        return "Hadoop's client is not set up here (docs/storage.md says how): " + text[:200]
    return text[:500]


def _is_there(fs: Any, place: str) -> bool:
    """Whether there is a file. fsspec's own `exists` takes a storage that does not answer for an absent file."""
    try:
        fs.info(place)
    except FileNotFoundError:
        return False
    return True


def _entry(info: Mapping[str, Any], key: str = "name") -> Entry:
    name = str(info[key]).rstrip("/").rpartition("/")[2]
    if info["type"] == "directory":
        return Entry(name, is_folder=True)
    return Entry(name, int(info.get("size", info.get("Size")) or 0), _modified_ns(info))


def _modified_ns(info: Mapping[str, Any]) -> int:
    """Each of fsspec's storages has its own word for it."""
    readers: dict[str, Callable[[Any], int]] = {
        "LastModified": _nanoseconds,
        "last_modified": _nanoseconds,
        "mtime": _nanoseconds,
        "created": _nanoseconds,
        "modificationTime": lambda value: int(value) * 1_000_000,
    }
    for key, read in readers.items():
        if info.get(key) is not None:
            return read(info[key])
    return 0


def _nanoseconds(value: Any) -> int:
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=UTC)
        return int(value.timestamp() * 1e9)
    return int(float(value) * 1e9)
