"""Which process a pid file means, whatever has happened since it was written.

The first line is the pid, as other programs write it; the second when that process began, in the kernel's clock ticks
since boot: a number that the kernel gave to another process meanwhile is not mistaken for it.
"""

import os
import select
import signal
import tempfile
from pathlib import Path

from satrap.errors import InvalidInputError

__all__ = ["PidFile"]


class PidFile:
    """A file with the pid of a process that runs one at a time. Only a file of our own user's is believed."""

    def __init__(self, path: Path) -> None:
        """Nothing is read before it is asked for."""
        self.path = path

    def process(self) -> int | None:
        """The pid of the living process that wrote the file; None: there is none."""
        pid, began = self._read()
        return pid if pid is not None and began is not None and _began(pid) == began else None

    def process_of(self, program: str) -> int | None:
        """The pid in the file if that process's command line has `program` among its words, whoever wrote the file."""
        pid, _ = self._read()
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return pid if program.encode() in words else None

    def claim(self) -> None:
        """Write this process into the file, in place of one that ended.

        Raises:
            InvalidInputError: the file cannot be written.
        """
        try:
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}-")
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{os.getpid()}\n{_began(os.getpid())}\n")
            Path(name).replace(self.path)
        except OSError as error:
            raise InvalidInputError(
                f"the pid file {self.path} cannot be written: {error.strerror or error}. Set TMPDIR to a folder "
                "where it can be"
            ) from error

    def release(self) -> None:
        """Remove the file if it is this process's."""
        if self.process() == os.getpid():
            self.path.unlink(missing_ok=True)

    def stop(self, seconds: float) -> bool:
        """SIGTERM, and wait at most so long; whether the process has ended. True if there is none."""
        pid = self.process()
        if pid is None:
            return True
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            if (
                self.process() != pid
            ):  # it ended before the descriptor was there, which may mean another process
                return True
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            return bool(select.select([descriptor], [], [], seconds)[0])
        except ProcessLookupError:
            return True
        finally:
            os.close(descriptor)

    def _read(self) -> tuple[int | None, int | None]:
        """The two lines; None for one that is not there or is no number."""
        try:
            with open(self.path, encoding="ascii", errors="replace", opener=_open_at_once) as file:
                owner = os.fstat(file.fileno()).st_uid
                if owner != os.geteuid():
                    raise InvalidInputError(
                        f"the pid file {self.path} belongs to another user ({owner}), who could name any process in "
                        "it: remove it, or set TMPDIR to a folder of your own"
                    )
                lines = file.read().split()
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise InvalidInputError(
                f"the pid file {self.path} cannot be read: {error.strerror or error}"
            ) from error
        pid, began, *_ = [int(line) if line.isdecimal() else None for line in lines] + [None, None]
        return pid, began


def _open_at_once(path: str, flags: int) -> int:
    """Somebody else's named pipe must not hold us."""
    return os.open(path, flags | os.O_NONBLOCK)


def _began(pid: int) -> int | None:
    """When a process began; None: there is no such process, or it has ended and waits for its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold blanks and parentheses
    return None if fields[0] in "ZX" else int(fields[19])
