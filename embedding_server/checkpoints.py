"""Checkpoints of both formats: what a location is, what lies in a folder of them, and which one to load.

`--checkpoint` names one checkpoint (ours: a folder with a full manifest; PERSIA's: one with its marker) or a folder
whose subfolders are checkpoints. `choose` decides purely; `open_checkpoint` and `CheckpointFolder` look.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from satrap._core import rows as kernels
from satrap.embedding_server import loading
from satrap.embedding_server.loading import LoadedCheckpoint, LoadProgress, MakeTables, persia_origin
from satrap.embedding_server.origin import Origin
from satrap.embedding_server.update_loading import UpdatePages, load_update_checkpoint, update_origin
from satrap.errors import (
    CheckpointError,
    CheckpointIncompleteError,
    ForeignConfigError,
    StorageError,
    UpdateError,
)
from satrap.formats import checkpoint as update_format
from satrap.formats import persia_checkpoint as persia_format
from satrap.formats.checkpoint import UpdateCheckpoint, find_checkpoint_manifest
from satrap.formats.checkpoint_identity import checkpoint_digest, update_checkpoint_digest
from satrap.formats.persia_checkpoint import PersiaCheckpoint, ShardRoute
from satrap.formats.persia_marker import MARKER
from satrap.storage import Entry, Storage, open_storage

__all__ = [
    "Candidate",
    "CheckpointFolder",
    "CheckpointSettings",
    "Location",
    "OpenedCheckpoint",
    "Page",
    "Serving",
    "by_preference",
    "check_held",
    "choose",
    "folder_identity",
    "is_folder_of_checkpoints",
    "open_checkpoint",
]

log = logging.getLogger(__name__)

Location = str | Path
"""A path, or a URL that `satrap.storage` knows."""

Page = tuple[int, NDArray[np.uint64], NDArray[Any]]
"""dim, signs u64 [n], rows [n, dim] of float32 or float16."""

_PERSIA_SHARD = re.compile(r"s\d+")


@dataclass(frozen=True)
class CheckpointSettings:
    """Whose rows are read of a checkpoint, and how. `config_digest` is the embedding config's, empty if not known."""

    owner: ShardRoute
    replay_margin_seconds: int = 600
    config_digest: str = ""


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
            self.checkpoint, self.settings.owner, threads, make_tables, on_progress, cancelled
        )

    def pages(self) -> Iterator[Page]:
        """File after file, in the order that counts."""
        pages = UpdatePages(self.checkpoint, self.settings.owner)
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
    return _open(open_storage(location), settings)


def _open(storage: Storage, settings: CheckpointSettings) -> OpenedCheckpoint:
    local = storage.local
    if local is not None and not local.is_dir():
        raise CheckpointIncompleteError(local, "no such directory")
    listing = storage.list()
    if find_checkpoint_manifest(listing) is not None:
        ours = update_format.open_checkpoint(storage)
        _check_config(ours, settings.config_digest)
        return OpenedUpdate(ours, settings, update_origin(ours), update_checkpoint_digest(ours))
    marked = any(entry.name == MARKER for entry in listing)
    if not marked and _has_checkpoints(storage, listing):
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


@dataclass(frozen=True)
class Candidate:
    """One checkpoint of a folder, as far as it has to be known to choose.

    `sequence` is its watermark: packets after it are applied. `reaches` is the greatest sequence of which it may hold
    something: the same, but for PERSIA's checkpoints the second in which they were written.
    """

    location: str
    stream: str
    sequence: int
    published_ns: int
    identity: str
    reaches: int

    @staticmethod
    def of(opened: OpenedCheckpoint) -> "Candidate":
        """What there is to know of one that was opened."""
        origin = opened.origin
        reaches = origin.published_ns // 10**9 if origin.format == "persia" else origin.base_sequence
        return Candidate(
            opened.location,
            origin.stream,
            origin.base_sequence,
            origin.published_ns,
            opened.identity,
            reaches,
        )


