"""A Unix socket for a REST address: taken over from a dead server, never from a living one, removed at the end."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from satrap.errors import InvalidInputError

__all__ = ["UnixSocket"]


class UnixSocket:
    """A path, and after `listen` a socket there, until `close`. Who may connect the umask decides."""

    def __init__(self, path: str) -> None:
        """Nothing is touched before it is asked for."""
        self._path = Path(path)
        self._identity: tuple[int, int] | None = None

    def check(self) -> None:
        """See whether the path could be had now.

        Raises:
            InvalidInputError: something lies there that is no dead server's socket, or the folder cannot be written.
        """
        folder = self._path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._error(f"{folder} is no folder that this process may write to")
        self._is_left_behind()

    def listen(self, backlog: int) -> socket.socket:
        """A socket that listens at the path; the caller closes it, and `close` removes the path.

        Raises:
            InvalidInputError: the path cannot be had.
        """
        bound = socket.socket(socket.AF_UNIX)
        bound.setblocking(False)
        try:
            with self._alone():
                if self._is_left_behind():
                    self._path.unlink()
                bound.bind(os.fspath(self._path))
                self._identity = self._found()
                bound.listen(backlog)
        except OSError as error:
            bound.close()
            raise self._error(str(error)) from error
        except InvalidInputError:
            bound.close()
            raise
        return bound

    def close(self) -> None:
        """Remove the path, if it is still this socket's."""
        if self._identity is not None and self._found() == self._identity:
            with suppress(OSError):
                self._path.unlink()
        self._identity = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of servers that want this path at once, one: a socket that does not listen yet looks like a dead server's.

        By a file beside it, which is gone afterwards. The folder's own lock may be anybody's: systemd-tmpfiles takes
        it, and who keeps systemd-tmpfiles out.

        Raises:
            InvalidInputError: another server is at it.
        """
        file = self._path.with_name(f"{self._path.name}.lock")
        descriptor = self._locked(file)
        try:
            yield
        finally:
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)

    def _locked(self, file: Path) -> int:
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), file.lstat()):
                    return descriptor
            except FileNotFoundError:
                pass  # who had it has removed it, so it keeps nobody out
            except BlockingIOError:
                os.close(descriptor)
                raise self._error("another server is taking it at this moment") from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _is_left_behind(self) -> bool:
        """Whether a dead server's socket lies there; False: nothing does.

        Raises:
            InvalidInputError: something else does.
        """
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise self._error("what lies there is no socket; remove it, or name another path")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                probe.connect(os.fspath(self._path))
        except FileNotFoundError:
            return False
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass  # many wait to be accepted
        except OSError as error:
            raise self._error(f"whether a server is behind it cannot be told: {error}") from error
        raise self._error("another server has it; stop that one, or name another path")

    def _found(self) -> tuple[int, int] | None:
        """What lies at the path; None: nothing that we may see."""
        try:
            status = self._path.lstat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _error(self, reason: str) -> InvalidInputError:
        return InvalidInputError(f"cannot listen on unix:{self._path}: {reason}")
