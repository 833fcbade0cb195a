"""The folder of one server's tables: its lock, its generations, what is taken over and what is removed.

    <table_directory>/<uid>/<namespace>/<replica_index>-of-<replica_size>/
        lock           held by the one server of this identity, as long as it lives; inside: its pid, its address
        00000001/      a generation (satrap._core.table.TableGeneration)
        quarantine/    packets that were refused (updates.quarantine)

Nothing is removed but generations of the own identity, and in the end its quarantine, by the holder of its lock.
`takeover` has the decisions.
"""

import contextlib
import grp
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from satrap._core.table import MAX_INFO_BYTES, TableGeneration, discard_generation, present_boot
from satrap.embedding_server.generations import list_generations
from satrap.embedding_server.identity_lock import LOCK, open_lock, take_lock, write_holder
from satrap.embedding_server.table_errors import table_errors, unusable
from satrap.embedding_server.table_folders import check_own, check_table_directory, make_table_directory
from satrap.embedding_server.takeover import GenerationInfo, Wanted, choose
from satrap.errors import InvalidInputError, TableFolderError, TableHeldError
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = [
    "QUARANTINE_FOLDER",
    "Identity",
    "TableDirectory",
    "TablePlace",
    "held_identities",
    "remove_identity",
]

log = logging.getLogger(__name__)

QUARANTINE_FOLDER = "quarantine"
"""Where an identity's folder keeps the packets that its server refused (`updates.quarantine`)."""

_LOCK_ATTEMPTS = 100


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
        write_holder(self._lock, address)

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
            is_ours = os.path.samestat(os.fstat(self._lock), (self.folder / LOCK).lstat())
        except (FileNotFoundError, NotADirectoryError):
            is_ours = False
        except OSError as error:
            raise unusable(error, self.folder) from error
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
            make_table_directory(directory)
            check_table_directory(directory)
        except OSError as error:
            raise unusable(error, directory) from error
        for attempts_left in reversed(range(_LOCK_ATTEMPTS)):
            try:
                self._make_folders()
                descriptor = open_lock(self.folder)
            except FileNotFoundError as error:
                # Another server of this user purged its tables between two of our calls.
                if attempts_left:
                    continue
                raise unusable(error, self.folder) from error
            except OSError as error:
                raise unusable(error, self.folder) from error
            try:
                if take_lock(self.folder, descriptor):
                    write_holder(descriptor, self._address)
                    return descriptor
            except OSError as error:
                os.close(descriptor)
                raise unusable(error, self.folder) from error
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
            check_own(folder)
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


def held_identities(directory: Path) -> Iterator[tuple[Identity, Path]]:
    """Every identity that has a folder in a table directory, of all users that can be looked at."""
    for folder in sorted(directory.glob("*/*/*-of-*")):
        uid, namespace, shard = folder.parts[-3:]
        found = re.fullmatch(r"(\d+)-of-(\d+)", shard)
        if found and uid.isdecimal() and int(found[1]) < int(found[2]):
            yield Identity(int(uid), namespace, ShardRoute(int(found[1]), int(found[2]))), folder


def remove_identity(folder: Path) -> None:
    """Remove all that an identity holds.

    Raises:
        TableHeldError: its server lives.
        TableFolderError: it is another user's, or something cannot be removed.
    """
    try:
        for own in (folder.parent.parent, folder.parent, folder):
            check_own(own)
        descriptor = open_lock(folder)
    except OSError as error:
        raise unusable(error, folder) from error
    try:
        if not take_lock(folder, descriptor):
            raise TableFolderError(folder, "was replaced by another one meanwhile; look again")
        for found in list_generations(folder):
            with table_errors(found.folder):
                discard_generation(str(found.folder))
        _remove_empty(folder)
    finally:
        os.close(descriptor)


def _remove_empty(folder: Path) -> None:
    """Remove an identity's folder, whose lock is held and whose generations are gone, and those above if empty."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder / QUARANTINE_FOLDER)
        strangers = [entry.name for entry in folder.iterdir() if entry.name != LOCK]
        if strangers:
            raise TableFolderError(
                folder, f"holds what is none of satrap's and was left alone: {strangers[0]}"
            )
        (folder / LOCK).unlink()
        folder.rmdir()
    except OSError as error:
        raise unusable(error, folder) from error
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
