"""Checkpoints of both formats, opened: one way to ask where they begin and to read their rows.

Ours is a folder with a full manifest, PERSIA's one with its marker.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from satrap._core import rows as kernels
from satrap.embedding_server import loading
from satrap.embedding_server.loading import LoadedCheckpoint, LoadProgress, MakeTables, persia_origin
from satrap.embedding_server.origin import Origin
from satrap.embedding_server.tables import RowDType
from satrap.embedding_server.update_loading import UpdatePages, load_update_checkpoint, update_origin
from satrap.errors import (
    CheckpointError,
    CheckpointIncompleteError,
    ForeignConfigError,
)
from satrap.formats import checkpoint as update_format
from satrap.formats import persia_checkpoint as persia_format
from satrap.formats.checkpoint import UpdateCheckpoint, find_checkpoint_manifest
from satrap.formats.checkpoint_identity import checkpoint_digest, update_checkpoint_digest
from satrap.formats.persia_checkpoint import PersiaCheckpoint, ShardRoute
from satrap.formats.persia_marker import MARKER, SHARD_FOLDER
from satrap.storage import Entry, Storage, open_storage

__all__ = [
    "CheckpointSettings",
    "Location",
    "OpenedCheckpoint",
    "Page",
    "has_checkpoints",
    "last_written",
    "open_checkpoint",
    "open_in",
]

Location = str | Path
"""A path, or a URL that `satrap.storage` knows."""

Page = tuple[int, NDArray[np.uint64], NDArray[Any]]
"""dim, signs u64 [n], rows [n, dim] of float32 or float16."""


@dataclass(frozen=True)
class CheckpointSettings:
    """Whose rows are read of a checkpoint, and how. `config_digest` is the embedding config's, empty if not known;
    `row_dtype` the tables'.
    """

    owner: ShardRoute
    replay_margin_seconds: int = 600
    config_digest: str = ""
    row_dtype: RowDType = "float32"


class OpenedCheckpoint(Protocol):
    """A checkpoint whose manifest or markers were read; its files are there, and were not."""

    @property
    def location(self) -> str:
        """What a person calls it."""

    @property
    def identity(self) -> str:
        """Another one for every other checkpoint, also for one that was written again in its place."""

    @property
    def origin(self) -> Origin:
        """Where the rows of a table that has it loaded begin."""

    def load(
        self,
        threads: int,
        make_tables: MakeTables,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
    ) -> LoadedCheckpoint:
        """Load into new tables; as `loading.load_checkpoint` and `load_update_checkpoint`."""

    def pages(self) -> Iterator[Page]:
        """All rows of this server, page by page; a later record of a sign wins. Whether a file is whole is known when
        the next one begins, or at the end.

        Raises:
            CheckpointError, UpdateError: a file is not what it says.
            StorageError: a file cannot be read at the moment.
        """


@dataclass(frozen=True)
class OpenedPersia:
    """One of PERSIA's."""

    checkpoint: PersiaCheckpoint
    settings: CheckpointSettings
    origin: Origin
    identity: str

    @property
    def location(self) -> str:
        """Its path."""
        return str(self.checkpoint.path)

    def load(
        self,
        threads: int,
        make_tables: MakeTables,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
    ) -> LoadedCheckpoint:
        """Load into new tables."""
        return loading.load_checkpoint(
            self.checkpoint.path,
            self.settings.owner,
            threads,
            make_tables,
            on_progress,
            cancelled,
            self.settings.replay_margin_seconds,
        )

    def pages(self) -> Iterator[Page]:
        """A file is read whole before its first page is given."""
        route = self.checkpoint.route
        for file in self.checkpoint.files:
            for dim, signs, rows in persia_format.read_file(file):
                if route.replica_size > 1:
                    signs, kept = kernels.select(signs, rows, route.replica_index, route.replica_size)
                    assert kept is not None
                    rows = kept
                yield dim, signs, rows


