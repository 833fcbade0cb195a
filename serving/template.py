"""The warm process that workers are forked from: it has imported what they need, and done nothing with it.

Started by exec, never forked from the frontend, as `python -P -m satrap.serving.template FD`. It imports numpy,
grpc and torch once; runs no op, opens no channel, starts no thread and makes no CUDA call, because a child of a
process that did may hang at its first op. It proves that it has one task, freezes what it has allocated so that
children share the pages, and then does three things only: fork a child when asked, send back its pid with a
pidfd, and reap it and say how it ended.

Messages on FD (a SOCK_SEQPACKET socket) are one JSON object each:

    template  {"id": 0}                            once, when it is ready
              {"id": 0, "failed": sentence}        instead; the template then ends
    frontend  {"id": id, "fork": role}             with the child's socket and the file that becomes its output;
                                                   with "python": path the child then runs a worker in that interpreter
    template  {"id": id, "pid": pid}               with a pidfd, opened before the child can have been reaped
              {"id": id, "failed": sentence}       instead, when the fork failed
              {"ended": pid, "status": status}     some time later; the status is waitpid's

End-of-file on FD ends the template. Its children do not notice: each has a socket of its own to the frontend.
"""

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from satrap.allocator import keep_freed_memory

__all__ = ["MESSAGE_BYTES", "main"]

MESSAGE_BYTES = 4096
"""More than any message between the frontend and the template has."""

_PRELOADED = (
    "numpy",
    "grpc",
    "satrap.serving.worker.serve",
    "satrap.serving.archive.download",
    "satrap.serving.archive.unpack",
    "satrap.serving.environment.build",
    "satrap.middleware",
)


def _preload() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    # Without torch (it is an extra) handlers that need none are still served.
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")


def _roles() -> dict[str, Callable[[socket.socket], None]]:
    from satrap.serving.archive import download, unpack
    from satrap.serving.environment import build
    from satrap.serving.worker import serve

    return {"worker": serve.run, "unpack": unpack.run, "download": download.run, "environment": build.run}


def _check_single_task() -> None:
    tasks = len(list(Path("/proc/self/task").iterdir()))
    if tasks != 1:
        raise RuntimeError(
            f"the worker template has {tasks} threads after its imports, and forking such a process is not safe: "
            "find what starts a thread when numpy, grpc or torch is imported (a preloaded library, a .pth file)"
        )


def main(descriptor: int) -> None:
    """Serve fork requests on the socket `descriptor` until the frontend closes it."""
    control = socket.socket(fileno=descriptor)
    # The frontend decides when this process ends, by closing the socket; a signal to the group must not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.disable()
    keep_freed_memory()  # a forked worker inherits it
    try:
        _preload()
        _check_single_task()
    except (ImportError, RuntimeError) as error:
        _send(control, {"id": 0, "failed": f"{type(error).__name__}: {error}"})
        return
    gc.collect()
    gc.freeze()
    gc.enable()
    _send(control, {"id": 0})
    _serve(control)


def _serve(control: socket.socket) -> None:
    roles = _roles()
    children: dict[int, int] = {}  # pidfd -> pid
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while True:
        for ready, _ in poller.poll():
            if ready != control.fileno():
                poller.unregister(ready)
                pid = children.pop(ready)
                os.close(ready)
                _, status = os.waitpid(pid, 0)
                _send(control, {"ended": pid, "status": status})
                continue
            try:
                message, descriptors, _, _ = socket.recv_fds(
                    control, MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                return  # the frontend was killed before it read our last message
            if not message:
                return
            request = json.loads(message)
            role = _fresh_worker(request["python"]) if request.get("python") else roles[request["fork"]]
            pidfd = _fork(control, request["id"], role, descriptors, children)
            if pidfd is not None:
                poller.register(pidfd, select.POLLIN)


def _fork(
    control: socket.socket,
    request_id: int,
    role: Callable[[socket.socket], None],
    descriptors: list[int],
    children: dict[int, int],
) -> int | None:
    connection, output = descriptors
    try:
        pid = os.fork()
    except OSError as error:
        _send(control, {"id": request_id, "failed": f"cannot fork a worker: {error}"})
        return None
    if pid == 0:
        # What is the template's must not live on in the child, or its end would go unnoticed.
        for inherited in children:
            os.close(inherited)
        control.close()
        _become_child(role, connection, output)
    for descriptor in descriptors:
        os.close(descriptor)
    pidfd = os.pidfd_open(pid)
    children[pidfd] = pid
    _send(control, {"id": request_id, "pid": pid}, [pidfd])
    return pidfd


def _fresh_worker(python: str) -> Callable[[socket.socket], None]:
    """A worker in a new process of that interpreter, which has none of the template's modules."""

    def execute(connection: socket.socket) -> None:
        connection.set_inheritable(True)
        os.execv(python, [python, "-P", "-m", "satrap.serving.worker.fresh", str(connection.fileno())])  # noqa: S606

    return execute


def _become_child(role: Callable[[socket.socket], None], connection: int, output: int) -> NoReturn:
    """Run the child to its end; never returns, so that the template's loop runs in one process only."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        role(socket.socket(fileno=connection))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # the frontend that read them may be gone
            os._exit(status)


def _send(control: socket.socket, message: dict[str, object], descriptors: list[int] | None = None) -> None:
    try:
        socket.send_fds(control, [json.dumps(message).encode()], descriptors or [])
    except BrokenPipeError:
        sys.exit(0)  # the frontend is gone


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # torch takes a second to be finalised, and the frontend waits for this process
