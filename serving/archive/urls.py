"""Which URLs archives may be downloaded from: TorchServe's `allowed_urls`, and none by default.

A pattern is a regular expression that the whole URL must match, letters of either case alike. What a pattern says
is not all: a URL with a user's name in it looks like another host than it is, one with white space or a backslash is
read differently by different readers, and `..` leads out of the folder that a pattern names, encoded (`%2e%2e`) too;
such are refused whatever matches.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from satrap.errors import ConfigError

__all__ = ["AllowedUrls", "file_name", "is_url", "local_path"]

_DOUBTFUL = re.compile(r"[\x00-\x20\x7f-\x9f\\]|[^\x00-\x7f]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class AllowedUrls:
    """A list of patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile them.

        Raises:
            ConfigError: one is no regular expression.
        """
        self.patterns = tuple(patterns)
        self._compiled: list[re.Pattern[str]] = []
        for pattern in patterns:
            try:
                self._compiled.append(re.compile(pattern, re.IGNORECASE))
            except re.error as error:
                reason = f"{pattern!r} is not a regular expression: {error}"
                raise ConfigError("the configuration", "serving.allowed_urls", 0, reason) from None

    def allows(self, url: str) -> bool:
        """Whether that URL may be read."""
        if _DOUBTFUL.search(url) or ".." in unquote(unquote(url)):
            return False
        try:
            parts = urlsplit(url)
            if "@" in parts.netloc or parts.port == 0:
                return False
        except ValueError:
            return False
        if parts.scheme.lower() in ("http", "https") and not parts.hostname:
            return False
        return any(pattern.fullmatch(url) for pattern in self._compiled)


def is_url(url: str) -> bool:
    """Whether it names a scheme; otherwise it is a file's name or path."""
    return bool(_URL.match(url))


def file_name(url: str) -> str:
    """The last part of a URL's path; empty when there is none, or it would be hidden in a folder."""
    name = PurePosixPath(urlsplit(url).path).name
    return "" if name.startswith(".") or len(name.encode()) > 200 else name


def local_path(url: str) -> Path | None:
    """The file that a `file://` URL names; None when it is on another host, or is not to be trusted."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (
        parts.netloc.lower() not in ("", "localhost")
        or ".." in path
        or "\0" in path
        or not path.startswith("/")
    ):
        return None
    return Path(path)
