"""A worker that is not forked from the template: a new process of the interpreter of its environment.

Started as `python -P -m satrap.serving.worker.fresh FD`, FD being its socket to the frontend. Everything beyond that
is as in a forked one. What it costs: the imports that the template shares with its forks, in time and in memory.
"""

import gc
import os
import socket
import sys

from satrap.allocator import keep_freed_memory
from satrap.serving.frames import Kind, encode

__all__ = ["main"]


def main(descriptor: int) -> None:
    """Be a worker on the socket `descriptor` until the frontend closes it."""
    connection = socket.socket(fileno=descriptor)
    keep_freed_memory()
    try:
        from satrap.serving.worker import serve
    except Exception as error:  # whatever the environment's packages do to ours
        reason = (
            f"satrap does not run with the packages of its requirements file: {type(error).__name__}: {error}"
        )
        for buffer in encode(Kind.FAILED, {"reason": reason}):
            connection.sendall(buffer)
        sys.excepthook(type(error), error, error.__traceback__)
        return
    gc.collect()
    serve.run(connection)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as a forked one: nothing is finalised
