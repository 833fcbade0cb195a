"""Full checkpoints: writing the rows of one moment while training goes on, and reading them back."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap._core.table import Table
from satrap.errors import (
    CheckpointError,
    ConflictError,
    DeadlineError,
    ForeignConfigError,
    MissingFileError,
    NoSpaceError,
    StorageError,
)
from satrap.formats.checkpoint import CheckpointWriter, find_checkpoint_manifest, open_checkpoint
from satrap.formats.decisions import Hold
from satrap.formats.manifest import Manifest, manifest_name, parse_manifest_name
from satrap.formats.packet import read_manifest
from satrap.formats.persia_checkpoint import MissingDimError, ShardRoute, load_file
from satrap.formats.persia_checkpoint import open_checkpoint as open_persia_checkpoint
from satrap.formats.persia_marker import MARKER
from satrap.storage import Storage
from satrap.trainer.packets import Identity
from satrap.trainer.publisher import Publisher
from satrap.trainer.resuming import Loaded
from satrap.trainer.rows import FrozenRows, Rows

__all__ = ["Dump", "DumpProgress", "EventTimes", "check_free", "is_checkpoint", "load_rows"]

log = logging.getLogger(__name__)

_EVERYTHING = ShardRoute(0, 1)

Page = tuple[NDArray[np.uint64], NDArray[Any]]
"""Signs [n], and rows [n, dim] of float32 or float16."""


@dataclass(frozen=True)
class DumpProgress:
    """Rows written (or read) so far, and in all."""

    rows: int
    total: int


@dataclass
class EventTimes:
    """The oldest and the newest event in the rows, in nanoseconds since the epoch; 0: none is known."""

    oldest_ns: int = 0
    newest_ns: int = 0

    def add(self, event_time_ns: int) -> None:
        """One more event."""
        self.oldest_ns = min(self.oldest_ns or event_time_ns, event_time_ns)
        self.newest_ns = max(self.newest_ns, event_time_ns)

    def copy(self) -> "EventTimes":
        """What is so now."""
        return EventTimes(self.oldest_ns, self.newest_ns)


class Dump:
    """A full checkpoint that is being written; what `TrainCtx.dump` returns. Any thread may ask.

    Attributes:
        url: Where it is written.
        sequence: What it contains: every packet up to this one.
    """

    def __init__(
        self,
        storage: Storage,
        identity: Identity,
        sequence: int,
        rows: FrozenRows,
        events: EventTimes,
        *,
        publisher: Publisher,
        after: int,
        finished: Callable[[], None],
        progress: Callable[[DumpProgress], None] | None,
        check_fork: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is written yet. The manifest waits for the packet `after`; `finished` is called once, at the end.

        `check_fork` is called before and after the manifest appears: it refuses a sequence that somebody else has used.
        """
        self.url = storage.url
        self.sequence = sequence
        self._storage, self._identity, self._rows, self._events = storage, identity, rows, events
        self._publisher, self._after = publisher, after
        self._finished, self._tell, self._check_fork = finished, progress, check_fork
        self._progress = DumpProgress(0, rows.count)
        self._manifest: Manifest | None = None
        self._error: BaseException | None = None
        self._done = False

    @property
    def progress(self) -> DumpProgress:
        """How far it is."""
        return self._progress

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._done

    def wait(self, timeout: float | None = None) -> Manifest:
        """Wait until it is written, and return its manifest.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            DeadlineError: it is not written by then.
            StorageError: it cannot be written; or, if `done` is false, it waits for a packet that cannot be published,
                which is tried again: call `wait` once more.
            SatrapError: what else went wrong.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._publisher.lock:
            while not self._done:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineError(f"the checkpoint {self.url} is not written after {timeout} s")
                self._publisher.wait_for_change(left)
        if self._error is not None:
            raise self._error
        assert self._manifest is not None, "a dump ends with a manifest or an error"
        return self._manifest

    def start(self) -> None:
        """Write it in a thread of its own."""
        threading.Thread(target=self._run_alone, name="satrap-dump", daemon=True).start()

    def run(self) -> None:
        """Write it as the publisher's job: what storage refuses is tried again, as packets come after it."""
        try:
            manifest = self._write()
        except (StorageError, NoSpaceError):
            raise
        except BaseException as error:
            self._end(None, error)
            raise
        self._end(manifest, None)

    def _run_alone(self) -> None:
        try:
            manifest = self._write()
        except BaseException as error:
            log.error("the checkpoint %s was not written: %s", self.url, error)
            self._end(None, error)
        else:
            self._end(manifest, None)

    def _write(self) -> Manifest:
        identity = self._identity
        name = manifest_name(self.sequence, identity.writer)
        if self._storage.exists(name):
            # A try whose answer was lost; the writer's id is this process's alone.
            self._storage.sync()
            return read_manifest(self._storage, name)
        log.debug("writing the checkpoint %s: %d rows", self.url, self._progress.total)
        with CheckpointWriter(
            self._storage,
            stream=identity.stream,
            writer=identity.writer,
            sequence=self.sequence,
            num_shards=identity.num_shards,
            dtype=identity.row_dtype,
            oldest_event_ns=self._events.oldest_ns,
            newest_event_ns=self._events.newest_ns,
            embedding_config=identity.embedding_config,
        ) as writer:
            written = 0
            for dim in sorted(self._rows.tables):
                for signs, rows in _read_ahead(self._rows.pages(dim)):
                    writer.write(dim, signs, rows)
                    written += len(signs)
                    self._report(written)
            # A server that starts from this checkpoint must find every packet before it where it looks for packets.
            self._publisher.wait_until_published(self._after)
            self._check_fork()
            manifest = writer.finish()
        self._check_fork()
        log.info("wrote the checkpoint %s: sequence %d, %d rows", self.url, self.sequence, written)
        return manifest

    def _report(self, written: int) -> None:
        self._progress = DumpProgress(written, self._progress.total)
        if self._tell is not None:
            self._tell(self._progress)

    def _end(self, manifest: Manifest | None, error: BaseException | None) -> None:
        with self._publisher.lock:
            self._manifest, self._error = manifest, error
            self._finished()
            self._done = True
            self._publisher.lock.notify_all()


