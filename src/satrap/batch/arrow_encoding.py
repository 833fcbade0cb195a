"""Arrays to an Arrow stream. pyarrow is imported when the first batch is written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satrap.batch.arrow_schema import ArrowFacts, Role
from satrap.batch.parts import MAX_SAMPLES, IdFeature, Tensor
from satrap.errors import BatchError

__all__ = ["encode_arrow"]

_MAX_IDS = 2**31 - 1
"""Offsets of Arrow's lists are signed and have 32 bits."""

_KINDS = frozenset("?bhilqBHILQefd")


def encode_arrow(
    id_features: Sequence[IdFeature],
    non_id_features: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    meta: bytes | None = None,
    requires_grad: bool = False,
    batch_id: int | None = None,
) -> bytes:
    """The stream of a batch whose parts have the same number of samples.

    Raises:
        BatchError: offsets are no offsets, or a dtype cannot travel.
    """
    import pyarrow as pa

    parts: tuple[tuple[Role, int], ...] = (
        ("id", len(id_features)),
        ("dense", len(non_id_features)),
        ("label", len(labels)),
    )
    roles = [role for role, count in parts for _ in range(count)]
    names = [*(f.name for f in id_features), *(t.name or "" for t in (*non_id_features, *labels))]
    columns = [_list_column(pa, feature) for feature in id_features]
    columns += [_tensor_column(pa, tensor) for tensor in (*non_id_features, *labels)]
    facts = ArrowFacts(roles, meta, requires_grad, batch_id)
    schema = pa.schema(
        [pa.field(name, column.type, nullable=False) for name, column in zip(names, columns, strict=True)],
        metadata=facts.to_metadata(),
    )
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _list_column(pa: Any, feature: IdFeature) -> Any:
    values = np.ascontiguousarray(feature.values, np.uint64)
    offsets = np.ascontiguousarray(feature.offsets, np.uint32)
    _check_offsets(feature.name, values, offsets)
    kind = pa.list_(pa.field("item", pa.uint64(), nullable=False))
    buffers = [None, pa.py_buffer(offsets.view(np.int32))]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers, children=[pa.array(values)])


def _check_offsets(name: str, values: NDArray[np.uint64], offsets: NDArray[np.uint32]) -> None:
    if len(values) > _MAX_IDS:
        raise BatchError(f"{len(values)} ids are more than an Arrow list holds", feature=name)
    if (
        not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != len(values)
        or np.any(offsets[1:] < offsets[:-1])
    ):
        raise BatchError(f"offsets must rise from 0 to the number of ids, {len(values)}", feature=name)
    if len(offsets) - 1 > MAX_SAMPLES:
        raise BatchError(f"{len(offsets) - 1} samples; a batch has {MAX_SAMPLES:,} at most", feature=name)


def _tensor_column(pa: Any, tensor: Tensor) -> Any:
    data = np.ascontiguousarray(tensor.data, tensor.data.dtype.newbyteorder("="))
    if data.dtype.char not in _KINDS:
        raise BatchError(f"dtype {data.dtype} cannot travel", feature=tensor.name or "")
    column = pa.array(data.reshape(-1))
    for axis in range(data.ndim - 1, 0, -1):
        kind = pa.list_(pa.field("item", column.type, nullable=False), data.shape[axis])
        length = int(np.prod(data.shape[:axis]))
        column = pa.Array.from_buffers(kind, length, [None], children=[column])
    return column
