"""The folder of snapshots: one file for each change of what is registered, the newest counts.

Files are written by one thread, in order, under a hidden name first, so that a file that is there is whole.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import javaproperties

from satrap.errors import ConfigError
from satrap.serving.snapshot import (
    KEY,
    Snapshot,
    SnapshotKind,
    file_name,
    parse_snapshot,
    render_snapshot,
)
from satrap.serving.ts_properties import newest_snapshot, snapshots_in

__all__ = ["KEPT", "SnapshotFiles"]

log = logging.getLogger("satrap.serving")

KEPT = 100
"""Older files are removed; TorchServe keeps all."""


class SnapshotFiles:
    """Writes and reads the snapshots of one server."""

    def __init__(
        self, folder: Path | None, properties: Mapping[str, str] | None = None, *, is_written: bool = True
    ) -> None:
        """Make nothing; without a folder nothing is ever read or written. `properties` stand in every file."""
        self._folder, self._properties, self._is_written = folder, dict(properties or {}), is_written
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._warned = False

    def newest(self) -> tuple[Path, Snapshot] | None:
        """The snapshot that was written last, and its file; None: there is none.

        Raises:
            ConfigError: the file cannot be read, or is no snapshot.
        """
        path = newest_snapshot(self._folder) if self._folder else None
        if path is None:
            return None
        try:
            properties = javaproperties.loads(path.read_text(encoding="latin-1"))
        except (OSError, ValueError) as error:
            raise ConfigError(path, "", 0, f"cannot be read: {error}") from error
        return path, parse_snapshot(properties.get(KEY, "{}"), path)

    async def save(self, snapshot: Snapshot, kind: SnapshotKind) -> None:
        """Write a file; that it cannot be written is said once, and no error. After `close` nothing is written."""
        if self._folder is None or not self._is_written:
            return
        try:
            write = self._writer.submit(self._write, self._folder, snapshot, kind)
        except RuntimeError:  # closed; the last one written is that of the shutdown
            return
        await asyncio.shield(asyncio.wrap_future(write))

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown()

    def _write(self, folder: Path, snapshot: Snapshot, kind: SnapshotKind) -> None:
        try:
            moment = _next_moment(folder)
            name = file_name(kind, moment)
            hidden = folder / f".{name}"
            folder.mkdir(parents=True, exist_ok=True)
            hidden.write_text(render_snapshot(snapshot, name, moment, self._properties), encoding="ascii")
            hidden.replace(folder / name)
            for old in snapshots_in(folder)[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            if not self._warned:
                log.warning(
                    "what is registered cannot be written down in %s (%s): a restart will not restore it. "
                    "serving.snapshot_directory names another folder, --ncs turns snapshots off",
                    *(folder, error.strerror or error),
                )
            self._warned = True


def _next_moment(folder: Path) -> datetime:
    """Now, in local time as TorchServe's names are; later than the newest file even if the clock was put back."""
    now = datetime.now(UTC).astimezone()
    newest = newest_snapshot(folder)
    if newest is None:
        return now
    try:
        last = datetime.strptime(newest.name[:17], "%Y%m%d%H%M%S%f").replace(tzinfo=now.tzinfo)
    except ValueError:  # digits that are no date
        return now
    return max(now, last + timedelta(milliseconds=1))
