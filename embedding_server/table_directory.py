"""The folder of one server's tables: its lock, its generations, what is taken over and what is removed.

    <table_directory>/<uid>/<namespace>/<replica_index>-of-<replica_size>/
        lock           held by the one server of this identity, as long as it lives; inside: its pid, its address
        00000001/      a generation (satrap._core.table.TableGeneration)
        quarantine/    packets that were refused (updates.quarantine)

Nothing is removed but generations of the own identity, and in the end its quarantine, by the holder of its lock.
`takeover` has the decisions.
"""

import contextlib
import errno
import fcntl
import grp
import logging
import os
import re
import shutil
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from satrap._core.table import (
    MAX_INFO_BYTES,
    TableError,
    TableGeneration,
    TableSpaceError,
    discard_generation,
    present_boot,
    read_control,
)
from satrap.embedding_server.takeover import Found, GenerationInfo, Wanted, choose
from satrap.errors import InvalidInputError, NoSpaceError, TableFolderError, TableHeldError
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = [
    "QUARANTINE_FOLDER",
    "Holder",
    "Identity",
    "TableDirectory",
    "TablePlace",
    "examine_generation",
    "held_identities",
    "holder_of",
    "list_generations",
    "remove_identity",
    "table_errors",
]

log = logging.getLogger(__name__)

QUARANTINE_FOLDER = "quarantine"
"""Where an identity's folder keeps the packets that its server refused (`updates.quarantine`)."""

_LOCK = "lock"
_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock of fcntl(2): type, whence, start, length, pid."""
_LOCK_ATTEMPTS = 100
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
_EVERYBODYS = 0o1777
"""Each user makes a folder of their own in the table directory, and nobody removes another's, as in /tmp."""


@dataclass(frozen=True)
class TablePlace:
    """Where a server keeps its tables: a directory for all users, a namespace, and who besides its user may read.

    `group` is a name or a number; None: nobody.
    """

    directory: Path
    namespace: str = "default"
    group: str | None = None


@dataclass(frozen=True)
class Identity:
    """Whose tables a folder holds: at most one living server has it."""

    uid: int
    namespace: str
    owner: ShardRoute

    def folder(self, directory: Path) -> Path:
        """The folder in a table directory."""
        shard = f"{self.owner.replica_index}-of-{self.owner.replica_size}"
        return directory / str(self.uid) / self.namespace / shard


class Holder(NamedTuple):
    """The living server that has a folder's lock: pid and address, 0 and empty until it has said them."""

    pid: int
    address: str


