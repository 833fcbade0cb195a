"""From what a person writes to a storage."""

import re
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote

from satrap.errors import InvalidInputError
from satrap.storage.base import Storage
from satrap.storage.local import LocalStorage

__all__ = ["StorageKind", "full_location", "open_storage"]

StorageKind = Literal["local", "ceph", "hdfs"]
"""What a location without a scheme means, by the tutorial's `storage` key: `ceph` is a path that is mounted."""


def open_storage(location: str | Path, kind: StorageKind = "local") -> Storage:
    """The folder at `location`: a path, or a URL. Nothing is connected to and the folder need not exist.

    Raises:
        InvalidInputError: no such scheme, or its package is not installed.
    """
    location = full_location(location, kind)
    scheme, separator, rest = location.partition("://")
    if not separator:
        return LocalStorage(Path(location))
    if scheme == "file":
        return LocalStorage(Path(unquote(rest)))
    from satrap.storage.remote import RemoteStorage  # fsspec takes 150 ms, which local folders can spare

    return RemoteStorage(location)


def full_location(location: str | Path, kind: StorageKind = "local") -> str:
    """`location` with the scheme that it has without saying so.

    Raises:
        InvalidInputError: it is empty, or a URL that lost a slash, or no such kind.
    """
    if kind not in get_args(StorageKind):
        raise InvalidInputError(f"storage is one of {', '.join(get_args(StorageKind))}, not {kind!r}")
    location = str(location)
    if not location or "\0" in location:
        raise InvalidInputError(f"{location!r} is neither a path nor a URL")
    if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", location):  # what becomes of a URL that was taken for a path
        scheme, _, rest = location.partition(":/")
        raise InvalidInputError(
            f"{location!r} looks like a URL that lost a slash: write {scheme}://{rest}, or ./{location} for a folder "
            "of that name"
        )
    if kind == "hdfs" and "://" not in location:
        return f"hdfs://{location}"
    return location
