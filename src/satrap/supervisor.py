"""Keeps a set of child processes running: starts them, waits until each is ready, restarts what dies.

`Backoff` decides when a dead child is started again, from how long it lived. `Supervisor` is the shell around
it: one thread, pipes and pidfds. A child is ready when it prints its first line on standard output. Its standard
input is a pipe that nobody writes to: it closes when this process ends, however it ends, and the children stop
(`--exit-with-parent`).
"""

import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from satrap.errors import SatrapError

__all__ = ["Backoff", "Child", "ChildFailedError", "Supervisor"]

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.2


class ChildFailedError(SatrapError):
    """A child ended before it was ready; its own message is on standard error."""

    def __init__(self, name: str, returncode: int) -> None:
        """Build the sentence from the child's name and how it ended."""
        self.name, self.returncode = name, returncode
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
        super().__init__(f"{name} {how} before it was ready; its message is above")


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a restart: 0.1 s doubling to 10 s, from the start again after a minute of life."""

    failures: int = 0

    FIRST_SECONDS = 0.1
    MOST_SECONDS = 10.0
    HEALTHY_SECONDS = 60.0

    def after_death(self, lived_seconds: float) -> tuple["Backoff", float]:
        """The next state, and the seconds to wait now."""
        failures = 0 if lived_seconds >= self.HEALTHY_SECONDS else self.failures
        wait = min(self.FIRST_SECONDS * 2.0**failures, self.MOST_SECONDS)
        return Backoff(failures + 1), wait


@dataclass
class Child:
    """One supervised process. `ready_line` is the first line that it printed since it was started last.

    `command_after` makes the command of later starts from the first ready line: a child that picked a free port gets
    the same one again.
    """

    name: str
    command: Sequence[str]
    command_after: Callable[[str], Sequence[str]] | None = None
    ready_line: str | None = None
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    backoff: Backoff = field(default_factory=Backoff)


class Supervisor:
    """Runs children until `stop` is set. Not thread-safe: one thread calls `run`, others only set `stop`."""

    def __init__(self, children: Sequence[Child], stop: threading.Event) -> None:
        """Keep the children, in the order in which they start; they are stopped in reverse order."""
        self._children = list(children)
        self._stop = stop
        self._selector = selectors.DefaultSelector()

    def run(self, on_all_ready: Callable[[Sequence[str]], None], *, grace_seconds: float) -> None:
        """Start all, call `on_all_ready` with the ready lines once, supervise, and stop all at the end.

        `grace_seconds`: how long a child may take to stop before it is killed.

        Raises:
            ChildFailedError: a child ended before all were ready the first time.
        """
        announced = False
        try:
            for child in self._children:
                self._start(child)
            while not self._stop.is_set():
                for key, _ in self._selector.select(_TICK_SECONDS):
                    self._read(key.data)
                for child in self._children:
                    self._supervise(child, time.monotonic(), announced=announced)
                lines = [child.ready_line for child in self._children if child.ready_line is not None]
                if not announced and len(lines) == len(self._children):
                    announced = True
                    on_all_ready(lines)
        finally:
            self._stop_all(grace_seconds)
            self._selector.close()

    def _start(self, child: Child) -> None:
        child.ready_line = None
        child.restart_at = None
        child.started_at = time.monotonic()
        # In a process group of its own: Ctrl-C in a terminal reaches us alone, and a child is told to stop once. Told
        # twice it would end at once, without finishing what it has accepted.
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            process_group=0,
        )
        self._selector.register(_stdout(child), selectors.EVENT_READ, child)

    def _read(self, child: Child) -> None:
        line = _stdout(child).readline()
        if not line:
            self._selector.unregister(_stdout(child))
        elif child.ready_line is None:
            child.ready_line = line.rstrip("\n")
            if child.command_after is not None:
                child.command = child.command_after(child.ready_line)
        else:
            log.info("%s: %s", child.name, line.rstrip("\n"))

    def _supervise(self, child: Child, now: float, *, announced: bool) -> None:
        if child.restart_at is not None:
            if now >= child.restart_at:
                self._start(child)
            return
        assert child.process is not None
        returncode = child.process.poll()
        if returncode is None:
            return
        if not announced:
            raise ChildFailedError(child.name, returncode)
        self._forget(child)
        child.backoff, wait = child.backoff.after_death(now - child.started_at)
        child.restart_at = now + wait
        log.error("%s ended with status %d; starting it again in %.1f s", child.name, returncode, wait)

    def _forget(self, child: Child) -> None:
        """Close our ends of a dead child's pipes."""
        assert child.process is not None
        if _stdout(child) in self._selector.get_map():
            self._selector.unregister(_stdout(child))
        for pipe in (child.process.stdin, child.process.stdout):
            assert pipe is not None
            pipe.close()

    def _stop_all(self, grace_seconds: float) -> None:
        for child in reversed(self._children):
            process = child.process
            if process is None or child.restart_at is not None:
                continue
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
                try:
                    process.wait(grace_seconds)
                except subprocess.TimeoutExpired:
                    log.error("%s did not stop within %.0f s; killed", child.name, grace_seconds)
                    process.kill()
                    process.wait()
            self._forget(child)


def _stdout(child: Child) -> IO[str]:
    assert child.process is not None
    assert child.process.stdout is not None
    return child.process.stdout
