"""Puts a finished archive where servers get it from: a model store, or a bucket that a server's `allowed_urls` name."""

from pathlib import Path

from satrap.errors import ArchiveError
from satrap.storage import Upload, open_storage

__all__ = ["upload"]

_CHUNK = 1024**2


def upload(archive: Path, location: str, *, force: bool = False) -> str:
    """Copy the archive into the folder at `location`, a path or a URL, where it appears whole or not at all.

    Returns its path or URL there.

    Raises:
        ArchiveError: it is a directory (`no-archive`), or the name is taken and `force` is False.
        StorageError: it cannot be written there.
        InvalidInputError: `location` is of no known kind.
    """
    if archive.is_dir():
        raise ArchiveError(archive.name, "a directory cannot be uploaded: choose another --archive-format")
    storage = open_storage(location)

    def write(target: Upload) -> None:
        with archive.open("rb") as source:
            while chunk := source.read(_CHUNK):
                target.write(chunk)

    try:
        storage.publish(archive.name, write, replace=force)
    except FileExistsError as error:
        raise ArchiveError(
            archive.name, f"{storage.path_of(archive.name)} already exists: give --force to replace it"
        ) from error
    return storage.path_of(archive.name)
