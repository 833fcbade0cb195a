"""One question to a child process of its own: forked from the template, asked once, gone when it has answered.

What reads untrusted bytes or waits for strangers (unpacking, downloading, installing) is done so, never in the
frontend.
"""

import asyncio
import os

from satrap.serving.forks import Template
from satrap.serving.frames import Frame, FrameError, FrameParser, Kind, encode
from satrap.serving.output import OutputLog

__all__ = ["ErrandError", "run_errand"]

_CHUNK = 64 * 1024


class ErrandError(Exception):
    """The child ended, or spoke nonsense, before it answered; how, in words that follow "its process"."""


async def run_errand(
    template: Template, role: str, kind: Kind, head: dict[str, object], name: str, *, is_killed: bool = True
) -> Frame:
    """Ask a child in that role, and return its answer; `name` stands before what it prints.

    If the caller is cancelled the child is killed; one with processes of its own ends by itself when its connection is
    closed, and is not (`is_killed`).

    Raises:
        ErrandError: there is no answer.
        UnavailableError: no process could be had.
    """
    child = await template.fork(role)
    OutputLog(child.output, name)
    reader, writer = await asyncio.open_unix_connection(sock=child.connection)
    parser = FrameParser()
    try:
        writer.writelines(encode(kind, head))
        while data := await reader.read(_CHUNK):
            if frames := parser.feed(data):
                return frames[0]
        raise ErrandError(await child.ended)
    except (FrameError, ConnectionError) as error:
        raise ErrandError(f"failed: {error}") from error
    finally:
        writer.close()
        if is_killed:
            child.kill()  # it has answered, or nobody waits for it any more
        os.close(child.pidfd)
