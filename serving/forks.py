"""The frontend's side of the template process: starts it, replaces it when it dies, asks it for children.

Everything here belongs to the frontend's event loop. A child's life is watched through its pidfd, so it makes no
difference whether the template that forked it still lives.
"""

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from satrap.errors import UnavailableError
from satrap.serving.template import MESSAGE_BYTES

__all__ = ["Child", "Launched", "Template", "launched_template"]

log = logging.getLogger("satrap.serving")

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy's OpenBLAS would start its threads at import
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # torch looks for GPUs without initialising CUDA
}
_ATTEMPTS = 3
_START_SECONDS = 300.0
"""A template that has not imported torch after so long never will."""
_ANSWER_SECONDS = 30.0
"""Forking takes milliseconds. A template that needs longer is stopped, or stuck, and would hold every worker up."""
_STOP_SECONDS = 5.0
_SOCKET_BUFFER = 4 * 1024**2


@dataclass
class Child:
    """A forked process. The holder owns the three descriptors: `connection`, `output` (read end), `pidfd`."""

    pid: int
    pidfd: int
    connection: socket.socket
    output: int
    ended: asyncio.Future[str]
    """How it ended, in words, as the template reports it."""

    def kill(self) -> None:
        """End it at once, if it still lives."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("process %d had ended already", self.pid)


Launched = tuple[subprocess.Popen[bytes], socket.socket]
"""A template process that may still be importing, and our end of its socket."""


@contextlib.contextmanager
def launched_template() -> Iterator[Launched]:
    """A template that imports what it needs while its frontend does so too; gone at the end, whoever has taken it over.

    Raises:
        UnavailableError: it cannot be started.
    """
    process, control = _launch()
    try:
        yield process, control
    finally:
        control.close()
        if process.poll() is None:
            process.kill()
            process.wait()


class _TemplateDiedError(Exception):
    pass


@dataclass
class _Answer:
    failed: str = ""
    pid: int = 0
    pidfd: int = -1
    ended: asyncio.Future[str] | None = None


class Template:
    """Forks children; starts the template process at `start`, and again whenever it is needed and gone."""

    def __init__(self, launched: Launched | None = None) -> None:
        """Start nothing; the first template is `launched`, if it is given."""
        self._launched = launched
        self._lock = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._answer: asyncio.Future[_Answer] | None = None
        self._asked = 0  # id of the request that `_answer` is for; 0 is the template's own start
        self._ends: dict[int, asyncio.Future[str]] = {}
        self._ids = itertools.count(1)
        self._closed = False

    async def start(self) -> None:
        """Start the process and wait until it has imported everything.

        Raises:
            UnavailableError: it cannot be used, and why.
        """
        async with self._lock:
            await self._ensure_started()

    async def fork(self, role: str, python: str = "") -> Child:
        """A new child in that role, or a worker in a new process of the interpreter `python`.

        Raises:
            UnavailableError: no process could be forked, and why.
        """
        async with self._lock:
            for _ in range(_ATTEMPTS):
                await self._ensure_started()
                try:
                    return await self._fork(role, python)
                except _TemplateDiedError:
                    log.warning(
                        "the worker template died, or said nothing for %g s, when it was asked for a process; starting "
                        "another",
                        _ANSWER_SECONDS,
                    )
            raise UnavailableError(
                f"the worker template died {_ATTEMPTS} times when it was asked for a process"
            )

    async def close(self) -> None:
        """End the template and wait until it is gone; children live on."""
        self._closed = True
        if self._process is None:
            return
        process = self._disconnect()
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("the worker template did not end within %g s and is killed", _STOP_SECONDS)
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _ensure_started(self) -> None:
        if self._closed:
            raise UnavailableError("serving is shutting down")
        if self._process is not None:
            return
        self._process, self._control = self._launched or _launch()
        self._launched = None
        loop = asyncio.get_running_loop()
        self._answer, self._asked = loop.create_future(), 0
        loop.add_reader(self._control.fileno(), self._read)
        try:
            async with asyncio.timeout(_START_SECONDS):
                answer = await self._answer
        except _TemplateDiedError:
            raise UnavailableError(
                "the worker template ended while it started; see its error above"
            ) from None
        except TimeoutError:
            self._kill()
            raise UnavailableError(
                f"the worker template did not start within {_START_SECONDS:g} s: look at what holds up its imports"
            ) from None
        except asyncio.CancelledError:
            self._kill()  # it would see the end of its socket when it has imported everything
            raise
        finally:
            self._answer = None
        if answer.failed:
            _reap(self._disconnect())
            raise UnavailableError(f"the worker template cannot be used: {answer.failed}")

    async def _fork(self, role: str, python: str) -> Child:
        assert self._control is not None
        try:
            ours, theirs, output, output_of_child = _channels()
        except OSError as error:
            raise UnavailableError(f"no process can be had: {_why(error)}") from error
        waited = self._answer = asyncio.get_running_loop().create_future()
        self._asked = next(self._ids)
        message = json.dumps({"id": self._asked, "fork": role, "python": python}).encode()
        try:
            socket.send_fds(self._control, [message], [theirs.fileno(), output_of_child])
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await waited
            if answer.failed:
                raise UnavailableError(answer.failed)
        except BaseException as error:
            ours.close()
            os.close(output)
            _close_pidfd(waited)
            if isinstance(error, OSError):  # a time limit's is one
                self._kill()
                raise _TemplateDiedError from error
            raise
        finally:
            self._answer = None
            theirs.close()
            os.close(output_of_child)
        assert answer.ended is not None
        return Child(answer.pid, answer.pidfd, ours, output, answer.ended)

    def _read(self) -> None:
        assert self._control is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._control, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            is_starting = self._answer is not None and self._asked == 0  # that fails whoever started it
            _reap(self._disconnect(), log.debug if is_starting else log.warning)
            return
        message = json.loads(data)
        if "ended" in message:
            ended = self._ends.pop(message["ended"], None)
            if ended is not None and not ended.done():
                ended.set_result(_describe_status(message["status"]))
        elif self._answer is not None and not self._answer.done() and message["id"] == self._asked:
            answer = _Answer(failed=message.get("failed", ""), pid=message.get("pid", 0))
            if answer.pid and not descriptors:  # so the kernel says that we may have no more
                lost = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                answer.failed = f"process {answer.pid} cannot be watched and is given up: {_why(lost)}"
            elif descriptors:
                # Registered here, not by whoever waits: the child's end may be the next message.
                answer.pidfd = descriptors[0]
                answer.ended = self._ends[answer.pid] = asyncio.get_running_loop().create_future()
            self._answer.set_result(answer)
        else:  # whoever asked was cancelled; without a peer the child ends by end-of-file
            for descriptor in descriptors:
                os.close(descriptor)

    def _kill(self) -> None:
        """End a template that cannot be talked to, whatever state it is in, unless its end was seen in time."""
        if self._process is None:
            return
        process = self._disconnect()
        _reap(process)
        process.kill()

    def _disconnect(self) -> subprocess.Popen[bytes]:
        """Forget the template, which ends by it; the caller collects its exit status."""
        assert self._control is not None and self._process is not None
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        process, self._process = self._process, None
        for ended in self._ends.values():
            if not ended.done():
                ended.set_result("ended; the template that could tell how is gone")
        self._ends.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_TemplateDiedError())
            self._answer.exception()  # whoever waits may be cancelled before it wakes: asyncio would log it
        return process


def _launch() -> Launched:
    try:
        return _exec_template()
    except OSError as error:
        raise UnavailableError(f"the worker template cannot be started: {_why(error)}") from error


def _exec_template() -> Launched:
    """A template process, and our end of its socket.

    Raises:
        OSError: it cannot be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.enter_context(ours)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "satrap.serving.template", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output carries the ready line and nothing else
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        ours.setblocking(False)
        undo.pop_all()
    return process, ours


