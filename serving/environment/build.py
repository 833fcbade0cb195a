"""Builds one environment in a process of its own, a fork of the template, so that pip never runs in the frontend.

The directory is named by its key and complete when its marker is there; a lock beside it lets one process build it
while others wait. What pip wrote is kept beside it as well.

    KEY/            the virtual environment, with `satrap-complete` written last
    KEY.lock        locked while somebody builds
    KEY.log         what the installer wrote when it was built, or failed to be

The environment sees the server's packages through a .pth file, so pip installs only what they do not satisfy.
"""

import fcntl
import importlib.util
import os
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from satrap.serving.environment.inclusions import refused_inclusion
from satrap.serving.environment.key import environment_key
from satrap.serving.environment.replaced import distributions, replaced
from satrap.serving.environment.value import Environment
from satrap.serving.frames import Kind, encode, receive_head

__all__ = ["BuildError", "HungUpError", "build", "run"]

_MARKER = "satrap-complete"
_PTH = "satrap_server_packages.pth"
_LOCK_POLL_SECONDS = 0.1
_LOG_CHARACTERS = 1500
"""So much of the installer's last words fits into an error; gRPC allows 8 KB of details, percent-encoded."""


class BuildError(Exception):
    """The environment cannot be had; `log` is the end of what the installer wrote."""

    def __init__(self, reason: str, log: str = "") -> None:
        """Build the sentence."""
        super().__init__(reason)
        self.log = log


class HungUpError(Exception):
    """The frontend is gone, or does not want the environment any more."""


def run(connection: socket.socket) -> None:
    """Serve one `INSTALL` on that connection (the role "environment" of `satrap.serving.template`)."""
    received = receive_head(connection)
    if received is None:
        return
    head = received[1]
    try:
        environment = build(
            Path(head["requirements"]),
            Path(head["directory"]),
            Path(head["cache"]),
            head["timeout"],
            connection,
        )
        answer: dict[str, object] = {
            "directory": str(environment.directory),
            "packages": str(environment.packages),
            "python": str(environment.python),
            "replaced": list(environment.replaced),
        }
    except BuildError as error:
        answer = {"reason": str(error), "log": error.log}
    except OSError as error:
        answer = {"reason": f"the environment cannot be made: {error}", "log": ""}
    except HungUpError:
        return
    for buffer in encode(Kind.INSTALLED, answer):
        connection.sendall(buffer)


def build(
    requirements: Path, directory: Path, cache: Path, timeout: float, connection: socket.socket
) -> Environment:
    """The environment for that requirements file of the archive unpacked in `directory`; built if it is not there.

    When the peer of `connection` closes, the installer is killed. `timeout` is seconds for the installer.

    Raises:
        BuildError: the file includes one that is not the archive's; pip failed, took too long, or brought another
            satrap; others may write into the cache.
        HungUpError: the peer closed.
        OSError: the cache cannot be written.
    """
    if not (requirements.is_file() and requirements.resolve().is_relative_to(directory.resolve())):
        raise BuildError(f"there is no file {requirements.name!r} in the archive, which its manifest names")
    if reason := refused_inclusion(requirements, directory):
        raise BuildError(reason)
    server_packages = _server_packages()
    key = environment_key(requirements, directory, server_packages)
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_owner(cache)
    target = cache / key
    with (cache / f"{key}.lock").open("a") as lock:
        _acquire(lock.fileno(), connection)
        if not (target / _MARKER).exists():
            shutil.rmtree(target, ignore_errors=True)  # what a killed builder left
            try:
                _install(requirements, directory, target, server_packages, timeout, lock.fileno(), connection)
                (target / _MARKER).touch()
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
    packages = _packages_of(target)
    return Environment(target, packages, _python_of(target), tuple(replaced(packages, sys.modules)))