@dataclass(frozen=True)
class Serving:
    """What is served now: where it began, how far it is, and the checkpoint that it came from.

    `declined` are those that somebody passed over who named that one.
    """

    origin: Origin
    applied: int
    identity: str = ""
    declined: frozenset[str] = frozenset()


def by_preference(
    candidates: Sequence[Candidate], keep_through: Mapping[str, int], refused: Collection[str] = ()
) -> list[Candidate]:
    """All candidates that may be used, the best one first.

    Sequences of two streams cannot be compared: the stream that published last comes first, and of each the highest
    watermark, published last. `keep_through` has, by stream, the sequence above which nothing may be used; `refused`
    has the identities of those that were tried and cannot be used.
    """
    usable = [
        candidate
        for candidate in candidates
        if candidate.identity not in refused
        and candidate.reaches <= keep_through.get(candidate.stream, candidate.reaches)
    ]
    last_of: dict[str, int] = {}
    for candidate in usable:
        last_of[candidate.stream] = max(last_of.get(candidate.stream, 0), candidate.published_ns)
    return sorted(
        usable,
        key=lambda candidate: (
            last_of[candidate.stream],
            candidate.stream,
            candidate.sequence,
            candidate.published_ns,
            candidate.location,
        ),
        reverse=True,
    )


def check_held(candidate: Candidate, keep_through: Mapping[str, int]) -> None:
    """Refuse a checkpoint that reaches beyond the hold of its stream.

    Raises:
        CheckpointError: it does.
    """
    held = keep_through.get(candidate.stream, candidate.reaches)
    if candidate.reaches > held:
        raise CheckpointError(
            candidate.location,
            f"it reaches {candidate.reaches}, and stream {candidate.stream} is held at {held}: name one at or below "
            "that, or end the hold (satrap rollback --release)",
        )


def choose(
    candidates: Sequence[Candidate],
    serving: Serving,
    keep_through: Mapping[str, int],
    refused: Collection[str] = (),
    must_replace: bool = False,
) -> Candidate | None:
    """The candidate to load in place of what is served; None: that is the best there is.

    Of the same stream it has to be beyond what is applied (PERSIA's: written later than what was loaded, since nobody
    knows which packets are missing); of another stream, to be published later. With `must_replace` what is served is
    beyond a hold, and the best one of its stream is to be loaded, whatever it is.
    """
    origin = serving.origin
    if must_replace:
        best = by_preference(candidates, keep_through, refused)
        return next((candidate for candidate in best if candidate.stream == origin.stream), None)
    best = by_preference(candidates, keep_through, {*refused, *serving.declined})
    if not best:
        return None
    first = best[0]
    if not origin.stream:
        return first if first.identity != serving.identity else None
    if first.stream != origin.stream:
        if first.published_ns > origin.published_ns:
            return first
        first = next((candidate for candidate in best if candidate.stream == origin.stream), first)
        if first.stream != origin.stream:
            return None
    if origin.format == "persia":
        return first if first.published_ns > origin.published_ns else None
    return first if first.sequence > serving.applied else None


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
    if all(entry.is_folder and not _PERSIA_SHARD.fullmatch(entry.name) for entry in listing):
        return True
    # Part of a checkpoint that was not written to its end, or whatever lies beside checkpoints.
    return _has_checkpoints(storage, listing)


def _has_checkpoints(storage: Storage, listing: Sequence[Entry]) -> bool:
    """Whether a folder below this one is a checkpoint; the parts of one of PERSIA's are none."""
    return any(
        entry.is_folder
        and not _PERSIA_SHARD.fullmatch(entry.name)
        and _last_written(storage.subfolder(entry.name)) is not None
        for entry in listing
    )


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
                last = _last_written(folder)
                if last is None:
                    continue
                key = (name, last)
                known = self._seen.get(key)
                found[key] = known if known is not None else Candidate.of(_open(folder, self._settings))
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


def _last_written(folder: Storage) -> Entry | None:
    """The manifest or marker of a checkpoint, which is written last; None: it is none yet."""
    listing = folder.list()
    name = find_checkpoint_manifest(listing) or MARKER
    return next((entry for entry in listing if entry.name == name and not entry.is_folder), None)
