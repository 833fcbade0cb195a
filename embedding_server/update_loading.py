"""From a checkpoint of ours to tables, by several threads, with progress; memory holds a page for each of them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np

from satrap._core.table import Table
from satrap.embedding_server.loading import (
    LoadCancelled,
    LoadedCheckpoint,
    LoadProgress,
    MakeTables,
    share_of_rows,
    table_growth,
)
from satrap.embedding_server.origin import DimLimits, Origin
from satrap.embedding_server.tables import RowDType
from satrap.embedding_server.updates.guard import check_values
from satrap.embedding_server.updates.packet import PacketPart
from satrap.formats.checkpoint import UpdateCheckpoint
from satrap.formats.manifest import FileEntry
from satrap.formats.packet import ShardPart
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = ["UpdatePages", "load_update_checkpoint", "update_origin"]

_TELL_SECONDS = 0.1
"""How often progress is told while a file is read."""


def update_origin(checkpoint: UpdateCheckpoint) -> Origin:
    """Where the rows of a checkpoint of ours begin."""
    manifest = checkpoint.manifest
    return Origin(
        format="satrap",
        stream=manifest.stream,
        base_sequence=manifest.sequence,
        base_event_ns=manifest.newest_event_ns,
        published_ns=manifest.published_ns,
        limits={
            dim: DimLimits(limits.rows, limits.norm_p999) for dim, limits in sorted(manifest.limits.items())
        },
        writer=manifest.writer,
    )


def load_update_checkpoint(
    checkpoint: UpdateCheckpoint,
    owner: ShardRoute,
    threads: int,
    make_tables: MakeTables,
    on_progress: Callable[[LoadProgress], None],
    cancelled: threading.Event,
    row_dtype: RowDType = "float32",
) -> LoadedCheckpoint:
    """Load the rows of `owner`; each carries the checkpoint's sequence. All that is read is verified.

    `make_tables` is called once, with the rows of each dim. `on_progress` is called on the calling thread.

    Raises:
        UpdateError: a file is not what the manifest says (its subclasses say how).
        GuardrailError: a row is not finite, or would not be as `row_dtype`.
        StorageError: a file cannot be read at the moment.
        NoSpaceError: there is no room.
        LoadCancelled: `cancelled` was set; seen between two pages.
    """
    pages = UpdatePages(checkpoint, owner, row_dtype)
    on_progress(pages.progress)
    tables = make_tables(pages.expected_rows())

    def insert(entries: Sequence[FileEntry]) -> None:
        table = tables[entries[0].dim]
        for entry in entries:
            for _, signs, rows in pages.of(entry):
                if cancelled.is_set():
                    raise LoadCancelled
                assert rows is not None  # a checkpoint has no deletes
                table.upsert(signs, as_rows_of(table, rows), checkpoint.manifest.sequence)

    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool, table_growth():
        failed = threading.Event()

        def guarded(entries: Sequence[FileEntry]) -> None:
            if failed.is_set():
                return  # after a failure the rest is not worth reading
            try:
                insert(entries)
            except BaseException:
                failed.set()
                raise

        waiting: set[Future[None]] = {pool.submit(guarded, entries) for entries in pages.groups}
        while waiting:
            done, waiting = wait(waiting, _TELL_SECONDS, FIRST_COMPLETED)
            on_progress(pages.progress)
            for future in done:
                future.result()
        for table in tables.values():
            table.finish_bulk()
    return LoadedCheckpoint(checkpoint.path, tables, update_origin(checkpoint), ())


def as_rows_of(table: Table, rows: "np.ndarray") -> "np.ndarray":
    """Rows that `table.upsert` takes: float32, or the table's dtype."""
    return rows if rows.dtype == table.dtype else np.ascontiguousarray(rows, np.float32)


class UpdatePages:
    """The pages of a checkpoint of ours that one server reads, and how far that is. Any thread may read a file."""

    def __init__(self, checkpoint: UpdateCheckpoint, owner: ShardRoute, row_dtype: RowDType) -> None:
        """Nothing is read yet. `row_dtype` is the tables'."""
        self._checkpoint, self._owner, self._row_dtype = checkpoint, owner, row_dtype
        entries = checkpoint.entries(owner)
        groups: dict[tuple[int, int], list[FileEntry]] = {}
        for entry in entries:
            groups.setdefault((entry.dim, entry.shard), []).append(entry)
        self.groups: tuple[tuple[FileEntry, ...], ...] = tuple(map(tuple, groups.values()))
        """Files whose order counts, because the last record of a sign wins: those of one dim and shard."""
        # Of files of all shards, that part of the rows is ours.
        self._others = 1 if checkpoint.manifest.shards == owner.replica_size else owner.replica_size
        self._total = sum(entry.rows for entry in entries)
        self._done = 0
        self._progress = LoadProgress(files_total=len(entries), fraction=0.0 if self._total else 1.0)
        self._counting = threading.Lock()

    @property
    def progress(self) -> LoadProgress:
        """How far all reading is."""
        return self._progress

    def expected_rows(self) -> dict[int, int]:
        """This server's rows by dim, or as many as there may be of them."""
        rows: dict[int, int] = {}
        for entry in self._checkpoint.entries(self._owner):
            rows[entry.dim] = rows.get(entry.dim, 0) + entry.rows
        return {dim: share_of_rows(count, self._others) for dim, count in sorted(rows.items())}

    def of(self, entry: FileEntry) -> Iterator[ShardPart]:
        """The pages of a file, judged. What was given before an error is to be thrown away.

        Raises:
            As `UpdateCheckpoint.pages`; GuardrailError: a row must not be served.
        """
        name = self._checkpoint.storage.path_of(entry.name)
        counted = 0
        for page in self._checkpoint.pages(entry, self._owner):
            check_values(name, PacketPart(*page), self._row_dtype)
            yield page
            rows = len(page[1])
            about = min(rows * self._others, entry.rows - counted)
            counted += about
            self._count(about, rows, 0)
        self._count(entry.rows - counted, 0, 1)

    def _count(self, done: int, rows: int, files: int) -> None:
        with self._counting:
            self._done += done
            self._progress = replace(
                self._progress,
                files_done=self._progress.files_done + files,
                rows=self._progress.rows + rows,
                fraction=self._done / self._total if self._total else 1.0,
            )