class TableDirectory:
    """One identity's folder, held from construction to `close` or `purge`.

    Threads: the methods are called by one thread at a time.
    """

    def __init__(self, place: TablePlace, owner: ShardRoute) -> None:
        """Make the folder if it is missing, and lock it.

        Raises:
            TableHeldError: another server of the same identity lives.
            TableFolderError: the folder cannot be had, belongs to another user, or lies where others could remove it.
            InvalidInputError: there is no such group.
        """
        self.owner = owner
        self.folder = Identity(os.geteuid(), place.namespace, owner).folder(place.directory.absolute())
        self.boot_id = present_boot()
        self._group = _group_id(place.group)
        self._file_mode, self._folder_mode = (0o600, 0o700) if self._group is None else (0o640, 0o750)
        self._directory = place.directory.absolute()
        self._address = ""
        self.resume = ""
        self._lock = self._acquire()
        self._next = 1 + max((found.number for found in list_generations(self.folder)), default=0)

    def take_over(self, wanted: Wanted) -> tuple[TableGeneration, GenerationInfo] | str:
        """The generation that a server before left, if it is what is wanted; otherwise the reason why there is none.

        `resume` is set to the checkpoint that the server before was putting in place, if that is the reason.

        Everything else of this identity is removed if one is taken over, and nothing otherwise: `discard_rest` does
        that when the load that replaces it is known to be possible.

        Raises:
            NoSpaceError: no descriptors, or no memory to map it.
        """
        choice = choose(list_generations(self.folder), wanted)
        self.resume = choice.resume
        if choice.found is None or choice.found.info is None:
            return choice.reason
        try:
            with table_errors(choice.found.folder):
                self._apply_modes(choice.found.folder)
                generation = TableGeneration.recover(
                    str(choice.found.folder),
                    boot_id=self.boot_id,
                    replica_index=self.owner.replica_index,
                    replica_size=self.owner.replica_size,
                )
        except TableFolderError as error:
            return str(error)
        self.discard_rest(generation)
        return generation, choice.found.info

    def new_generation(self, info: GenerationInfo) -> TableGeneration:
        """A generation without tables, that is loading.

        Somebody may have removed the folder under us (systemd's RemoveIPC does): it is made and locked again.

        Raises:
            TableHeldError: that happened, and another server has begun there.
            NoSpaceError, TableFolderError: it cannot be made; nothing of it is left.
        """
        self._hold_again()
        folder = self.folder / f"{self._next:08d}"
        self._next += 1
        with table_errors(folder):
            return TableGeneration.create(
                str(folder),
                instance=os.urandom(16),
                boot_id=self.boot_id,
                replica_index=self.owner.replica_index,
                replica_size=self.owner.replica_size,
                info=info.to_bytes(MAX_INFO_BYTES),
                file_mode=self._file_mode,
                folder_mode=self._folder_mode,
                group=self._group,
            )

    def discard_rest(self, kept: TableGeneration | None = None) -> None:
        """Mark every other generation of this identity abandoned, and remove it.

        Raises:
            TableFolderError: one cannot be removed.
        """
        for found in list_generations(self.folder):
            if kept is None or str(found.folder) != kept.folder:
                with table_errors(found.folder):
                    discard_generation(str(found.folder))

    def announce(self, address: str) -> None:
        """Say where the server listens, to whoever asks `holder_of`."""
        self._address = address
        _write_holder(self._lock, address)

    def close(self) -> None:
        """Let go of the lock; what is there stays."""
        os.close(self._lock)

    def purge(self) -> None:
        """Remove every generation and the folder, and let go. Close the generations of this process before.

        Raises:
            TableFolderError: something cannot be removed.
        """
        try:
            self.discard_rest()
            _remove_empty(self.folder)
        finally:
            self.close()

    def _hold_again(self) -> None:
        """Have the lock of the folder that is there now: of a removed one it keeps nobody out."""
        try:
            is_ours = os.path.samestat(os.fstat(self._lock), (self.folder / _LOCK).lstat())
        except (FileNotFoundError, NotADirectoryError):
            is_ours = False
        except OSError as error:
            raise _unusable(error, self.folder) from error
        if is_ours:
            return
        try:
            lock = self._acquire()
        except TableHeldError:
            raise
        except TableFolderError as error:
            raise TableFolderError(
                self.folder,
                f"was removed while this server ran, and cannot be made again ({error}): restart the server",
            ) from error
        os.close(self._lock)
        self._lock = lock
        log.warning("%s: was removed while this server ran; it was made and locked again", self.folder)

    def _acquire(self) -> int:
        """The locked descriptor of the lock file, with our pid and address in it."""
        directory = self._directory
        try:
            _make_table_directory(directory)
            _check_table_directory(directory)
        except OSError as error:
            raise _unusable(error, directory) from error
        for attempts_left in reversed(range(_LOCK_ATTEMPTS)):
            try:
                self._make_folders()
                descriptor = _open_lock(self.folder)
            except FileNotFoundError as error:
                # Another server of this user purged its tables between two of our calls.
                if attempts_left:
                    continue
                raise _unusable(error, self.folder) from error
            except OSError as error:
                raise _unusable(error, self.folder) from error
            try:
                if _lock_of(self.folder, descriptor):
                    _write_holder(descriptor, self._address)
                    return descriptor
            except OSError as error:
                os.close(descriptor)
                raise _unusable(error, self.folder) from error
            except TableHeldError:
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise TableFolderError(
            self.folder, "is removed again and again by somebody else; choose another --table-directory"
        )

    def _make_folders(self) -> None:
        namespace = self.folder.parent
        for folder in (namespace.parent, namespace, self.folder):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=self._folder_mode)
            _check_own(folder)
            if self._group is not None or folder == self.folder:
                # Without a group the upper folders stay as they are: another namespace of this user may have one.
                self._share(folder, self._folder_mode)

    def _share(self, path: Path, mode: int) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group, follow_symlinks=False)
        path.chmod(mode)

    def _apply_modes(self, folder: Path) -> None:
        """Let read who may read now: `table_group` may have changed since the files were made."""
        status = (folder / "control").stat()
        if status.st_mode & 0o777 == self._file_mode and self._group in (None, status.st_gid):
            return
        for path, _, names in os.walk(folder):
            self._share(Path(path), self._folder_mode)
            for name in names:
                self._share(Path(path, name), self._file_mode)


def _make_table_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(_EVERYBODYS)


def _check_table_directory(directory: Path) -> None:
    """Who else could take our folder away, and whether it is memory at all.

    Raises:
        TableFolderError: everybody may rename or remove what lies in it.
    """
    status = directory.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise TableFolderError(
            directory,
            "everybody may remove what others keep there: set its sticky bit (chmod +t), or choose another "
            "--table-directory",
        )
    if status.st_uid not in (0, os.geteuid()):
        log.warning(
            "%s: belongs to user %d, who can take away the tables that lie there", directory, status.st_uid
        )
    kind = _file_system_of(directory)
    if kind and kind not in _IN_MEMORY:
        log.warning(
            "%s: lies on %s, not in memory (tmpfs): rows go through the page cache of a disk", directory, kind
        )


def _file_system_of(directory: Path) -> str:
    """The type of the mount with this device, as /proc/self/mountinfo names it; empty if it does not say."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for mount in mounts:
        fields, _, kind = mount.partition(" - ")
        if fields.split()[2] == number:
            return kind.split()[0]
    return ""


def _check_own(folder: Path) -> None:
    """In a directory where everybody may make folders, what is not ours may lead anywhere.

    Raises:
        TableFolderError: it is no folder of this user's, or a link.
    """
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        what = "is a link, which is not followed"
    elif status.st_uid != os.geteuid():
        what = f"belongs to user {status.st_uid}, not to {os.geteuid()}, whose tables would lie there"
    else:
        return
    raise TableFolderError(folder, f"{what}: have it removed, or choose another --table-directory")


def list_generations(folder: Path) -> list[Found]:
    """Every generation in an identity's folder, oldest first."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if re.fullmatch(r"\d{8,}", entry.name))
    except OSError:
        return []
    return [examine_generation(entry) for entry in entries]


