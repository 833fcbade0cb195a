"""PERSIA's batch bytes in plain Python, part by part, so that tests can also write what no client would."""

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

DTYPES = [
    np.dtype(kind)
    for kind in ("?", "<f2", "<f4", "<f8", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8")
]


def u8(value: int) -> bytes:
    return struct.pack("<B", value)


def u16(value: int) -> bytes:
    return struct.pack("<H", value)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def vector(items: Sequence[bytes], count: int | None = None) -> bytes:
    return u32(len(items) if count is None else count) + b"".join(items)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return u32(len(data)) + data


def option(value: bytes | None) -> bytes:
    return u8(0) if value is None else u8(1) + value


def tensor(
    array: np.ndarray,
    name: str | None = None,
    *,
    storage: int = 0,
    dtype: int | None = None,
    count: int | None = None,
    shape: Iterable[int] | None = None,
    strides: Iterable[int] | None = None,
    device: int = 0,
    device_id: int | None = None,
) -> bytes:
    shape = array.shape if shape is None else tuple(shape)
    if strides is None:
        strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    return b"".join(
        [
            u32(storage),
            u32(DTYPES.index(array.dtype) if dtype is None else dtype),
            u32(array.size if count is None else count),
            array.tobytes(),
            vector([u64(extent) for extent in shape]),
            vector([struct.pack("<q", stride) for stride in strides]),
            option(None if name is None else string(name)),
            u32(device),
            option(None if device_id is None else struct.pack("<i", device_id)),
        ]
    )


Record = tuple[int, Sequence[tuple[int, int]]]


def records_of(samples: Sequence[Sequence[int]]) -> list[Record]:
    """Distinct ids with their (sample, column), in order of first occurrence."""
    found: dict[int, list[tuple[int, int]]] = {}
    for sample, ids in enumerate(samples):
        for column, sign in enumerate(ids):
            found.setdefault(sign, []).append((sample, column % 65536))
    return list(found.items())


def feature(
    name: str | bytes,
    samples: Sequence[Sequence[int]],
    *,
    records: Sequence[Record] | None = None,
    counts: Sequence[int] | None = None,
    mapping: Sequence[tuple[int, int]] | None = None,
    batch_size: int | None = None,
    record_count: int | None = None,
) -> bytes:
    records = records_of(samples) if records is None else records
    counts = [len(ids) for ids in samples] if counts is None else counts
    mapping = [(sign, i) for i, (sign, _) in enumerate(records)] if mapping is None else mapping
    return b"".join(
        [
            string(name),
            vector(
                [
                    u64(sign) + vector([u16(sample) + u16(column) for sample, column in positions])
                    for sign, positions in records
                ],
                record_count,
            ),
            vector([u32(count) for count in counts]),
            vector([u64(sign) + struct.pack("<q", index) for sign, index in mapping]),
            u16(len(samples) if batch_size is None else batch_size),
        ]
    )


def ids(features: Sequence[bytes], requires_grad: bool = False, times: bool = False) -> bytes:
    time = u64(1) + u32(2) if times else None
    return b"".join(
        [
            u32(1),
            u8(requires_grad),
            vector(features),
            option(time),
            option(time),
            option(u64(7) if times else None),
        ]
    )


def remote(address: str, reference: int, batcher: int) -> bytes:
    return u32(2) + string(address) + u64(reference) + u64(batcher)


NO_IDS = u32(0)


def batch(
    ids_part: bytes = NO_IDS,
    dense: Sequence[bytes] = (),
    labels: Sequence[bytes] = (),
    meta: bytes | None = None,
    batch_id: int | None = None,
) -> bytes:
    return b"".join(
        [
            vector(dense),
            ids_part,
            vector(labels),
            option(None if meta is None else string(meta)),
            option(None if batch_id is None else u64(batch_id)),
        ]
    )


def encode(id_features: Sequence[tuple[str, np.ndarray, np.ndarray]], **parts: Any) -> bytes:
    """The bytes of a batch of (name, values, offsets), as the native encoder is to write them."""
    features = [
        feature(name, [values[a:b].tolist() for a, b in pairwise(offsets)])
        for name, values, offsets in id_features
    ]
    return batch(ids(features, parts.pop("requires_grad", False)), **parts)