def _read_ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """The same pages, of which the next one is read while the present one is written: two are held at most."""
    with ThreadPoolExecutor(1, thread_name_prefix="satrap-dump-pages") as reader:
        following = reader.submit(next, pages, None)
        while (page := following.result()) is not None:
            following = reader.submit(next, pages, None)
            yield page


def check_free(storage: Storage) -> None:
    """Refuse a directory in which there is a checkpoint.

    Raises:
        CheckpointError: there is one, ours or PERSIA's.
        StorageError: it cannot be listed.
    """
    if is_checkpoint(storage):
        raise CheckpointError(
            storage.url, "there is a checkpoint already; it is never overwritten: choose another directory"
        )


def is_checkpoint(storage: Storage) -> bool:
    """Whether a directory is a checkpoint, ours or PERSIA's.

    Raises:
        StorageError: it cannot be listed.
    """
    listing = storage.list()
    return find_checkpoint_manifest(listing) is not None or any(entry.name == MARKER for entry in listing)


def load_rows(
    storage: Storage,
    rows: Rows,
    embedding_config: str,
    dims: Collection[int],
    progress: Callable[[DumpProgress], None] | None,
    hold: Hold | None = None,
) -> tuple[Loaded, EventTimes]:
    """Read all rows of a checkpoint of ours or PERSIA's, or of the newest one of ours in a folder, into empty `rows`.

    One that is beyond `hold` is passed over in a folder, and refused if it is named, as embedding servers do.

    Raises:
        ForeignConfigError: it was written with another embedding config, or has a dim that this one lacks.
        UpdateError, CheckpointError: it is not whole, or beyond the hold. MissingFileError: there is none.
        StorageError: it cannot be read.
    """
    if storage.exists(MARKER):
        return _load_persia(storage, rows, dims)
    checkpoint = open_checkpoint(_checkpoint_folder(storage, hold))
    manifest = checkpoint.manifest
    if hold is not None and manifest.stream == hold.stream and manifest.sequence > hold.keep_through:
        raise CheckpointError(
            checkpoint.path,
            f"it reaches {manifest.sequence}, and {_told(hold)}: name one at or below that, or end the hold (satrap "
            "rollback --release)",
        )
    path = checkpoint.storage.path_of(manifest.name)
    if manifest.embedding_config not in (None, embedding_config):
        raise ForeignConfigError(
            path,
            "it was written with another embedding config, with which ids have other signs: use that one, or begin a "
            "new stream with this one",
        )
    total, done = manifest.records, 0
    for dim, limits in manifest.limits.items():
        if dim not in dims:
            raise ForeignConfigError(
                path, f"it has rows of dim {dim}, which no slot of the embedding config has"
            )
        rows.reserve(dim, limits.rows)
    for entry in checkpoint.entries(_EVERYTHING):
        for dim, signs, values in checkpoint.pages(entry, _EVERYTHING):
            assert values is not None, "a checkpoint has no deletes"
            rows.write(dim, signs, values)
            done += len(signs)
            if progress is not None:
                progress(DumpProgress(done, total))
    log.info("loaded %s: sequence %d, %d rows", checkpoint.path, manifest.sequence, done)
    return (
        Loaded(manifest.stream, manifest.sequence),
        EventTimes(manifest.oldest_event_ns, manifest.newest_event_ns),
    )


