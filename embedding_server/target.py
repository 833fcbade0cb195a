"""What updates are applied to: a generation's tables, made when a dim first appears, and its watermark.

There is one for the tables in use, and one for those that are being loaded beside them.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from satrap._core.table import MAX_INFO_BYTES, Table, TableGeneration
from satrap.embedding_server.origin import Origin, OriginFormat
from satrap.embedding_server.table_errors import table_errors
from satrap.embedding_server.takeover import GenerationInfo

__all__ = ["Target"]


class Target:
    """One generation, as its writer sees it.

    Threads: reads are free; whatever changes rows, tables, origin or watermark is done by one thread at a time
    (`ShardState.writing` for the tables in use).
    """

    def __init__(
        self,
        store: TableGeneration,
        info: GenerationInfo,
        on_change: Callable[["Target"], None] = lambda target: None,
    ) -> None:
        """`on_change` is called after a table was added or the origin was changed."""
        self.store = store
        self._info = info
        self._tables: Mapping[int, Table] = store.tables
        self.on_change = on_change
        self._adding = threading.Lock()

    @property
    def folder(self) -> Path:
        """The generation's folder; what lies in it beside the tables goes when the generation goes."""
        return Path(self.store.folder)

    @property
    def info(self) -> GenerationInfo:
        """What the generation says of itself."""
        return self._info

    @property
    def origin(self) -> Origin:
        """Where its rows began."""
        return self._info.origin

    @property
    def tables(self) -> Mapping[int, Table]:
        """The tables there are, by dim: not changed once it is handed out."""
        return self._tables

    def table_for(self, dim: int) -> Table:
        """The table of `dim`, which is made, empty, if there is none; lookups find it from then on.

        Raises:
            NoSpaceError, TableFolderError: it cannot be made.
            ValueError: no table can have that dim.
        """
        return self._tables[dim] if dim in self._tables else self.add_table(dim, 0, 1)

    def add_table(self, dim: int, rows: int, threads: int) -> Table:
        """A table for `rows` rows, which `threads` threads allocate; the one that is there if there is one.

        Raises:
            NoSpaceError, TableFolderError: it cannot be made.
            ValueError: no table can have that dim.
        """
        with self._adding:
            if dim in self._tables:
                return self._tables[dim]
            with table_errors(self.folder):
                table = self.store.add_table(dim, self._info.row_dtype, rows, threads)
            self._tables = {**self._tables, dim: table}
        self.on_change(self)
        return table

    def adopt(self, stream_format: OriginFormat, stream: str) -> None:
        """From now on the rows are of that stream; in the control file before this returns.

        A generation that began with nothing adopts the stream of its first packet this way, before that one's rows.

        Raises:
            TableFolderError: the control file cannot be written.
        """
        origin = replace(self._info.origin, format=stream_format, stream=stream)
        self.tell(replace(self._info, origin=origin))

    def tell(self, info: GenerationInfo) -> None:
        """Let the generation say `info` of itself.

        Raises:
            TableFolderError: the control file cannot be written.
        """
        with table_errors(self.folder):
            self.store.info = info.to_bytes(MAX_INFO_BYTES)
        self._info = info
        self.on_change(self)
