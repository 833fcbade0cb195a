"""The frontend's side of downloads: a child process that fetches one archive into the model store."""

import asyncio
import logging
from pathlib import Path

from satrap.errors import ArchiveExistsError, DownloadError
from satrap.serving.archive.partial import partial_path
from satrap.serving.archive.urls import AllowedUrls
from satrap.serving.errand import ErrandError, run_errand
from satrap.serving.forks import Template
from satrap.serving.frames import Kind

__all__ = ["Downloader"]

log = logging.getLogger("satrap.serving")


class Downloader:
    """Fetches archives from the URLs that are allowed."""

    def __init__(self, template: Template, allowed: AllowedUrls, max_bytes: int) -> None:
        """Start nothing."""
        self._template, self._allowed, self._max_bytes = template, allowed, max_bytes

    async def download(self, url: str, target: Path) -> None:
        """Fetch the archive at an allowed URL into the file `target`, which must not exist; on failure nothing stays.

        Raises:
            DownloadError: it cannot be had, and why.
            ArchiveExistsError: there is something of the target's name by now.
            UnavailableError: no process could be had.
        """
        partial = partial_path(target)
        head: dict[str, object] = {
            "url": url,
            "allowed": list(self._allowed.patterns),
            "max_bytes": self._max_bytes,
            "partial": str(partial),
            "target": str(target),
        }
        log.info("downloading %s", url)
        try:
            answer = await run_errand(
                self._template, "download", Kind.DOWNLOAD, head, f"downloading {target.name}"
            )
        except ErrandError as error:
            raise DownloadError(url, f"its downloading process {error}") from error
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)
        if "exists" in answer.head:
            raise ArchiveExistsError(target.name)
        if "reason" in answer.head:
            raise DownloadError(url, str(answer.head["reason"]))
        log.info("downloaded %s: %d bytes", target, answer.head["bytes"])
