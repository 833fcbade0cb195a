"""From a registration's url to an unpacked archive: looked up in the model store, or downloaded into it first."""

import asyncio
import dataclasses
from pathlib import Path

from satrap.config.global_config import ServingConfig
from satrap.serving.archive.downloading import Downloader
from satrap.serving.archive.partial import remove_abandoned
from satrap.serving.archive.store import ModelStore
from satrap.serving.archive.unpack import Limits
from satrap.serving.archive.unpacking import Unpacked, Unpacker
from satrap.serving.archive.urls import AllowedUrls
from satrap.serving.forks import Template

__all__ = ["Archives"]


class Archives:
    """The archives of one server. `open` it first."""

    def __init__(self, template: Template, model_store: Path | None, config: ServingConfig) -> None:
        """Make nothing.

        Raises:
            ConfigError: one of `allowed_urls` is no regular expression.
        """
        allowed = AllowedUrls(config.allowed_urls)
        self.store = ModelStore(model_store, allowed)
        self._downloader = Downloader(template, allowed, config.max_archive_bytes)
        self._unpacker = Unpacker(template, Limits(config.max_archive_bytes, config.max_archive_files))

    async def open(self) -> None:
        """Make the working directory, and remove what is left in the store of downloads that were killed."""
        await self._unpacker.open()
        if self.store.directory is not None:
            await asyncio.to_thread(remove_abandoned, self.store.directory)

    async def obtain(self, url: str) -> Unpacked:
        """Unpack what the url means, after downloading it if that is what it says; on failure nothing of it is left.

        Raises:
            ArchiveNotFoundError, ArchiveExistsError: as `ModelStore.find`.
            DownloadError: it cannot be downloaded.
            ArchiveError: the archive is refused, and why.
            UnavailableError: no process could be had.
        """
        located = await asyncio.to_thread(self.store.find, url)
        if not located.url:
            return await self._unpacker.unpack(located.path)
        await self._downloader.download(located.url, located.path)
        try:
            unpacked = await self._unpacker.unpack(located.path)
        except BaseException:
            await _delete(located.path)
            raise
        return dataclasses.replace(unpacked, downloaded=located.path)

    async def discard(self, directory: Path, downloaded: Path | None) -> None:
        """Remove what `obtain` made, when the workers are gone: the directory, and a file that was downloaded."""
        await self._unpacker.remove(directory)
        if downloaded is not None:
            await _delete(downloaded)

    async def close(self) -> None:
        """Remove everything but the files that were downloaded: a snapshot may name them."""
        await self._unpacker.close()


async def _delete(file: Path) -> None:
    await asyncio.to_thread(file.unlink, missing_ok=True)
