"""Downloads one archive in a process of its own: nothing that a stranger's server sends reaches the frontend.

The bytes go into a hidden file beside the target, which takes the target's name when it is whole; a name that is
taken meanwhile is not overwritten. Every redirect must be allowed like the first URL. The hidden file is removed when
the download fails.
"""

import os
import select
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO
from urllib.parse import urlsplit

from satrap.serving.archive.partial import create_partial
from satrap.serving.archive.urls import AllowedUrls, local_path
from satrap.serving.frames import Kind, encode, receive_head

__all__ = ["DownloadFailure", "Source", "download", "run"]

_CHUNK = 1024**2
_MAX_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
"""A server that sends nothing for so long has given up."""
_TOTAL_SECONDS = 3600.0
"""No registration waits longer for a server that sends little at a time, of its headers or of the archive."""


class DownloadFailure(Exception):  # noqa: N818 (it says why, and becomes a DownloadError in the frontend)
    """The archive cannot be had, and why."""


@dataclass(frozen=True)
class Source:
    """What to download, and what is allowed."""

    url: str
    allowed: AllowedUrls
    max_bytes: int


def run(connection: socket.socket) -> None:
    """Serve one `DOWNLOAD` on that connection (the role "download" of `satrap.serving.template`)."""
    received = receive_head(connection)
    if received is None:
        return
    head = received[1]
    source = Source(head["url"], AllowedUrls(head["allowed"]), head["max_bytes"])
    partial = Path(head["partial"])
    answer: dict[str, object]
    try:
        with _interrupted(connection, _TOTAL_SECONDS) as interruption:
            answer = {"bytes": download(source, partial, Path(head["target"]), interruption)}
    except DownloadFailure as error:
        answer = {"reason": str(error)}
    except FileExistsError:
        answer = {"exists": True}
    except OSError as error:
        answer = {"reason": f"it cannot be stored: {error}"}
    partial.unlink(missing_ok=True)  # the frontend would, if it is still there
    with suppress(ConnectionError):  # nobody waits for it any more
        for buffer in encode(Kind.DOWNLOADED, answer):
            connection.sendall(buffer)


@contextmanager
def _interrupted(connection: socket.socket, seconds: float) -> Iterator[Callable[[], str]]:
    """Fail in `seconds`, or when the frontend is gone, whatever the block waits for; give what says why, or nothing.

    For the main thread of a process that sets no alarm else.
    """
    reason, is_over, lock = "", False, threading.Lock()

    def fail(number: int, frame: FrameType | None) -> None:
        raise DownloadFailure(reason or f"it takes longer than {seconds:g} s")

    def watch() -> None:
        nonlocal reason
        poller = select.poll()
        poller.register(connection, select.POLLRDHUP)
        poller.poll()
        with lock:
            if not is_over:
                reason = "nobody waits for it any more"
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    try:
        yield lambda: reason
    finally:
        with lock:
            is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def download(source: Source, partial: Path, target: Path, interruption: Callable[[], str]) -> int:
    """Fetch the archive to `target`, by way of `partial`, which must not exist; return its size in bytes.

    `interruption` is asked now and then, and says why to stop, or nothing.

    Raises:
        DownloadFailure: it cannot be had.
        FileExistsError: there is something of the target's name.
        OSError: it cannot be written.
    """
    with create_partial(partial) as file:
        if urlsplit(source.url).scheme.lower() == "file":
            size = _copy(source, file, interruption)
        else:
            size = _fetch(source, file, interruption)
    _name(partial, target)
    return size


def _name(partial: Path, target: Path) -> None:
    """Give the file its name, unless that is taken."""
    try:
        target.hardlink_to(partial)
        partial.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.open("xb").close()
        partial.replace(target)


def _copy(source: Source, file: BinaryIO, interruption: Callable[[], str]) -> int:
    path = local_path(source.url)
    if path is None:
        raise DownloadFailure("a file:// URL names a file of this host by its absolute path")
    try:
        # A named pipe must not hold this process until somebody writes to it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as original:  # noqa: PTH123 (a descriptor)
            if not stat.S_ISREG(os.fstat(original.fileno()).st_mode):
                raise DownloadFailure(f"{path} is not a file")
            return _write(iter(lambda: original.read(_CHUNK), b""), file, source.max_bytes, interruption)
    except OSError as error:
        raise DownloadFailure(f"{path} cannot be read: {error.strerror}") from error


def _fetch(source: Source, file: BinaryIO, interruption: Callable[[], str]) -> int:
    import httpx  # here, so that no worker carries it

    timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
    headers = {"Accept-Encoding": "identity", "User-Agent": "satrap"}
    url = source.url
    try:
        with httpx.Client(timeout=timeout, headers=headers) as client:
            for _ in range(1 + _MAX_REDIRECTS):
                with client.stream("GET", url) as response:
                    if response.next_request is not None:
                        url = _checked(str(response.next_request.url), source)
                        continue
                    _check(response.status_code, response.reason_phrase, response.headers, source)
                    return _write(response.iter_raw(), file, source.max_bytes, interruption)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadFailure(
            f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        ) from error
    raise DownloadFailure(f"it is redirected more than {_MAX_REDIRECTS} times")


def _checked(url: str, source: Source) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not source.allowed.allows(url):
        raise DownloadFailure(f"it is redirected to {url}, which does not match any allowed URL(s)")
    return url


def _check(status: int, phrase: str, headers: Mapping[str, str], source: Source) -> None:
    if status != 200:
        raise DownloadFailure(f"the server answered {status} {phrase}".rstrip())
    if headers.get("content-encoding", "identity") != "identity":
        raise DownloadFailure(f"the server sent it in the encoding {headers['content-encoding']}")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > source.max_bytes:
        raise DownloadFailure(_too_large(source.max_bytes))


def _write(chunks: Iterable[bytes], file: BinaryIO, max_bytes: int, interruption: Callable[[], str]) -> int:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise DownloadFailure(_too_large(max_bytes))
        if reason := interruption():
            raise DownloadFailure(reason)
        file.write(chunk)
    return size


def _too_large(max_bytes: int) -> str:
    return f"it is larger than {max_bytes} bytes (max_archive_bytes)"
