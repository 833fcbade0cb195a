"""From a checkpoint directory to tables, by several threads, with progress."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from satrap._core import rows as row_kernels
from satrap._core.embedding_file import EmbeddingFileSummary
from satrap._core.table import Table, TableSpaceError
from satrap.embedding_server.origin import MAX_ORDINAL, PERSIA_STREAM, Origin
from satrap.errors import NoSpaceError, OrdinalRangeError
from satrap.formats.persia_checkpoint import (
    CheckpointFile,
    MissingDimError,
    PersiaCheckpoint,
    ShardRoute,
    estimate_file,
    load_file,
    open_checkpoint,
    recovery_warning,
    summarize_file,
)
from satrap.formats.persia_marker import MARKER

__all__ = [
    "LoadCancelled",
    "LoadProgress",
    "LoadedCheckpoint",
    "MakeTables",
    "infinite_warning",
    "load_checkpoint",
    "persia_origin",
    "share_of_rows",
    "table_growth",
]

T = TypeVar("T")

_PAGE = 65_536
"""Rows that are looked at together."""

_PAGES_LOOKED_AT = 64
"""Of a table, for values that are not finite."""

MakeTables = Callable[[Mapping[int, int]], dict[int, Table]]
"""Makes a table for each dim, with room for so many rows."""


class LoadCancelled(Exception):  # noqa: N818  a request that was obeyed, not an error
    """The caller asked that a load stop; nothing of it is kept."""


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is: files inserted, of how many, and this shard's rows so far.

    `fraction` goes from 0 to 1 by bytes: every file is read once, and twice if its rows have to be counted first.
    """

    files_done: int = 0
    files_total: int = 0
    rows: int = 0
    fraction: float = 0.0


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What became of a checkpoint: its path, its tables by dim, where it came from, what an operator should know."""

    checkpoint: str
    tables: dict[int, Table]
    origin: Origin
    warnings: tuple[str, ...]


def load_checkpoint(
    path: Path,
    owner: ShardRoute,
    threads: int,
    make_tables: MakeTables,
    on_progress: Callable[[LoadProgress], None],
    cancelled: threading.Event,
    replay_margin_seconds: int = 600,
) -> LoadedCheckpoint:
    """Load the rows of `owner`.

    Rows carry the ordinal of the least time in the markers, `replay_margin_seconds` earlier: PERSIA does not say which
    packets a checkpoint contains, so those from then on are applied again.

    Tables are made once, in their size, before the first row is inserted: it follows from the sizes of files whose
    rows are all alike, and from a pass over the others that counts. Should that mislead, a table grows, gives back
    what is too much, or is made late.

    `make_tables` is called once with the rows of each dim that are expected, and again if rows of another dim turn up;
    what it raises, this raises. `on_progress` is called on the calling thread
    after every file of either pass.

    Raises:
        CheckpointError: the checkpoint is refused (its subclasses say why).
        OrdinalRangeError: its time does not fit into an ordinal.
        NoSpaceError: there is no room for a table that has to grow.
        LoadCancelled: `cancelled` was set; seen between two files.
    """
    checkpoint = open_checkpoint(path, owner)
    origin = persia_origin(checkpoint, replay_margin_seconds)
    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool, table_growth():
        load = _Load(checkpoint, origin.base_sequence, pool, on_progress, cancelled)
        expected = load.expected_rows()
        tables = make_tables(dict(sorted(expected.items())))
        summaries = load.insert(checkpoint.files, tables)
        late = [file for file in checkpoint.files if file not in summaries]
        if late:  # nothing else has rows of a dim that was not expected
            counted = load.count(late)
            tables |= make_tables({dim: counted[dim] for dim in sorted(counted.keys() - tables.keys())})
            summaries |= load.insert(late, tables)
        for table in tables.values():
            table.finish_bulk()
    recovered = recovery_warning(checkpoint, [summaries[file] for file in checkpoint.files])
    infinite = infinite_warning(str(path), tables)
    return LoadedCheckpoint(
        checkpoint=str(path),
        tables=tables,
        origin=origin,
        warnings=(
            *checkpoint.warnings,
            *([recovered] if recovered else []),
            *([infinite] if infinite else []),
        ),
    )


def infinite_warning(checkpoint: str, tables: Mapping[int, Table]) -> str | None:
    """One sentence if tables that PERSIA's `checkpoint` was loaded into have values that are not finite, else None.

    PERSIA serves such rows, and so does satrap, value for value. Of a large table a part is looked at, so that starts
    are not longer for it; tables are ordered by a hash, so that part is as good as any.
    """
    count = looked_at = 0
    for table in tables.values():
        at: int | None = 0
        for _ in range(_PAGES_LOOKED_AT):
            if at is None:
                break
            signs, rows, _, at = table.scan(at, _PAGE)
            looked_at += len(signs)
            if row_kernels.inspect(signs, rows)[1] >= 0:
                count += int((~np.isfinite(rows)).any(axis=1).sum())
    if not count:
        return None
    overflow = " (or are beyond float16, which the tables are of)" if _is_float16(tables) else ""
    return (
        f"{checkpoint}: of {looked_at:,} rows that were looked at, {count:,} have values that are not finite"
        f"{overflow}; they are served as they are"
    )


def _is_float16(tables: Mapping[int, Table]) -> bool:
    return any(table.dtype == "float16" for table in tables.values())


def persia_origin(checkpoint: PersiaCheckpoint, replay_margin_seconds: int) -> Origin:
    """Where the rows of a PERSIA checkpoint begin, and from when on packets are applied again.

    Raises:
        OrdinalRangeError: its time does not fit into an ordinal.
    """
    ordinal = max(0, checkpoint.written_ns // 1_000_000_000 - replay_margin_seconds)
    if ordinal > MAX_ORDINAL:
        raise OrdinalRangeError(
            checkpoint.path,
            f"its markers say {checkpoint.written_ns // 1_000_000_000} seconds since the epoch; ordinals end at "
            f"{MAX_ORDINAL}: the trainer's clock was wrong, correct `datetime` in {MARKER}",
        )
    return Origin(
        format="persia",
        stream=PERSIA_STREAM,
        base_sequence=ordinal,
        base_event_ns=checkpoint.written_ns,
        published_ns=checkpoint.written_ns,
        replay_from=ordinal,
    )


class _Load:
    """The passes of one load over files, and how far they are."""

    def __init__(
        self,
        checkpoint: PersiaCheckpoint,
        ordinal: int,
        pool: ThreadPoolExecutor,
        on_progress: Callable[[LoadProgress], None],
        cancelled: threading.Event,
    ) -> None:
        self._files, self._route = checkpoint.files, checkpoint.route
        self._ordinal = ordinal
        self._pool, self._on_progress, self._cancelled = pool, on_progress, cancelled
        self._progress = LoadProgress(files_total=len(checkpoint.files))
        self._bytes_to_read = sum(file.size for file in checkpoint.files)
        self._bytes_read = 0
        on_progress(self._progress)

    def expected_rows(self) -> dict[int, int]:
        """This shard's rows by dim: estimated where a file's rows are all alike, counted in all other files."""
        estimates = self._each(self._files, estimate_file, lambda file, estimate: None)
        uncertain = [file for file, estimate in zip(self._files, estimates, strict=True) if estimate is None]
        rows = _sum_by_dim(estimate for estimate in estimates if estimate is not None)
        rows = {dim: share_of_rows(count, self._route.replica_size) for dim, count in rows.items()}
        return _sum_by_dim([*rows.items(), *self.count(uncertain).items()])

    def count(self, files: Sequence[CheckpointFile]) -> dict[int, int]:
        """This shard's rows by dim in `files`, by a pass over them."""
        self._bytes_to_read += sum(file.size for file in files)
        summaries = self._each(
            files, lambda file: summarize_file(file, self._route), lambda file, _: self._step(file)
        )
        return _sum_by_dim(item for summary in summaries for item in summary.rows_by_dim.items())

    def insert(
        self, files: Sequence[CheckpointFile], tables: dict[int, Table]
    ) -> dict[CheckpointFile, EmbeddingFileSummary]:
        """Insert this shard's rows; a file is not in the answer if it has rows of a dim without a table."""
        of_dims = list(tables.values())

        def load(file: CheckpointFile) -> EmbeddingFileSummary | None:
            try:
                return load_file(file, of_dims, self._route, ordinal=self._ordinal)
            except MissingDimError:
                return None

        def done(file: CheckpointFile, summary: EmbeddingFileSummary | None) -> None:
            if summary is None:
                self._bytes_to_read += file.size
                self._step(file)
            else:
                self._step(file, files=1, rows=sum(summary.rows_by_dim.values()))

        summaries = self._each(files, load, done)
        return {file: summary for file, summary in zip(files, summaries, strict=True) if summary is not None}

    def _step(self, file: CheckpointFile, *, files: int = 0, rows: int = 0) -> None:
        self._bytes_read += file.size
        before = self._progress
        self._progress = replace(
            before,
            files_done=before.files_done + files,
            rows=before.rows + rows,
            fraction=max(before.fraction, self._bytes_read / max(self._bytes_to_read, 1)),
        )
        self._on_progress(self._progress)

    def _each(
        self,
        files: Sequence[CheckpointFile],
        work: Callable[[CheckpointFile], T],
        done: Callable[[CheckpointFile, T], None],
    ) -> list[T]:
        """Run `work` on every file, `done` on this thread as each ends; results are in the order of the files."""

        def guarded(file: CheckpointFile) -> T:
            if self._cancelled.is_set():
                raise LoadCancelled
            return work(file)

        futures: dict[Future[T], CheckpointFile] = {self._pool.submit(guarded, file): file for file in files}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        finally:
            for future in futures:
                future.cancel()  # after a failure the rest is not worth reading
        return [future.result() for future in futures]


def _sum_by_dim(counts: Iterable[tuple[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for dim, rows in counts:
        if rows:
            total[dim] = total.get(dim, 0) + rows
    return total


def share_of_rows(rows: int, replica_size: int) -> int:
    """The rows that one of so many shards has: signs are spread by a hash, and four standard deviations are added."""
    if replica_size == 1:
        return rows
    expected = rows / replica_size
    return min(rows, math.ceil(expected + 4 * math.sqrt(expected)))


@contextmanager
def table_growth() -> Iterator[None]:
    """A table that cannot grow is this error of satrap's."""
    try:
        yield
    except TableSpaceError as error:
        raise NoSpaceError(str(error)) from error
