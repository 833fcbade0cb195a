"""A generation while it is loaded, and the end of one that nobody needs any more."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from satrap._core.table import Table, TableGeneration
from satrap.embedding_server.room import require_room
from satrap.embedding_server.table_directory import TableDirectory
from satrap.embedding_server.table_errors import table_errors
from satrap.embedding_server.takeover import GenerationInfo
from satrap.embedding_server.target import Target
from satrap.errors import SatrapError

__all__ = ["Building", "remove_generation"]

log = logging.getLogger(__name__)


class Building:
    """A generation that comes to be with its first table: a checkpoint that is refused before leaves no trace."""

    def __init__(
        self, directory: TableDirectory, info: GenerationInfo, threads: int, make_room: Callable[[], None]
    ) -> None:
        """`make_room` is called once, before anything is made."""
        self._directory, self._info, self._threads, self._make_room = directory, info, threads, make_room
        self._target: Target | None = None

    def make_tables(self, rows: Mapping[int, int]) -> dict[int, Table]:
        """A table of each dim for so many rows.

        Raises:
            NoSpaceError, TableFolderError: they cannot be made; none is, unless room vanishes meanwhile.
        """
        target = self._begun(rows)
        return {dim: target.add_table(dim, count, self._threads) for dim, count in rows.items()}

    def finish(self, info: GenerationInfo) -> Target:
        """The generation, whole from now on but not served, which says `info`."""
        target = self._begun({})
        target.store.set_applied(info.origin.base_sequence, info.origin.base_event_ns)
        target.tell(info)
        return target

    def give_up(self) -> None:
        """Remove what there is of it."""
        if self._target is not None:
            remove_generation(self._target.store)

    def _begun(self, rows: Mapping[int, int]) -> Target:
        if self._target is None:
            self._make_room()
        require_room(self._info.checkpoint, rows, self._info.row_dtype, self._directory.folder)
        if self._target is None:
            self._target = Target(self._directory.new_generation(self._info), self._info)
        return self._target


def remove_generation(store: TableGeneration) -> None:
    """Remove a generation that nobody is to find any more; what cannot be removed now, the next start removes."""
    try:
        with table_errors(Path(store.folder)):
            store.remove()
    except SatrapError as error:
        log.warning("%s", error)
