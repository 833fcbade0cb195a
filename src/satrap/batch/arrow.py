"""Arrow streams as batches: proved consistent, and not copied.

The schema is understood once for many batches; the record batch is three lists of numbers and the arrays
themselves, which are used as they lie. No library of Arrow's takes part: a worker's memory and its first answer do
without.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap.batch.arrow_encoding import encode_arrow
from satrap.batch.arrow_layout import Column, layout_of
from satrap.batch.arrow_message import CONTINUATION, Message, RecordBatch, read_message
from satrap.batch.arrow_schema import ArrowFacts, Role
from satrap.batch.parts import MAX_SAMPLES, Bytes, IdFeature
from satrap.errors import BatchDecodeError

__all__ = ["ArrowBatch", "decode_arrow", "is_arrow"]

_FILE_START = b"ARROW1"
_BITS = np.dtype(np.uint8)
_TOO_MANY_IDS = 2**31
_OFFSET_BYTES = 4

_NamedArray = tuple[str | None, NDArray[Any]]


class ArrowBatch:
    """A batch of an Arrow stream, with the attributes of a decoded PERSIA batch.

    Attributes:
        batch_size: Samples; None in a batch without columns.
        requires_grad: The embeddings are to be trained.
        batch_id: PERSIA's number of the batch, or None.
        meta: The bytes that travel with the batch, or None.
        remote: None: ids are always in the batch.
    """

    __slots__ = ("_dense", "_features", "_labels", "batch_id", "batch_size", "meta", "requires_grad")

    remote = None

    def __init__(
        self,
        features: list[IdFeature],
        dense: list[_NamedArray],
        labels: list[_NamedArray],
        batch_size: int | None,
        facts: ArrowFacts,
    ) -> None:
        """Keep the parts, which are consistent."""
        self._features, self._dense, self._labels = features, dense, labels
        self.batch_size = batch_size
        self.requires_grad, self.batch_id, self.meta = facts.requires_grad, facts.batch_id, facts.meta

    @property
    def feature_names(self) -> list[str]:
        """Names of the id features, in order."""
        return [feature.name for feature in self._features]

    @property
    def ids_kind(self) -> str:
        """`none` or `features`."""
        return "features" if self._features else "none"

    def id_feature(self, position: int) -> tuple[str, NDArray[np.uint64], NDArray[np.uint32]]:
        """Name, values u64[nnz] and offsets u32[samples + 1] of one id feature: views into the stream."""
        feature = self._features[position]
        return feature.name, feature.values, feature.offsets

    def id_features(self) -> list[tuple[str, NDArray[np.uint64], NDArray[np.uint32]]]:
        """All of them, as a lookup plan takes them."""
        return [(feature.name, feature.values, feature.offsets) for feature in self._features]

    def non_id_features(self) -> list[_NamedArray]:
        """`(name or None, array [samples, ...])` of the dense features; views, but for booleans."""
        return self._dense

    def labels(self) -> list[_NamedArray]:
        """The same for the labels."""
        return self._labels

    def ids_only(self) -> bytes:
        """A stream of the same ids alone."""
        return encode_arrow(self._features, (), (), requires_grad=self.requires_grad)


def is_arrow(data: Bytes) -> bool:
    """Whether these bytes are an Arrow stream, or mean to be.

    No PERSIA batch begins as either does: it would have more tensors than bytes.
    """
    start = bytes(data[: len(_FILE_START)])
    return start.startswith(CONTINUATION) or start == _FILE_START


def decode_arrow(data: Bytes) -> ArrowBatch:
    """Decode an Arrow stream of one record batch. Arrays are views into `data`, copies where it lies unaligned.

    Raises:
        BatchDecodeError: it is no such stream, or its columns are not those of a batch; it names the column.
    """
    if bytes(data[: len(_FILE_START)]) == _FILE_START:
        raise BatchDecodeError(
            "it is an Arrow file; write an Arrow stream instead (pyarrow.ipc.new_stream)", offset=0
        )
    schema = _message(data, 0, "schema")
    layout = layout_of(schema.metadata)
    message = _message(data, schema.end, "record batch")
    extra = read_message(data, message.end)
    if extra is not None:
        raise BatchDecodeError(
            f"it goes on with a {extra.kind} after its first record batch: send one batch only",
            offset=message.end,
        )
    try:
        batch = RecordBatch.of(message.header)
    except struct.error as error:
        raise BatchDecodeError(f"its record batch's head is broken: {error}", offset=schema.end) from error
    if not 0 <= batch.rows <= MAX_SAMPLES:
        raise BatchDecodeError(f"{batch.rows} samples; a batch has {MAX_SAMPLES:,} at most")
    arrays = _Arrays(data, message.body, message.end - message.body, batch)
    features: list[IdFeature] = []
    tensors: dict[Role, list[_NamedArray]] = {"dense": [], "label": []}
    for column in layout.columns:
        if column.role == "id":
            features.append(arrays.id_feature(column))
        else:
            tensors[column.role].append((column.name or None, arrays.tensor(column)))
    samples = batch.rows if layout.columns else None
    return ArrowBatch(features, tensors["dense"], tensors["label"], samples, layout.facts)


def _message(data: Bytes, start: int, kind: str) -> Message:
    message = read_message(data, start)
    if message is None:
        raise BatchDecodeError(f"it ends before its {kind}", offset=start)
    if message.kind != kind:
        raise BatchDecodeError(f"it has a {message.kind} where its {kind} should be", offset=start)
    return message


class _Arrays:
    """The arrays of a record batch, taken one after the other in the order of the columns.

    Each array has a node, and first of its buffers the bits that say what is null: nothing, so these are passed over.
    """

    def __init__(self, data: Bytes, start: int, size: int, batch: RecordBatch) -> None:
        self._data, self._start, self._size, self._rows = data, start, size, batch.rows
        self._nodes, self._buffers = iter(batch.nodes), iter(batch.buffers)

    def id_feature(self, column: Column) -> IdFeature:
        self._node(column, self._rows)
        if column.offsets is None:
            values = self._numbers(column, column.dtype, self._rows)
            return IdFeature(column.name, values, np.arange(self._rows + 1, dtype=np.uint32))
        self._next(column, self._buffers)
        # Of a list without rows even the one offset may be left out.
        offsets = self._buffer(column, np.dtype(column.offsets), self._rows + 1 if self._rows else 0)
        values = self._numbers(column, column.dtype, self._node(column))
        if not self._rows:
            return IdFeature(column.name, values[:0], np.zeros(1, np.uint32))
        first, last = int(offsets[0]), int(offsets[-1])
        if not 0 <= first <= last <= len(values) or np.any(offsets[1:] < offsets[:-1]):
            raise _broken(column, f"its offsets do not rise from 0 to at most {len(values)}")
        if last - first >= _TOO_MANY_IDS:
            raise _broken(column, f"{last - first} ids are more than a batch may have")
        if first or offsets.itemsize != _OFFSET_BYTES:
            offsets = (offsets - first).astype(np.int32)
        return IdFeature(column.name, values[first:last], offsets.view(np.uint32))

    def tensor(self, column: Column) -> NDArray[Any]:
        count = self._rows
        self._node(column, count)
        for size in column.shape:
            self._next(column, self._buffers)
            count *= size
            self._node(column, count)
        return self._numbers(column, column.dtype, count).reshape(self._rows, *column.shape)

    def _numbers(self, column: Column, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        self._next(column, self._buffers)
        if dtype != np.bool_:
            return self._buffer(column, dtype, count)
        bits = self._buffer(column, _BITS, (count + 7) // 8)
        return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)

    def _node(self, column: Column, expected: int | None = None) -> int:
        length, nulls = self._next(column, self._nodes)
        if nulls:
            raise _broken(column, f"it has {nulls} nulls; a batch has none")
        if length < 0 or expected not in (None, length):
            raise _broken(column, f"it has {length} items where {expected} should be")
        return length

    def _buffer(self, column: Column, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """The next buffer as `count` items; what lies behind them is padding."""
        offset, length = self._next(column, self._buffers)
        if offset < 0 or length < count * dtype.itemsize or offset + length > self._size:
            raise _broken(
                column, f"{length} bytes at {offset} of a body of {self._size} do not hold its {count} items"
            )
        if not count:
            return np.empty(0, dtype)
        array = np.frombuffer(self._data, dtype, count, self._start + offset)
        return array if array.flags.aligned else array.copy()

    def _next(self, column: Column, parts: Iterator[list[int]]) -> list[int]:
        part = next(parts, None)
        if part is None:
            raise _broken(column, "its arrays are not in the record batch")
        return part


def _broken(column: Column, reason: str) -> BatchDecodeError:
    return BatchDecodeError(reason, feature=column.name)
