"""What a schema says about the arrays of a record batch. pyarrow, which reads it, is imported at the first one.

Clients send the same schema again and again, so those seen last are remembered.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from satrap.batch.arrow_message import CONTINUATION, Table
from satrap.batch.arrow_schema import ArrowFacts, Role
from satrap.errors import BatchDecodeError

__all__ = ["Column", "Layout", "layout_of"]

_REMEMBERED = 64
_REMEMBERED_BYTES = 64 * 1024
"""Longer schemas are read anew each time: nobody can fill the memory with them."""

_BIG_ENDIAN = 1


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
    import pyarrow as pa

    try:
        schema = pa.ipc.read_schema(
            pa.py_buffer(CONTINUATION + len(metadata).to_bytes(4, "little") + metadata)
        )
        names = [field.name for field in schema]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BatchDecodeError(f"its schema is broken: {error}", offset=0) from error
    header = Table.root(metadata).table(2)
    if header is None or header.u16(0) == _BIG_ENDIAN:
        raise BatchDecodeError("it was written on a machine whose numbers are big-endian")
    facts = ArrowFacts.parse(schema.metadata or {}, len(names))
    columns = []
    for place, (name, field) in enumerate(zip(names, schema, strict=True)):
        role = facts.roles[place] if facts.roles is not None else _default_role(pa, field.type)
        columns.append(
            _id_column(pa, name, field.type) if role == "id" else _tensor(pa, name, role, field.type)
        )
    return Layout(tuple(columns), facts)


_remembered = functools.lru_cache(_REMEMBERED)(_understand)


def _default_role(pa: Any, kind: Any) -> Role:
    return "id" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else "dense"


def _id_column(pa: Any, name: str, kind: Any) -> Column:
    dtype = np.dtype(np.uint64)
    if kind == pa.uint64():
        return Column(name, "id", dtype)
    if pa.types.is_list(kind) and kind.value_type == pa.uint64():
        return Column(name, "id", dtype, offsets="<i4")
    if pa.types.is_large_list(kind) and kind.value_type == pa.uint64():
        return Column(name, "id", dtype, offsets="<i8")
    raise BatchDecodeError(f"ids are list<uint64> or uint64, not {kind}", feature=name)


def _tensor(pa: Any, name: str, role: Role, kind: Any) -> Column:
    shape: list[int] = []
    item = kind
    while pa.types.is_fixed_size_list(item):
        shape.append(item.list_size)
        item = item.value_type
    if not (pa.types.is_integer(item) or pa.types.is_floating(item) or pa.types.is_boolean(item)):
        raise BatchDecodeError(
            f"a {role} column is numbers, or a fixed_size_list of numbers, not {kind}", feature=name
        )
    return Column(name, role, np.dtype(item.to_pandas_dtype()), tuple(shape))