def _checkpoint_folder(storage: Storage, hold: Hold | None) -> Storage:
    """The folder itself if it is a checkpoint, otherwise the one in it with the greatest sequence that may be used."""
    listing = storage.list()
    if find_checkpoint_manifest(listing) is not None:
        return storage
    found = [
        (name, folder)
        for folder in (storage.subfolder(entry.name) for entry in listing if entry.is_folder)
        if (name := find_checkpoint_manifest(folder.list())) is not None
    ]
    if not found:
        raise MissingFileError(
            storage.url,
            "there is no checkpoint, nor one in a folder below: name one that was written to its end",
        )
    for name, folder in sorted(found, key=lambda one: one[0], reverse=True):
        if hold is None or read_manifest(folder, name).stream != hold.stream:
            return folder
        sequence, _ = parse_manifest_name(name) or (0, "")
        if sequence <= hold.keep_through:
            return folder
        log.warning("%s is passed over: %s", folder.url, _told(hold))
    assert hold is not None
    raise MissingFileError(
        storage.url,
        f"every checkpoint in it is beyond {hold.keep_through}, and {_told(hold)}: name an older one, or end the hold "
        "(satrap rollback --release)",
    )


def _told(hold: Hold) -> str:
    return f"the stream {hold.stream!r} is held at {hold.keep_through} by {hold.who} ({hold.why})"


def _load_persia(storage: Storage, rows: Rows, dims: Collection[int]) -> tuple[Loaded, EventTimes]:
    if storage.local is None:
        raise ConflictError(f"{storage.url} is a PERSIA checkpoint: copy it to a local directory to load it")
    checkpoint = open_persia_checkpoint(storage.local, _EVERYTHING)
    tables = {dim: Table(dim, rows.dtype) for dim in dims}
    for file in checkpoint.files:
        try:
            load_file(file, list(tables.values()), checkpoint.route)
        except MissingDimError as error:
            raise ForeignConfigError(
                file.path, f"{error}: it has rows of a dim that no slot of the embedding config has"
            ) from error
    for dim, table in tables.items():
        table.finish_bulk()
        rows.adopt(dim, table)
    return Loaded("", 0), EventTimes(checkpoint.written_ns, checkpoint.written_ns)
