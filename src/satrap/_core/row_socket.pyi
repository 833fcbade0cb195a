"""Rows for processes of the same machine."""

from collections.abc import Sequence

import satrap._core.table


class RowSocketError(Exception):
    pass

class RowServer:
    """
    Answers lookups of this machine's processes from the tables published last.

    Native threads serve; the GIL is not needed for it.
    """

    def __init__(self, instance: bytes, replica_index: int, replica_size: int, dtype: str) -> None:
        """`instance`: 16 random bytes, which name the socket. Nothing starts."""

    def start(self) -> None:
        """Listen. Raises RowSocketError."""

    def publish(self, tables: Sequence[satrap._core.table.Table]) -> None:
        """Answer from these, one for each dim, from the next request on."""

    def stop(self) -> None:
        """Close every connection and wait for the threads."""

    @property
    def counters(self) -> tuple[int, int, int]:
        """Signs asked, absent signs, signs of another dim."""

class RowConnection:
    """A connection to one shard's row socket. One thread at a time."""

    def __init__(self, instance: bytes, replica_index: int, replica_size: int, timeout_seconds: float) -> None:
        """
        Connect, and check that the server is the one that is meant. Raises RowSocketError.
        """

    def send(self, groups: Sequence[tuple[int, bytes]], timeout_seconds: float) -> None:
        """
        Ask for the rows of [(dim, signs as packed little-endian u64)]. No other question may be open.

        Raises RowSocketError; then the connection is closed.
        """

    def receive(self, timeout_seconds: float) -> tuple[list[tuple[int, bytes]], int, int]:
        """
        The answer: [(dtype, rows)] in the order of the groups, dtype being 1 (float32) or 2 (float16), absent
        signs, signs of another dim. Raises RowSocketError; then the connection is closed.
        """

    def close(self) -> None: ...

    @property
    def is_open(self) -> bool: ...