@dataclass(frozen=True)
class OpenedUpdate:
    """One of ours."""

    checkpoint: UpdateCheckpoint
    settings: CheckpointSettings
    origin: Origin
    identity: str

    @property
    def location(self) -> str:
        """Its path or URL."""
        return self.checkpoint.path

    def load(
        self,
        threads: int,
        make_tables: MakeTables,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
    ) -> LoadedCheckpoint:
        """Load into new tables."""
        return load_update_checkpoint(
            self.checkpoint,
            self.settings.owner,
            threads,
            make_tables,
            on_progress,
            cancelled,
            self.settings.row_dtype,
        )

    def pages(self) -> Iterator[Page]:
        """File after file, in the order that counts."""
        pages = UpdatePages(self.checkpoint, self.settings.owner, self.settings.row_dtype)
        for entries in pages.groups:
            for entry in entries:
                for dim, signs, rows in pages.of(entry):
                    assert rows is not None  # a checkpoint has no deletes
                    yield dim, signs, rows


def open_checkpoint(location: Location, settings: CheckpointSettings) -> OpenedCheckpoint:
    """Look at the checkpoint at `location`: its manifest or markers, and whether its files are there.

    Raises:
        CheckpointError: one of PERSIA's that cannot be used, or none at all.
        UpdateError: one of ours that cannot be used.
        OrdinalRangeError: its watermark does not fit into an ordinal.
        StorageError: it cannot be looked at now.
        InvalidInputError: the location's scheme is not known.
    """
    return open_in(open_storage(location), settings)


def open_in(storage: Storage, settings: CheckpointSettings) -> OpenedCheckpoint:
    """Open the checkpoint in a storage's own folder; errors are those of `open_checkpoint`."""
    local = storage.local
    if local is not None and not local.is_dir():
        raise CheckpointIncompleteError(local, "no such directory")
    listing = storage.list()
    if find_checkpoint_manifest(listing) is not None:
        ours = update_format.open_checkpoint(storage)
        _check_config(ours, settings.config_digest)
        return OpenedUpdate(ours, settings, update_origin(ours), update_checkpoint_digest(ours))
    marked = any(entry.name == MARKER for entry in listing)
    if not marked and has_checkpoints(storage, listing):
        raise CheckpointError(storage.url, "a folder of checkpoints, not a checkpoint: name one of them")
    if local is not None:
        checkpoint = persia_format.open_checkpoint(local, settings.owner)
        origin = persia_origin(checkpoint, settings.replay_margin_seconds)
        return OpenedPersia(checkpoint, settings, origin, checkpoint_digest(checkpoint))
    if marked:
        raise CheckpointError(
            storage.url, "PERSIA's checkpoints are read from local paths only: copy it to the machine"
        )
    raise CheckpointIncompleteError(
        storage.url, "there is no manifest: it is no checkpoint, or one that was not written to its end"
    )


def _check_config(checkpoint: UpdateCheckpoint, digest: str) -> None:
    own = checkpoint.manifest.embedding_config
    if own and digest and own != digest:
        raise ForeignConfigError(
            checkpoint.path,
            f"it was written with another embedding config (digest {own[:12]}) than this server's ({digest[:12]}): "
            "start the server with the trainer's embedding_config.yml",
        )


def has_checkpoints(storage: Storage, listing: Sequence[Entry]) -> bool:
    """Whether a folder below this one is a checkpoint; the parts of one of PERSIA's are none.

    Raises:
        StorageError: one of them cannot be listed now.
    """
    return any(
        entry.is_folder
        and not SHARD_FOLDER.fullmatch(entry.name)
        and last_written(storage.subfolder(entry.name)) is not None
        for entry in listing
    )


def last_written(folder: Storage) -> Entry | None:
    """The manifest or marker of a checkpoint, which is written last; None: it is none yet.

    Raises:
        StorageError: the folder cannot be listed now.
    """
    listing = folder.list()
    name = find_checkpoint_manifest(listing) or MARKER
    return next((entry for entry in listing if entry.name == name and not entry.is_folder), None)
