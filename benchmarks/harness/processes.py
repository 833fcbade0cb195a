"""Child processes: each in a process group of its own, its output in a log file, stopped whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

__all__ = ["ChildFailedError", "Process", "cpu_seconds", "free_ports"]

_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02


class ChildFailedError(Exception):
    """A child ended early or did not become ready in time; the text ends with the tail of its log."""


class Process:
    """A child and everything it starts. A context manager: leaving it stops them all.

    The children are in a group of their own, so a Ctrl-C in the terminal reaches only the benchmark,
    which then stops them in order. Standard input is a pipe that nobody writes to, so that a child with
    `--exit-with-parent` ends even if this process is killed.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        """Only remembers; `__enter__` starts. `environ` is added to the environment of this process."""
        self.name, self._command, self._log = name, [str(part) for part in command], log
        self._environ = {**os.environ, **(environ or {})}

    def __enter__(self) -> Self:
        """Start the child."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as output:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=self._log.parent,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """SIGTERM to the child, SIGKILL to whatever of its group is left after 20 s or after its end."""
        self._child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        assert self._child.stdin is not None
        self._child.stdin.close()

    @property
    def pid(self) -> int:
        """Of the child itself."""
        return self._child.pid

    def check_alive(self) -> None:
        """Raise `ChildFailedError` if the child has ended."""
        if self._child.poll() is not None:
            raise ChildFailedError(self._sentence(f"ended with status {self._child.returncode}"))

    def wait_for_line(self, containing: str, seconds: float) -> str:
        """The first line of the log that contains the text; raises `ChildFailedError` after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self._log.read_text(errors="replace").splitlines(keepends=True):
                if containing in line and line.endswith("\n"):
                    return line.rstrip("\n")
            self.check_alive()
            time.sleep(_POLL_SECONDS)
        raise ChildFailedError(self._sentence(f"did not say {containing!r} within {seconds:.0f} s"))

    def _sentence(self, what: str) -> str:
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])
        return f"{self.name} {what}; the end of {self._log}:\n{tail}"


def cpu_seconds(processes: Sequence[Process]) -> float:
    """User and system time so far of the processes and their living descendants."""
    total = 0.0
    for process in processes:
        root = psutil.Process(process.pid)
        for member in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system
    return total


def free_ports(count: int) -> list[int]:
    """Loopback ports that the kernel says are free now, for servers that cannot pick their own."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
