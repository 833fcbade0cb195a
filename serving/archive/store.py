"""The model store: the one directory that archives are taken from, and what a `url` means in it.

As in TorchServe the base name of a url is looked up in the store, whatever directory the url names; unlike
TorchServe that holds for directories too, so nothing is ever served from outside.
"""

from pathlib import Path, PurePosixPath

from satrap.errors import ArchiveNotFoundError, ConfigError
from satrap.serving.archive.manifest import MANIFEST_NAME

__all__ = ["ModelStore", "startup_archives"]

_ARCHIVE_SUFFIXES = (".mar", ".tar.gz", ".tgz")


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
        name = PurePosixPath(url.replace("\\", "/")).name
        if not name or "\0" in name or not (self.directory / name).exists():
            raise ArchiveNotFoundError(url, f"Model not found at: {url}")
        return self.directory / name

    def all(self) -> list[str]:
        """The names of all archives in the store, sorted."""
        if self.directory is None:
            return []
        return sorted(
            entry.name
            for entry in self.directory.iterdir()
            if entry.name.endswith(_ARCHIVE_SUFFIXES) or (entry / MANIFEST_NAME).is_file()
        )


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
