"""The model store: the one directory that archives are taken from, and what a `url` means in it.

As in TorchServe the base name of a url is looked up in the store, whatever directory the url names; unlike
TorchServe that holds for directories too, so nothing is ever served from outside.
"""

import re
from pathlib import Path, PurePosixPath

from satrap.errors import ArchiveNotFoundError, ConfigError
from satrap.serving.archive.manifest import MANIFEST_NAME

__all__ = ["ModelStore", "fallback_name", "startup_archives"]

_ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz")


class ModelStore:
    """Archives by url. `directory` None is a store that offers nothing."""

    def __init__(self, directory: Path | None) -> None:
        """Nothing is read before it is asked for."""
        self.directory = directory.absolute() if directory else None

    def find(self, url: str) -> Path:
        """The archive that a registration's url means.

        Raises:
            ArchiveNotFoundError: the store has no such archive, or the url is of a kind that is refused.
        """
        if self.directory is None:
            raise ArchiveNotFoundError(url, "Model store has not been configured.")
        if not url:
            raise ArchiveNotFoundError(url, "empty url")
        if ".." in url:
            raise ArchiveNotFoundError(url, f"Relative path is not allowed in url: {url}")
        if "://" in url and not url.lower().startswith("file://"):
            raise ArchiveNotFoundError(url, f"Given URL {url} does not match any allowed URL(s)")
        found = self._entry(PurePosixPath(url.replace("\\", "/")).name)
        if found is None:
            raise ArchiveNotFoundError(url, f"Model not found at: {url}")
        return found

    def _entry(self, name: str) -> Path | None:
        """The entry of that name; hidden ones are not archives (snapshots and unfinished downloads lie there)."""
        assert self.directory is not None
        if not name or name.startswith(".") or "\0" in name:
            return None
        try:
            return self.directory / name if (self.directory / name).exists() else None
        except OSError:  # a name that no file system takes
            return None

    def all(self) -> list[str]:
        """The names of all archives in the store, sorted."""
        if self.directory is None:
            return []
        return sorted(
            entry.name
            for entry in self.directory.iterdir()
            if not entry.name.startswith(".") and (_is_archive_file(entry) or _is_archive_folder(entry))
        )


def _is_archive_file(entry: Path) -> bool:
    return entry.is_file() and entry.name.endswith(_ARCHIVE_SUFFIXES)


def _is_archive_folder(entry: Path) -> bool:
    if not entry.is_dir():
        return False
    return any((folder / MANIFEST_NAME).is_file() for folder in (entry, *entry.iterdir()))


def fallback_name(url: str) -> str:
    """The name of a startup model that has none otherwise: the archive's, with what no name has replaced by `_`."""
    name = PurePosixPath(url).name
    if name.endswith((".mar", ".model")):
        name = name.rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9_]|^_", "_", name)


def startup_archives(models: str | None, store: ModelStore) -> list[tuple[str, str]]:
    """(model name or "", url) for `--models`: `a.mar,name=b.mar`, or `all` for every archive in the store.

    Raises:
        ConfigError: an entry is empty on one side of its `=`.
    """
    if not models:
        return []
    if models.strip().lower() == "all":
        return [("", url) for url in store.all()]
    archives: list[tuple[str, str]] = []
    for entry in filter(None, (part.strip() for part in models.split(","))):
        name, equals, url = entry.rpartition("=")
        if not url or (equals and not name):
            raise ConfigError("--models", "", 0, f"{entry!r} is neither an archive nor name=archive")
        archives.append((name, url))
    return archives
