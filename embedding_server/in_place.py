"""A checkpoint put into the tables in use, row by row, where there is no memory for two of them.

Afterwards the tables hold the checkpoint's rows and nothing else, whatever they held before and whatever ordinals that
had: it is the checkpoint's word against theirs. While it runs lookups find old rows and new ones. What was begun and
not ended is neither one state nor the other: the generation says so in its control file before the first row is
changed (`GenerationInfo.replacing`), gets no packets, and is not taken over by the next start, which loads anew.
"""

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from satrap._core.table import Table
from satrap.embedding_server.checkpoints import OpenedCheckpoint, Page
from satrap.embedding_server.loading import LoadCancelled, LoadProgress, table_growth
from satrap.embedding_server.target import Target

__all__ = ["clear_records", "replace_rows", "verify"]

_PAGE = 65_536
_ABSENT, _PRESENT = 0, 1


def verify(
    opened: OpenedCheckpoint,
    on_progress: Callable[[LoadProgress], None],
    cancelled: threading.Event,
) -> dict[int, int]:
    """Read all of a checkpoint, and count this server's rows by dim: nothing is changed for one that cannot be used.

    Raises:
        CheckpointError, UpdateError, StorageError: as `OpenedCheckpoint.pages`.
        LoadCancelled: `cancelled` was set.
    """
    rows: dict[int, int] = {}
    read = 0
    for dim, signs, _ in _until(opened.pages(), cancelled):
        rows[dim] = rows.get(dim, 0) + len(signs)
        read += len(signs)
        on_progress(LoadProgress(rows=read))
    return rows


def replace_rows(
    target: Target,
    opened: OpenedCheckpoint,
    expected: int,
    on_progress: Callable[[LoadProgress], None],
    cancelled: threading.Event,
) -> None:
    """Make the tables hold what the checkpoint holds. `expected` rows are what `verify` counted.

    Three passes: rows that carry the checkpoint's own ordinal already get another one; the checkpoint's rows are
    written with it; whatever does not carry it then was not in the checkpoint, and goes.

    Raises:
        CheckpointError, UpdateError, StorageError: as `OpenedCheckpoint.pages`; the tables are half changed.
        NoSpaceError, TableFolderError, LoadCancelled: the same.
    """
    ordinal = opened.origin.base_sequence
    other = ordinal - 1 if ordinal else 1
    with table_growth():
        for table in target.tables.values():
            for signs, rows, ordinals in _rows(table):
                same = ordinals == ordinal
                _put(table, signs[same], rows[same], other)
            _check(cancelled)
        written = 0
        for dim, signs, rows in _until(opened.pages(), cancelled):
            table = target.table_for(dim)
            _put(table, signs, rows, ordinal)
            written += len(signs)
            on_progress(LoadProgress(rows=written, fraction=min(1.0, written / max(expected, 1))))
        for table in target.tables.values():
            for signs, _, ordinals in _rows(table):
                unseen = ordinals != ordinal
                _forget(table, signs[unseen])
            # A tombstone of a later packet would keep out the rows of packets that are applied again.
            for signs in _tombstones(table):
                _forget(table, signs)
            _check(cancelled)


def clear_records(target: Target) -> None:
    """Remove what lies beside the tables: old rows to go back to, files that were applied. It is of the rows before."""
    tables = {f"{dim}-{target.info.row_dtype}" for dim in target.tables}
    for entry in target.folder.iterdir():
        if entry.name == "control" or entry.name in tables:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _put(table: Table, signs: NDArray[np.uint64], rows: NDArray[np.floating], ordinal: int) -> None:
    if not len(signs):
        return
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, as it does in any load
        own = np.ascontiguousarray(rows, table.dtype)
    count = len(signs)
    table.restore(
        np.ascontiguousarray(signs),
        np.full(count, _PRESENT, np.uint8),
        np.full(count, ordinal, np.uint32),
        own,
    )


def _forget(table: Table, signs: NDArray[np.uint64]) -> None:
    if not len(signs):
        return
    count = len(signs)
    nothing = np.zeros((count, table.dim), table.dtype)
    table.restore(
        np.ascontiguousarray(signs), np.full(count, _ABSENT, np.uint8), np.zeros(count, np.uint32), nothing
    )


def _rows(table: Table) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.floating], NDArray[np.uint32]]]:
    at: int | None = 0
    while at is not None:
        signs, rows, ordinals, at = table.scan(at, _PAGE)
        yield signs, rows, ordinals


def _tombstones(table: Table) -> Iterator[NDArray[np.uint64]]:
    at: int | None = 0
    while at is not None:
        signs, ordinals, at = table.tombstones(at, _PAGE)
        yield signs[ordinals != 0]


def _until(pages: Iterable[Page], cancelled: threading.Event) -> Iterator[Page]:
    for page in pages:
        _check(cancelled)
        yield page


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise LoadCancelled
