"""Messages of an Arrow IPC stream, as far as a batch needs them: pure bytes, every offset checked.

    stream    message*, then nothing or ff ff ff ff 00 00 00 00
    message   ff ff ff ff | i32 n | n bytes: a flatbuffer, `Message` | its body, as long as the flatbuffer says

A flatbuffer's table begins with the distance back to its vtable, which has a 16-bit offset into the table for each
field in order (0: absent), after two that give its own and the table's sizes. A reference is the distance forward.
"""

import struct
from typing import NamedTuple

import numpy as np

from satrap.batch.parts import Bytes
from satrap.errors import BatchDecodeError

__all__ = ["CONTINUATION", "Message", "RecordBatch", "Table", "read_message"]

CONTINUATION = b"\xff\xff\xff\xff"
_PREFIX_BYTES = 8

_KINDS = {1: "schema", 2: "dictionary", 3: "record batch", 4: "tensor", 5: "sparse tensor"}

_U8 = struct.Struct("<B")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")
_I64 = struct.Struct("<q")


class Table:
    """A table of a flatbuffer. Reading beyond the buffer raises `struct.error`, absent fields are None or 0."""

    __slots__ = ("_at", "_data", "_vtable", "_vtable_bytes")

    def __init__(self, data: bytes, at: int) -> None:
        """The table at that offset."""
        vtable = at - int(_I32.unpack_from(data, at)[0])
        if vtable < 0:
            raise struct.error("a vtable before the buffer")
        self._data, self._at, self._vtable = data, at, vtable
        self._vtable_bytes = _U16.unpack_from(data, vtable)[0]

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """The outermost table."""
        return cls(data, _U32.unpack_from(data)[0])

    def _place(self, field: int) -> int | None:
        slot = 4 + 2 * field
        if slot + 2 > self._vtable_bytes:
            return None
        offset = _U16.unpack_from(self._data, self._vtable + slot)[0]
        return self._at + offset if offset else None

    def has(self, field: int) -> bool:
        """Whether the field is there."""
        return self._place(field) is not None

    def _number(self, field: int, form: struct.Struct) -> int:
        place = self._place(field)
        return 0 if place is None else int(form.unpack_from(self._data, place)[0])

    def u8(self, field: int) -> int:
        """A byte."""
        return self._number(field, _U8)

    def u16(self, field: int) -> int:
        """16 bits, unsigned."""
        return self._number(field, _U16)

    def i32(self, field: int) -> int:
        """32 bits, signed."""
        return self._number(field, _I32)

    def i64(self, field: int) -> int:
        """64 bits, signed."""
        return self._number(field, _I64)

    def table(self, field: int) -> "Table | None":
        """Another table."""
        place = self._place(field)
        return None if place is None else Table(self._data, place + _U32.unpack_from(self._data, place)[0])

    def tables(self, field: int) -> "list[Table]":
        """A vector of tables."""
        start, count = self._vector(field, 4)
        places = range(start, start + 4 * count, 4)
        return [Table(self._data, at + _U32.unpack_from(self._data, at)[0]) for at in places]

    def count(self, field: int) -> int:
        """How many tables a vector has."""
        return self._vector(field, 4)[1]

    def text(self, field: int) -> bytes:
        """A string or a vector of bytes."""
        start, count = self._vector(field, 1)
        return self._data[start : start + count]

    def pairs(self, field: int) -> list[list[int]]:
        """A vector of structs of two 64-bit numbers."""
        start, count = self._vector(field, 16)
        pairs: list[list[int]] = np.frombuffer(self._data, "<i8", 2 * count, start).reshape(-1, 2).tolist()
        return pairs

    def _vector(self, field: int, item: int) -> tuple[int, int]:
        """Where a vector's items begin, and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        place += _U32.unpack_from(self._data, place)[0]
        count = _U32.unpack_from(self._data, place)[0]
        if place + 4 + item * count > len(self._data):
            raise struct.error("a vector beyond the buffer")
        return place + 4, count


class Message(NamedTuple):
    """One message: its flatbuffer and header, and where its body is in the stream."""

    kind: str
    metadata: bytes
    header: Table
    body: int
    end: int


class RecordBatch(NamedTuple):
    """A record batch's header: rows, `[length, nulls]` of each array, and `[offset, length]` of each buffer."""

    rows: int
    nodes: list[list[int]]
    buffers: list[list[int]]

    @classmethod
    def of(cls, header: Table) -> "RecordBatch":
        """Read it.

        Raises:
            BatchDecodeError: its body is compressed.
            struct.error: it is broken.
        """
        if header.has(3):
            raise BatchDecodeError("its body is compressed: write it without compression")
        return cls(header.i64(0), header.pairs(1), header.pairs(2))


def read_message(data: Bytes, start: int) -> Message | None:
    """The message at that offset; None at the end of the stream.

    Raises:
        BatchDecodeError: there is none, or it is cut.
    """
    prefix = bytes(data[start : start + _PREFIX_BYTES])
    if not prefix:
        return None
    if not prefix.startswith(CONTINUATION) or len(prefix) < _PREFIX_BYTES:
        raise BatchDecodeError("an Arrow message does not begin here, or is cut", offset=start)
    length = _I32.unpack_from(prefix, 4)[0]
    if length == 0:
        return None
    body = start + _PREFIX_BYTES + length
    if length < 0 or body > len(data):
        raise BatchDecodeError(f"an Arrow message says that its head has {length} bytes", offset=start)
    metadata = bytes(data[start + _PREFIX_BYTES : body])
    try:
        message = Table.root(metadata)
        kind = _KINDS.get(message.u8(1), "message of another kind")
        header, size = message.table(2), message.i64(3)
    except struct.error as error:
        raise BatchDecodeError(f"an Arrow message's head is broken: {error}", offset=start) from error
    if header is None or not 0 <= size <= len(data) - body:
        raise BatchDecodeError(
            f"an Arrow message has no header, or its body of {size} bytes is cut", offset=start
        )
    return Message(kind, metadata, header, body, body + size)
