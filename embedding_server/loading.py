"""From a checkpoint directory to a generation of tables, by several threads, with progress."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from satrap._core.table import Table
from satrap.embedding_server.tables import RowDType
from satrap.formats.persia_checkpoint import (
    CheckpointFile,
    PersiaCheckpoint,
    ShardRoute,
    load_file,
    open_checkpoint,
    recovery_warning,
    summarize_file,
)

__all__ = ["LoadCancelled", "LoadProgress", "LoadedCheckpoint", "load_checkpoint"]

T = TypeVar("T")


class LoadCancelled(Exception):  # noqa: N818  a request that was obeyed, not an error
    """The caller asked that a load stop; nothing of it is kept."""


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is: files inserted, of how many, and this shard's rows so far.

    `fraction` goes from 0 to 1 over both passes, by bytes.
    """

    files_done: int = 0
    files_total: int = 0
    rows: int = 0
    fraction: float = 0.0


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What became of a checkpoint: its path, its tables by dim, and what an operator should know."""

    checkpoint: str
    tables: dict[int, Table]
    warnings: tuple[str, ...]


def load_checkpoint(
    path: Path,
    owner: ShardRoute,
    row_dtype: RowDType,
    threads: int,
    add_table: Callable[[int, int], Table],
    on_progress: Callable[[LoadProgress], None],
    cancelled: threading.Event,
) -> LoadedCheckpoint:
    """Load the rows of `owner`: a first pass over the files counts, so that each table is made once in its size.

    `add_table(dim, rows)` makes a table; what it raises, this raises. `on_progress` is called on the calling thread
    after every file of either pass.

    Raises:
        CheckpointError: the checkpoint is refused (its subclasses say why).
        LoadCancelled: `cancelled` was set; seen between two files.
    """
    checkpoint = open_checkpoint(path, owner)
    total_bytes = max(2 * sum(file.size for file in checkpoint.files), 1)
    progress = LoadProgress(files_total=len(checkpoint.files))
    on_progress(progress)
    read_bytes = 0

    def step(file: CheckpointFile, *, files: int = 0, rows: int = 0) -> None:
        nonlocal progress, read_bytes
        read_bytes += file.size
        progress = LoadProgress(
            progress.files_done + files, progress.files_total, progress.rows + rows, read_bytes / total_bytes
        )
        on_progress(progress)

    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        summaries = _each_file(
            pool,
            checkpoint,
            lambda file: summarize_file(file, checkpoint.route),
            lambda file, _: step(file),
            cancelled,
        )
        rows_by_dim: dict[int, int] = {}
        for summary in summaries:
            for dim, rows in summary.rows_by_dim.items():
                rows_by_dim[dim] = rows_by_dim.get(dim, 0) + rows
        tables = {dim: add_table(dim, rows_by_dim[dim]) for dim in sorted(rows_by_dim)}
        _each_file(
            pool,
            checkpoint,
            lambda file: load_file(file, list(tables.values()), checkpoint.route),
            lambda file, rows: step(file, files=1, rows=rows),
            cancelled,
        )
    recovered = recovery_warning(checkpoint, summaries)
    return LoadedCheckpoint(
        tables=tables,
        checkpoint=str(path),
        warnings=(*checkpoint.warnings, *([recovered] if recovered else [])),
    )


def _each_file(
    pool: ThreadPoolExecutor,
    checkpoint: PersiaCheckpoint,
    work: Callable[[CheckpointFile], T],
    done: Callable[[CheckpointFile, T], None],
    cancelled: threading.Event,
) -> list[T]:
    """Run `work` on every file, `done` on this thread as each ends; results are in the order of the files."""

    def guarded(file: CheckpointFile) -> T:
        if cancelled.is_set():
            raise LoadCancelled
        return work(file)

    futures: dict[Future[T], CheckpointFile] = {pool.submit(guarded, file): file for file in checkpoint.files}
    try:
        for future in as_completed(futures):
            done(futures[future], future.result())
    finally:
        for future in futures:
            future.cancel()  # after a failure the rest is not worth reading
    return [future.result() for future in futures]
