"""A child's standard output and error, line by line into the server's log with its name before each line."""

import asyncio
import logging
import os
import re

__all__ = ["OutputLog"]

log = logging.getLogger("satrap.serving.worker")

_LEVEL = re.compile(rb"<(\d\d)>")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Handlers print what clients send them. Whoever reads the log in a terminal sees it, and is not steered by it."""
_CHUNK = 64 * 1024


class OutputLog:
    """Reads a pipe to its end. A line `mark<level>text` is logged at that level, any other as information.

    Nobody but the process that writes knows its mark: what a client sent and a handler printed chooses no level.

    Control characters are logged escaped, as Python writes them.

    Belongs to the event loop that it was made in; owns the descriptor and closes it at the end.
    """

    def __init__(self, descriptor: int, name: str, mark: str = "") -> None:
        """Start to read; `name` says whose output it is. Without a mark no line has a level."""
        self._descriptor, self._name, self._mark = descriptor, name, mark.encode()
        self._line = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > _CHUNK or not data:
            lines.append(self._line)
            self._line = b""
        for line in filter(None, lines):
            self._log(line)
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _log(self, line: bytes) -> None:
        level = logging.INFO
        if self._mark and line.startswith(self._mark) and (match := _LEVEL.match(line, len(self._mark))):
            level, line = int(match[1]), line[match.end() :]
        log.log(level, "[%s] %s", self._name, _CONTROL.sub(_escaped, line.decode("utf-8", "replace")))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
