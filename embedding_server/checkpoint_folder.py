"""What `--checkpoint` names: one checkpoint, or a folder whose subfolders are checkpoints."""

import hashlib
import logging
import threading

from satrap.embedding_server.candidates import Candidate
from satrap.embedding_server.checkpoints import (
    CheckpointSettings,
    Location,
    has_checkpoints,
    last_written,
    open_in,
)
from satrap.errors import CheckpointError, StorageError, UpdateError
from satrap.formats.checkpoint import find_checkpoint_manifest
from satrap.formats.persia_marker import MARKER, SHARD_FOLDER
from satrap.storage import Entry, open_storage

__all__ = ["CheckpointFolder", "folder_identity", "is_folder_of_checkpoints"]

log = logging.getLogger(__name__)


def is_folder_of_checkpoints(location: Location) -> bool:
    """Whether `location` is a folder of checkpoints, or of none yet, and no checkpoint itself, whole or not.

    Raises:
        StorageError: it cannot be looked at now.
        InvalidInputError: the location's scheme is not known.
    """
    storage = open_storage(location)
    if storage.local is not None and not storage.local.is_dir():
        return False
    listing = storage.list()
    if find_checkpoint_manifest(listing) or any(entry.name == MARKER for entry in listing):
        return False
    if all(entry.is_folder and not SHARD_FOLDER.fullmatch(entry.name) for entry in listing):
        return True
    # Part of a checkpoint that was not written to its end, or whatever lies beside checkpoints.
    return has_checkpoints(storage, listing)


def folder_identity(location: Location) -> str:
    """What a generation remembers of a start that named a folder of checkpoints."""
    storage = open_storage(location)
    where = str(storage.local.resolve()) if storage.local is not None else storage.url
    return "folder:" + hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()


class CheckpointFolder:
    """A folder of checkpoints, or a single one. What is wrong with one is logged once, as long as it stays the same.

    Any thread may ask.
    """

    def __init__(self, location: Location, settings: CheckpointSettings) -> None:
        """Whether it is a single one is looked at.

        Raises:
            StorageError: it cannot be looked at now.
            InvalidInputError: the location's scheme is not known.
        """
        self.location = str(location)
        self.single = not is_folder_of_checkpoints(location)
        self.identity = folder_identity(location)
        self._storage = open_storage(location)
        self._settings = settings
        self._problems: dict[str, str] = {}
        self._seen: dict[tuple[str, Entry], Candidate] = {}
        self._looking = threading.Lock()
        self.refused: set[str] = set()
        """Identities of those that could not be loaded; `refuse` adds."""

    @property
    def refused_there(self) -> bool:
        """Whether one that could not be loaded was in the last listing."""
        return any(candidate.identity in self.refused for candidate in self._seen.values())

    def candidates(self) -> list[Candidate]:
        """Every checkpoint that can be used as far as its manifest or markers tell.

        Raises:
            StorageError: the folder cannot be listed now.
        """
        with self._looking:
            return self._look()

    def _look(self) -> list[Candidate]:
        found: dict[tuple[str, Entry], Candidate] = {}
        problems: dict[str, str] = {}
        names = [""] if self.single else [entry.name for entry in self._storage.list() if entry.is_folder]
        for name in names:
            try:
                folder = self._storage.subfolder(name) if name else self._storage
                last = last_written(folder)
                if last is None:
                    continue
                key = (name, last)
                known = self._seen.get(key)
                found[key] = known if known is not None else Candidate.of(open_in(folder, self._settings))
            except (CheckpointError, UpdateError, StorageError) as error:
                problems[name] = str(error)
                if self._problems.get(name) != str(error):
                    log.warning("this checkpoint is passed over: %s", error)
        self._problems, self._seen = problems, found
        return list(found.values())

    def refuse(self, candidate: Candidate, error: Exception) -> None:
        """Use the next one instead, from now on."""
        log.warning("%s cannot be loaded, and is passed over: %s", candidate.location, error)
        self.refused.add(candidate.identity)
