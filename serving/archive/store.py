"""The model store: the one directory that archives are taken from, and what a `url` means in it.

As in TorchServe the base name of a url is looked up in the store, whatever directory the url names; unlike
TorchServe that holds for directories too, so nothing is ever served from outside. A URL that the configuration allows
says what to download into the store.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from satrap.errors import ArchiveExistsError, ArchiveNotFoundError, ConfigError, DownloadError
from satrap.serving.archive.manifest import MANIFEST_NAME
from satrap.serving.archive.urls import AllowedUrls, file_name, is_url, local_path

__all__ = ["Located", "ModelStore", "fallback_name", "startup_archives"]

_ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Located:
    """Where an archive is, or will be once it is downloaded from `url`."""

    path: Path
    url: str = ""


class ModelStore:
    """Archives by url. `directory` None is a store that offers nothing."""

    def __init__(self, directory: Path | None, allowed: AllowedUrls | None = None) -> None:
        """Nothing is read before it is asked for; no URL is `allowed` unless one says so."""
        self.directory = directory.absolute() if directory else None
        self._allowed = allowed or AllowedUrls(())

    def find(self, url: str) -> Located:
        """The archive that a registration's url means.

        Raises:
            ArchiveNotFoundError: the store has no such archive, or the url is not allowed.
            ArchiveExistsError: the url says what to download, and an archive of that name is in the store.
            DownloadError: the url is allowed, but names nothing that can be downloaded.
        """
        if self.directory is None:
            raise ArchiveNotFoundError(url, "Model store has not been configured.")
        if not url:
            raise ArchiveNotFoundError(url, "empty url")
        if ".." in url:
            raise ArchiveNotFoundError(url, f"Relative path is not allowed in url: {url}")
        if is_url(url) and self._allowed.allows(url):
            return self._remote(url, self.directory)
        is_local = not is_url(url) or url.lower().startswith("file://")
        found = self._entry(PurePosixPath(url.replace("\\", "/")).name) if is_local else None
        if found is not None:
            return Located(found)
        if is_url(url):
            raise ArchiveNotFoundError(url, self._not_allowed(url))
        raise ArchiveNotFoundError(url, f"Model not found at: {url}")

    def _remote(self, url: str, directory: Path) -> Located:
        scheme = url.partition(":")[0].lower()
        if scheme == "file" and (path := local_path(url)) is not None and path.parent == directory:
            found = self._entry(path.name)
            if found is None:
                raise ArchiveNotFoundError(url, f"Model not found at: {url}")
            return Located(found)
        if scheme not in ("file", "http", "https"):
            raise DownloadError(url, "archives are downloaded from http://, https:// and file:// URLs")
        name = file_name(url)
        if not name:
            raise DownloadError(url, "its path ends in no file's name")
        if self._entry(name) is not None:
            raise ArchiveExistsError(name)
        return Located(directory / name, url)

    def _not_allowed(self, url: str) -> str:
        sentence = f"Given URL {url} does not match any allowed URL(s)"
        if self._allowed.patterns:
            return sentence
        return (
            f"{sentence}: none is allowed here, see serving.allowed_urls (allowed_urls in config.properties)"
        )

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
