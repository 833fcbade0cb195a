"""Arrow streams as batches: proved consistent, and not copied.

pyarrow is imported at the first one, so that processes which never see one do without its megabytes.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap.batch.arrow_encoding import encode_arrow
from satrap.batch.arrow_schema import ArrowFacts, Role
from satrap.batch.parts import MAX_SAMPLES, Bytes, IdFeature
from satrap.errors import BatchDecodeError

__all__ = ["ArrowBatch", "decode_arrow", "is_arrow"]

_STREAM_START = b"\xff\xff\xff\xff"
"""Every message of an Arrow stream begins with it. A PERSIA batch would have as many tensors."""

_FILE_START = b"ARROW1"
_ALIGNMENT = 8

_NamedArray = tuple[str | None, NDArray[Any]]


class ArrowBatch:
    """A batch of an Arrow stream, with the attributes of a decoded PERSIA batch.

    Attributes:
        feature_names: Names of the id features, in order.
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
    """Whether these bytes are an Arrow stream, or mean to be: no PERSIA batch begins so."""
    start = bytes(data[: len(_FILE_START)])
    return start.startswith(_STREAM_START) or start == _FILE_START


def decode_arrow(data: Bytes) -> ArrowBatch:
    """Decode an Arrow stream of one record batch; arrays are read-only views into `data`.

    What is not aligned to eight bytes is copied first, once.

    Raises:
        BatchDecodeError: it is no such stream, or its columns are not those of a batch; it names the column.
    """
    if bytes(data[: len(_FILE_START)]) == _FILE_START:
        raise BatchDecodeError(
            "it is an Arrow file; write an Arrow stream instead (pyarrow.ipc.new_stream)", offset=0
        )
    import pyarrow as pa

    try:
        batch = _record_batch(pa, data)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise BatchDecodeError(f"it is no sound Arrow stream: {error}") from error
    facts = ArrowFacts.parse(batch.schema.metadata or {}, batch.num_columns)
    if batch.num_rows > MAX_SAMPLES:
        raise BatchDecodeError(f"{batch.num_rows} samples; a batch has {MAX_SAMPLES:,} at most")
    features: list[IdFeature] = []
    tensors: dict[Role, list[_NamedArray]] = {"dense": [], "label": []}
    for place, (field, column) in enumerate(zip(batch.schema, batch.columns, strict=True)):
        role = facts.roles[place] if facts.roles is not None else _default_role(pa, field.type)
        if role == "id":
            features.append(_id_feature(pa, field.name, column))
        else:
            tensors[role].append((field.name or None, _tensor(pa, field.name, column)))
    samples = batch.num_rows if batch.num_columns else None
    return ArrowBatch(features, tensors["dense"], tensors["label"], samples, facts)


def _record_batch(pa: Any, data: Bytes) -> Any:
    """The one record batch, validated.

    Message by message: pyarrow would read dictionaries, and unpack compressed bodies of any size, on its own.
    """
    buffer = pa.py_buffer(data)
    if buffer.address % _ALIGNMENT:
        buffer = pa.py_buffer(bytes(data))
    messages = pa.ipc.MessageReader.open_stream(buffer)
    schema_message = _next(messages, "schema")
    schema = pa.ipc.read_schema(schema_message)
    for field in schema:
        _check_type(pa, field)
    message = _next(messages, "record batch")
    if _is_compressed(message.metadata.to_pybytes()):
        raise BatchDecodeError("its body is compressed: write it without compression")
    batch = pa.ipc.read_record_batch(message, schema)
    try:
        extra = messages.read_next_message()
    except StopIteration:
        batch.validate(full=True)
        return batch
    raise BatchDecodeError(
        f"it goes on with a {extra.type} after its first record batch: send one batch only"
    )


def _next(messages: Any, kind: str) -> Any:
    try:
        message = messages.read_next_message()
    except StopIteration:
        raise BatchDecodeError(f"it ends before its {kind}") from None
    if message.type != kind:
        raise BatchDecodeError(f"it has a {message.type} where its {kind} should be")
    return message


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message says how its body is compressed. Its flatbuffer was verified by pyarrow.

    Message: field 2 is the header, here a RecordBatch, whose field 3 is the compression.
    """
    message = struct.unpack_from("<I", metadata)[0]
    header = _field(metadata, message, 2)
    return _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], 3) != 0


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table is; 0: it is not there."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    place = 4 + 2 * number
    if place + 2 > struct.unpack_from("<H", metadata, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", metadata, vtable + place)[0]
    return table + offset if offset else 0


def _check_type(pa: Any, field: Any) -> None:
    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise BatchDecodeError(
            f"it is {field.type}; ids are list<uint64>, dense columns numbers or fixed_size_list of numbers",
            feature=field.name,
        )


def _default_role(pa: Any, kind: Any) -> Role:
    return "id" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else "dense"


def _id_feature(pa: Any, name: str, column: Any) -> IdFeature:
    _check_no_nulls(name, column)
    if column.type == pa.uint64():
        return IdFeature(name, _numbers(column), np.arange(len(column) + 1, dtype=np.uint32))
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or column.type.value_type != pa.uint64():
        raise BatchDecodeError(f"ids are list<uint64> or uint64, not {column.type}", feature=name)
    _check_no_nulls(name, column.values)
    if not len(column):
        return IdFeature(name, np.empty(0, np.uint64), np.zeros(1, np.uint32))
    offsets = _numbers(column.offsets)
    first, last = int(offsets[0]), int(offsets[-1])
    if last - first >= 2**32:
        raise BatchDecodeError(f"{last - first} ids are more than a batch may have", feature=name)
    if first or offsets.dtype != np.int32:
        offsets = (offsets - first).astype(np.uint32)
    return IdFeature(name, _numbers(column.values)[first:last], offsets.view(np.uint32))


def _tensor(pa: Any, name: str, column: Any) -> NDArray[Any]:
    shape = [len(column)]
    while pa.types.is_fixed_size_list(column.type):
        _check_no_nulls(name, column)
        shape.append(column.type.list_size)
        column = column.flatten()
    if pa.types.is_nested(column.type):
        raise BatchDecodeError(
            f"a dense column is numbers or a fixed_size_list of numbers, not {column.type}", feature=name
        )
    _check_no_nulls(name, column)
    return _numbers(column).reshape(shape)


def _check_no_nulls(name: str, column: Any) -> None:
    if column.null_count:
        raise BatchDecodeError(f"it has {column.null_count} nulls; a batch has none", feature=name)


def _numbers(column: Any) -> NDArray[Any]:
    """The numbers of a column as they lie; booleans are bits there, and become bytes."""
    array: NDArray[Any] = column.to_numpy(zero_copy_only=str(column.type) != "bool")
    return array