def examine_generation(folder: Path) -> Found:
    """What a generation's control file says; its damage is a finding too."""
    number = int(folder.name) if folder.name.isdecimal() else 0
    if folder.is_symlink():
        return Found(number, folder, damage=f"{folder}: a link, not a folder of ours")
    if not (folder / "control").exists():
        return Found(number, folder)  # its server ended before it had one
    try:
        control = read_control(str(folder))
        info = GenerationInfo.from_bytes(control.info)
    except (TableError, TableSpaceError) as error:
        return Found(number, folder, damage=str(error))
    except ValueError as error:
        return Found(number, folder, damage=f"{folder / 'control'}: its description cannot be read: {error}")
    return Found(
        number,
        folder,
        state=control.state,
        boot_id=control.boot_id,
        owner=ShardRoute(control.replica_index, control.replica_size),
        info=info,
        pid=control.pid,
        locked=control.locked,
    )


def held_identities(directory: Path) -> Iterator[tuple[Identity, Path]]:
    """Every identity that has a folder in a table directory, of all users that can be looked at."""
    for folder in sorted(directory.glob("*/*/*-of-*")):
        uid, namespace, shard = folder.parts[-3:]
        found = re.fullmatch(r"(\d+)-of-(\d+)", shard)
        if found and uid.isdecimal() and int(found[1]) < int(found[2]):
            yield Identity(int(uid), namespace, ShardRoute(int(found[1]), int(found[2]))), folder


def holder_of(folder: Path) -> Holder | None:
    """The living server that holds an identity's folder; None if there is none, or nobody may look."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
        return None if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK else _read_holder(descriptor)
    finally:
        os.close(descriptor)


def remove_identity(folder: Path) -> None:
    """Remove all that an identity holds.

    Raises:
        TableHeldError: its server lives.
        TableFolderError: it is another user's, or something cannot be removed.
    """
    try:
        for own in (folder.parent.parent, folder.parent, folder):
            _check_own(own)
        descriptor = _open_lock(folder)
    except OSError as error:
        raise _unusable(error, folder) from error
    try:
        if not _lock_of(folder, descriptor):
            raise TableFolderError(folder, "was replaced by another one meanwhile; look again")
        for found in list_generations(folder):
            with table_errors(found.folder):
                discard_generation(str(found.folder))
        _remove_empty(folder)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def table_errors(path: Path) -> Iterator[None]:
    """The one seam where the native table's errors, and the system's about its folders, become satrap's.

    Raises:
        NoSpaceError: there is no memory, no room, or no descriptor.
        TableFolderError: a file is damaged, foreign, or not to be had.
    """
    try:
        yield
    except (TableSpaceError, MemoryError) as error:
        raise NoSpaceError(str(error) or f"{path}: there is no memory") from error
    except TableError as error:
        file, _, reason = str(error).partition(": ")
        raise TableFolderError(file, reason) from error
    except OSError as error:
        raise _unusable(error, path) from error


def _open_lock(folder: Path) -> int:
    return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock_of(folder: Path, descriptor: int) -> bool:
    """Lock; false if the file was removed before we had it, so that the lock is of nothing.

    Raises:
        TableHeldError: somebody else has it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError) as error:
        raise TableHeldError(folder, _read_holder(descriptor).pid) from error
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / _LOCK).stat())
    except FileNotFoundError:
        return False


def _whole_file(kind: int) -> bytes:
    """A lock of the open file, not of the process: it can be asked for without being taken."""
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _write_holder(descriptor: int, address: str) -> None:
    text = f"{os.getpid()}\n{address}\n".encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _read_holder(descriptor: int) -> Holder:
    pid, _, address = os.pread(descriptor, 4096, 0).decode(errors="replace").partition("\n")
    return Holder(int(pid) if pid.isdecimal() else 0, address.strip())


def _remove_empty(folder: Path) -> None:
    """Remove an identity's folder, whose lock is held and whose generations are gone, and those above if empty."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder / QUARANTINE_FOLDER)
        strangers = [entry.name for entry in folder.iterdir() if entry.name != _LOCK]
        if strangers:
            raise TableFolderError(
                folder, f"holds what is none of satrap's and was left alone: {strangers[0]}"
            )
        (folder / _LOCK).unlink()
        folder.rmdir()
    except OSError as error:
        raise _unusable(error, folder) from error
    for above in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):
            above.rmdir()


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidInputError(f"embedding_server.table_group: there is no group {group!r}") from error


def _unusable(error: OSError, folder: Path) -> NoSpaceError | TableFolderError:
    path = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return NoSpaceError(f"{path}: {error.strerror}")
    reason = "is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
    return TableFolderError(path, f"{reason}; choose another --table-directory")
