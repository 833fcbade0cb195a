"""What a schema says about the arrays of a record batch.

Clients send the same schema again and again, so those seen last are remembered.

    Schema     endianness, fields, metadata [{key, value}]
    Field      name, nullable, kind of type, type, dictionary, children
    types      Int: bits, is_signed. FloatingPoint: precision. FixedSizeList: size. Others have nothing that matters
"""

import functools
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from satrap.batch.arrow_message import Table
from satrap.batch.arrow_schema import ArrowFacts, Role
from satrap.batch.parts import MAX_SAMPLES
from satrap.errors import BatchDecodeError

__all__ = ["MAX_COLUMNS", "Column", "Layout", "layout_of"]

MAX_COLUMNS = 10_000
"""More than any batch has. Parts of a flatbuffer may be shared, so its size alone bounds neither time nor memory."""

_MAX_TEXT_SHARE = 16
"""All names and values together may be so many times as long as the flatbuffer that they are in."""

_MAX_DIMENSIONS = 32
_ADDRESSES = 2**63

_REMEMBERED = 64
_REMEMBERED_BYTES = 64 * 1024
"""Longer schemas are read anew each time: nobody can fill the memory with them."""

_BIG_ENDIAN = 1
_INT, _FLOAT, _BOOL, _LIST, _FIXED_SIZE_LIST, _LARGE_LIST = 2, 3, 6, 12, 16, 21
_KINDS = dict(
    enumerate(
        (
            *("nothing", "null", "int", "float", "binary", "utf8", "bool", "decimal", "date", "time"),
            *("timestamp", "interval", "list", "struct", "union", "fixed_size_binary", "fixed_size_list"),
            *("map", "duration", "large_binary", "large_utf8", "large_list", "run_end_encoded"),
            *("binary_view", "utf8_view", "list_view", "large_list_view"),
        )
    )
)
_FLOATS = {0: "float16", 1: "float32", 2: "float64"}
_INTS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Column:
    """One column. `offsets`: of a list of any length, 32 or 64 bits wide; `shape`: what follows the samples."""

    name: str
    role: Role
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    offsets: Literal["<i4", "<i8"] | None = None


@dataclass(frozen=True)
class Layout:
    """A schema, understood."""

    columns: tuple[Column, ...]
    facts: ArrowFacts


def layout_of(metadata: bytes) -> Layout:
    """Understand the flatbuffer of a schema's message.

    Raises:
        BatchDecodeError: it is broken, or not a batch's; it names the column.
    """
    return _remembered(metadata) if len(metadata) <= _REMEMBERED_BYTES else _understand(metadata)


def _understand(metadata: bytes) -> Layout:
    try:
        schema = Table.root(metadata).table(2)
        if schema is None:
            raise BatchDecodeError("its schema is empty", offset=0)
        return _layout(schema, _MAX_TEXT_SHARE * len(metadata))
    except struct.error as error:
        raise BatchDecodeError(f"its schema is broken: {error}", offset=0) from error


_remembered = functools.lru_cache(_REMEMBERED)(_understand)


def _layout(schema: Table, max_text: int) -> Layout:
    if schema.u16(0) == _BIG_ENDIAN:
        raise BatchDecodeError("it was written on a machine whose numbers are big-endian")
    if max(schema.count(1), schema.count(2)) > MAX_COLUMNS:
        raise BatchDecodeError(f"its schema has more than {MAX_COLUMNS:,} columns or keys")
    fields = schema.tables(1)
    texts = _Texts(max_text)
    facts = ArrowFacts.parse({texts.of(pair, 0): texts.of(pair, 1) for pair in schema.tables(2)}, len(fields))
    columns = []
    for place, field in enumerate(fields):
        role = facts.roles[place] if facts.roles is not None else _default_role(field)
        columns.append(_column(texts.name_of(field), role, field))
    return Layout(tuple(columns), facts)


class _Texts:
    """Reads texts, as many as fit."""

    def __init__(self, most: int) -> None:
        self._left = most

    def of(self, table: Table, field: int) -> bytes:
        text = table.text(field)
        self._left -= len(text)
        if self._left < 0:
            raise BatchDecodeError("its schema has longer texts than bytes")
        return text

    def name_of(self, field: Table) -> str:
        name = self.of(field, 0)
        try:
            return name.decode()
        except UnicodeDecodeError as error:
            raise BatchDecodeError(f"the name of a column is not UTF-8: {name[:80]!r}") from error


def _default_role(field: Table) -> Role:
    return "id" if field.u8(2) in (_LIST, _LARGE_LIST) else "dense"


def _column(name: str, role: Role, field: Table) -> Column:
    column = _ids(name, field) if role == "id" else _tensor(name, role, field)
    if column is not None:
        return column
    wanted = (
        "ids are list<uint64> or uint64"
        if role == "id"
        else f"a {role} column is numbers, or a fixed_size_list of numbers"
    )
    raise BatchDecodeError(f"{wanted}, not {_type_name(field)}", feature=name)


def _ids(name: str, field: Table) -> Column | None:
    kind = field.u8(2)
    items = field if kind == _INT else _only_child(field) if kind in (_LIST, _LARGE_LIST) else None
    if items is None or _is_dictionary(field) or _number(items) != np.uint64:
        return None
    offsets: dict[int, Literal["<i4", "<i8"]] = {_LIST: "<i4", _LARGE_LIST: "<i8"}
    return Column(name, "id", np.dtype(np.uint64), offsets=offsets.get(kind))


def _tensor(name: str, role: Role, field: Table) -> Column | None:
    shape: list[int] = []
    items: Table | None = field
    while items is not None and items.u8(2) == _FIXED_SIZE_LIST and len(shape) < _MAX_DIMENSIONS:
        size = items.table(3)
        shape.append(size.i32(0) if size is not None else 0)
        items = None if _is_dictionary(items) or shape[-1] < 0 else _only_child(items)
    dtype = None if items is None else _number(items)
    if dtype is None:
        return None
    # As numpy counts, for which an axis of no items does not make the others free.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize * MAX_SAMPLES >= _ADDRESSES:
        raise BatchDecodeError(f"no array has samples of the shape {shape}", feature=name)
    return Column(name, role, dtype, tuple(shape))


def _only_child(field: Table) -> Table | None:
    return field.tables(5)[0] if field.count(5) == 1 else None


def _is_dictionary(field: Table) -> bool:
    return field.has(4)


def _number(field: Table) -> np.dtype[Any] | None:
    kind, details = field.u8(2), field.table(3)
    if _is_dictionary(field) or details is None:
        return None
    if kind == _INT and details.i32(0) in _INTS:
        return np.dtype(f"<{'i' if details.u8(1) else 'u'}{details.i32(0) // 8}")
    if kind == _FLOAT and details.u16(0) in _FLOATS:
        return np.dtype(_FLOATS[details.u16(0)])
    return np.dtype(np.bool_) if kind == _BOOL else None


def _type_name(field: Table, depth: int = 0) -> str:
    """Arrow's word for a type, as far as an error needs it."""
    number = _number(field)
    if number is not None:
        return str(number)
    name = "dictionary" if _is_dictionary(field) else _KINDS.get(field.u8(2), "an unknown type")
    child = _only_child(field)
    return name if child is None or depth > 2 else f"{name}<{_type_name(child, depth + 1)}>"
