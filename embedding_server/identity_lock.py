"""The lock file of an identity's folder: at most one living server has it, and whoever looks is told which.

The lock is the kernel's, of the open file: it ends with its holder, however that ends.
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import NamedTuple

from satrap.errors import TableHeldError

__all__ = ["LOCK", "Holder", "holder_of", "open_lock", "take_lock", "write_holder"]

LOCK = "lock"
"""The file's name."""

_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock of fcntl(2): type, whence, start, length, pid."""


class Holder(NamedTuple):
    """The living server that has a folder's lock: pid and address, 0 and empty until it has said them."""

    pid: int
    address: str


def holder_of(folder: Path) -> Holder | None:
    """The living server that holds an identity's folder; None if there is none, or nobody may look."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
        return None if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK else _read_holder(descriptor)
    finally:
        os.close(descriptor)


def open_lock(folder: Path) -> int:
    """A descriptor of the file, which is made if it is missing; not locked yet. Raises `OSError`."""
    return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def take_lock(folder: Path, descriptor: int) -> bool:
    """Lock it; false if the file was removed before we had it, so that the lock is of nothing.

    Raises:
        TableHeldError: somebody else has it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError) as error:
        raise TableHeldError(folder, _read_holder(descriptor).pid) from error
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _whole_file(kind: int) -> bytes:
    """A lock of the open file, not of the process: it can be asked for without being taken."""
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def write_holder(descriptor: int, address: str) -> None:
    """Say who holds it: this process, at that address."""
    text = f"{os.getpid()}\n{address}\n".encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _read_holder(descriptor: int) -> Holder:
    pid, _, address = os.pread(descriptor, 4096, 0).decode(errors="replace").partition("\n")
    return Holder(int(pid) if pid.isdecimal() else 0, address.strip())
