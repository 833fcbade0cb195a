"""What a start was told to load."""

import logging
from collections.abc import Iterator, Mapping, Sequence

from satrap.embedding_server.candidates import Candidate, by_preference, check_held
from satrap.embedding_server.checkpoint_folder import CheckpointFolder, is_folder_of_checkpoints
from satrap.embedding_server.checkpoints import (
    CheckpointSettings,
    Location,
    OpenedCheckpoint,
    open_checkpoint,
)
from satrap.errors import CheckpointError, UpdateError

__all__ = ["NamedCheckpoints"]

log = logging.getLogger(__name__)


class NamedCheckpoints:
    """What a start was told to load: one checkpoint, or the candidates of a folder, the best one first."""

    def __init__(
        self, location: Location | None, settings: CheckpointSettings, holds: Mapping[str, int]
    ) -> None:
        """Look at what is named; None is nothing.

        `identity` is that of what is named, empty if nothing is; `members` those of all checkpoints there.

        Raises:
            As `checkpoints.open_checkpoint`, if it is a single one.
        """
        self._settings, self._holds = settings, holds
        self.identity = ""
        self._found: Sequence[Candidate] = ()
        self._checkpoints: Sequence[OpenedCheckpoint | Candidate] = ()
        if location is not None and is_folder_of_checkpoints(location):
            folder = CheckpointFolder(location, settings)
            self.identity, self._found = folder.identity, folder.candidates()
            self._checkpoints = by_preference(self._found, holds)
        elif location is not None:
            opened = open_checkpoint(location, settings)
            self.identity, self._found = opened.identity, [Candidate.of(opened)]
            self._checkpoints = [opened]
        self.members = frozenset(candidate.identity for candidate in self._found)
        self._left = len(self._checkpoints)

    def check_held(self) -> None:
        """Nothing is loaded because of a hold: that is to be known, and not to be served as nothing.

        Raises:
            CheckpointError: all that there is is beyond it.
        """
        allowed = by_preference(self._found, self._holds)
        if not allowed:
            for candidate in self._found:
                check_held(candidate, self._holds)

    def choices(self) -> Iterator[OpenedCheckpoint]:
        """One after another; a candidate is opened when it is its turn."""
        for checkpoint in self._checkpoints:
            self._left -= 1
            if not isinstance(checkpoint, Candidate):
                yield checkpoint
                continue
            try:
                yield open_checkpoint(checkpoint.location, self._settings)
            except (CheckpointError, UpdateError) as error:
                if not self._left:
                    raise
                log.warning("this checkpoint is passed over: %s", error)

    def pass_over(self, opened: OpenedCheckpoint, error: Exception) -> bool:
        """Whether there is another one to try."""
        if self._left:
            log.warning("%s cannot be loaded, and is passed over: %s", opened.location, error)
        return self._left > 0