def _channels() -> tuple[socket.socket, socket.socket, int, int]:
    """A socket pair, and a pipe with its read end first.

    Raises:
        OSError: they cannot be had.
    """
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            undo.enter_context(end)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        output, output_of_child = os.pipe()
        undo.pop_all()
    return ours, theirs, output, output_of_child


def _close_pidfd(waited: asyncio.Future[_Answer]) -> None:
    """An answer that came too late for whoever asked; without a peer the child ends by end-of-file."""
    if waited.done() and not waited.cancelled() and waited.exception() is None and waited.result().pidfd >= 0:
        os.close(waited.result().pidfd)


def _why(error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return f"{error.strerror} in the serving process: let it have more (ulimit -n)"
    return str(error)


def _reap(process: subprocess.Popen[bytes], say: Callable[..., None] = log.debug) -> None:
    """Collect the template's exit status as soon as there is one, and say it; without waiting for it here."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(process.pid)

    def collect() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        status = process.wait()
        ending = _signalled(-status) if status < 0 else f"exited with status {status}"
        say("the worker template %s; another is started when a process is needed", ending)

    loop.add_reader(pidfd, collect)


def _describe_status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return _signalled(os.WTERMSIG(status))
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def _signalled(number: int) -> str:
    return f"was killed by signal {number} ({signal.strsignal(number)})"
