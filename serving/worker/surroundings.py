"""Turns a fresh child of the template into a worker's process: signals, logging, randomness, threads, paths.

Everything here changes the process as a whole and runs once, before the handler's first line.
"""

import logging
import os
import random
import select
import signal
import site
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from types import FrameType

import numpy as np

import satrap
from satrap.serving.worker.assignment import Assignment

__all__ = ["LevelFormatter", "prepare"]

_LAST_GRACE_SECONDS = 5.0
"""A worker whose frontend is gone may finish what it does for so long."""


class LevelFormatter(logging.Formatter):
    """Puts mark and level before every line: the frontend logs it at that level; see `satrap.serving.output`."""

    def __init__(self, text: str, mark: str) -> None:
        """`text` is the format of a record."""
        super().__init__(text)
        self._mark = mark

    def format(self, record: logging.LogRecord) -> str:
        """One `mark<level>` per line of the record."""
        start = f"{self._mark}<{record.levelno}>"
        return "\n".join(f"{start}{line}" for line in super().format(record).splitlines())


def prepare(assignment: Assignment, connection: socket.socket) -> None:
    """Make this process the worker for that assignment; `connection` is its lifeline to the frontend."""
    _set_signals()
    _set_logging(assignment.output_mark)
    os.environ.update(assignment.environment)
    os.environ["OMP_NUM_THREADS"] = str(assignment.threads)
    _reseed()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(assignment.threads)
    _set_paths(Path(assignment.directory), assignment.packages, ours_first=assignment.ours_first)
    threading.Thread(target=_end_with_frontend, args=[connection], name="lifeline", daemon=True).start()


def _ignore(number: int, frame: FrameType | None) -> None:
    """The frontend decides when a worker ends; a function, since SIG_IGN would pass to the handler's children."""


def _set_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)
    for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)


def _set_logging(mark: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LevelFormatter("%(name)s: %(message)s", mark))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # A warning is logged once for each place, whatever PYTHONWARNINGS or -W say: it never becomes an exception.
    warnings.resetwarnings()
    warnings.simplefilter("default")
    logging.captureWarnings(True)
    # What the configuration's files have wrong the frontend has said already, once for all workers.
    logging.getLogger("satrap.config").setLevel(logging.ERROR)


def _reseed() -> None:
    """Without this every worker would draw the same numbers: they all begin as copies of the template."""
    random.seed()
    np.random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _set_paths(directory: Path, packages: str, *, ours_first: bool) -> None:
    shims = str(Path(satrap.__file__).parent / "compat" / "shims")
    os.chdir(directory)
    # An empty entry means the working directory: with it the repository's own folders could be imported bare.
    installed = [entry for entry in sys.path if entry]
    if packages:
        installed = _with_packages(packages, installed)
    sys.path[:] = [str(directory), shims, *installed] if ours_first else [str(directory), *installed, shims]


def _with_packages(packages: str, installed: list[str]) -> list[str]:
    """The environment's packages first, and what their .pth files add, which a fresh process has run at its start."""
    if packages not in installed:
        site.addsitedir(packages)
    added = [entry for entry in sys.path if entry and entry not in installed and entry != packages]
    return [packages, *added, *(entry for entry in installed if entry != packages)]


def _end_with_frontend(connection: socket.socket) -> None:
    """End the process when the frontend is gone, even while the handler never returns."""
    poller = select.poll()
    poller.register(connection, select.POLLRDHUP)
    poller.poll()
    time.sleep(_LAST_GRACE_SECONDS)
    os._exit(1)