def _install(
    requirements: Path,
    directory: Path,
    target: Path,
    server_packages: Sequence[Path],
    timeout: float,
    lock: int,
    connection: socket.socket,
) -> None:
    venv.create(target, symlinks=True)
    (_packages_of(target) / _PTH).write_text(_pth(server_packages))
    python = _python_of(target)
    deadline = time.monotonic() + timeout
    commands = []
    if importlib.util.find_spec("pip") is None:
        commands.append([str(python), "-P", "-m", "ensurepip"])
        pip = [str(python), "-P", "-m", "pip"]
    else:
        pip = [sys.executable, "-P", "-m", "pip", "--python", str(python)]
    quiet = ["--no-input", "--disable-pip-version-check", "--no-color"]
    commands.append([*pip, *quiet, "install", "--progress-bar", "off", "-r", str(requirements)])
    log = target.with_suffix(".log")
    # pip that is killed leaves what it has unpacked.
    temporary = tempfile.TemporaryDirectory(prefix="satrap-install-", ignore_cleanup_errors=True)
    with log.open("wb") as output, temporary as of_pip:
        for command in commands:
            _run(command, directory, of_pip, output.fileno(), deadline, lock, connection, log)
    if linked := _linked_to(directory, _packages_of(target)):
        raise BuildError(
            f"its requirements file leaves {linked} linked to the archive's own directory, which goes with the "
            "version: install it without -e"
        )
    if "satrap" in distributions(_packages_of(target)):
        raise BuildError("its requirements file brings another satrap than the one that serves: leave it out")


def _check_owner(cache: Path) -> None:
    """Workers run what lies there, so nobody else may write it."""
    state = cache.stat()
    if state.st_uid not in (os.getuid(), 0) or state.st_mode & 0o022:
        raise BuildError(
            f"others may write into {cache}: take that right from them (chmod go-w), or name another directory "
            "(serving.environments_directory)"
        )


def _linked_to(directory: Path, packages: Path) -> str:
    """The first file beside the packages that leads into `directory`, as editable installations have them."""
    for file in sorted(packages.iterdir()):
        if file.suffix in (".pth", ".egg-link", ".py") and str(directory) in file.read_text(errors="replace"):
            return file.name
    return ""


def _run(
    command: Sequence[str],
    directory: Path,
    temporary: str,
    output: int,
    deadline: float,
    lock: int,
    connection: socket.socket,
    log: Path,
) -> None:
    process = subprocess.Popen(
        command,
        cwd=directory,  # relative paths in the file are the archive's
        env={**os.environ, "TMPDIR": temporary},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
        pass_fds=[lock],  # should we be killed, nobody builds here while the installer still writes
    )
    pidfd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(connection, select.POLLRDHUP)
        ready = {descriptor for descriptor, _ in poller.poll(max(0.0, deadline - time.monotonic()) * 1000)}
    finally:
        os.close(pidfd)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    if connection.fileno() in ready:
        raise HungUpError
    if not ready:
        raise BuildError(
            f"the installer was not ready in time (serving.install_timeout_seconds); log: {log}", _end_of(log)
        )
    if status != 0:
        raise BuildError(f"the installer exited with status {status}; log: {log}", _end_of(log))


def _acquire(lock: int, connection: socket.socket) -> None:
    """Take the lock, however long somebody else builds; give up when nobody waits for us any more."""
    poller = select.poll()
    poller.register(connection, select.POLLRDHUP)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if poller.poll(_LOCK_POLL_SECONDS * 1000):
                raise HungUpError from None
        else:
            return


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:].strip()


def _server_packages() -> list[Path]:
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [path for path in map(Path, folders) if path.is_dir()]


def _pth(server_packages: Sequence[Path]) -> str:
    """Lines that let the environment see the server's packages, their own .pth files included.

    A forked worker sees them already, and must not run their .pth files again.
    """
    folders = [str(path) for path in server_packages]
    return "".join(f"import site, sys; {p!r} in sys.path or site.addsitedir({p!r})\n" for p in folders)


def _packages_of(target: Path) -> Path:
    return target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _python_of(target: Path) -> Path:
    return target / "bin" / "python"
