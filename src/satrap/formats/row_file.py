"""The files of an update: Arrow IPC files of records of one dim.

    sign       uint64
    embedding  fixed_size_list<float32 or float16>[dim]      not in a file of deletes

No nulls, no compression, no dictionaries, little-endian: so a file's bytes are the arrays' bytes, and reading is
checking. The schema's metadata says `satrap.dim`, `satrap.shard` and `satrap.shards`. A reader goes through the record
batches in their order, from the front; the footer, for readers that want to jump, is not needed.

pyarrow takes 300 ms to import, so it is when the first file is read or written. It is asked for no threads.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from satrap.errors import (
    ChecksumError,
    MissingFileError,
    RowCountError,
    RowFileError,
    SatrapError,
    StorageError,
    TruncatedFileError,
)
from satrap.formats.manifest import FileEntry, RowDType

__all__ = [
    "MAX_BATCH_BYTES",
    "RowFileWriter",
    "Sink",
    "WrittenFile",
    "checksum_of",
    "describe_row_file",
    "iter_row_file",
    "read_row_file",
]

Signs = NDArray[np.uint64]
Rows = NDArray[Any]
Page = tuple[Signs, Rows | None]
"""signs u64 [n], and rows [n, dim] of float32 or float16, or None in a file of deletes. Read-only."""

MAX_BATCH_BYTES: Final = 256 << 20
"""A reader refuses a record batch with a larger body: it holds one batch at a time."""

_MAGIC: Final = b"ARROW1\0\0"
_END: Final = b"ARROW1"
_BATCH_BYTES: Final = 4 << 20
_METADATA: Final = (b"satrap.dim", b"satrap.shard", b"satrap.shards")


class Sink(Protocol):
    """What a file is written to."""

    def write(self, data: memoryview) -> object:
        """Take all of `data`."""


class WrittenFile(NamedTuple):
    """What the manifest says of a file, as far as its writer knows."""

    rows: int
    bytes: int
    checksum: str


def checksum_of(data: bytes | memoryview) -> str:
    """The checksum of a file's bytes, as manifests have it."""
    return f"xxh3_64:{xxhash.xxh3_64_hexdigest(data)}"


class RowFileWriter:
    """Writes one file, counting and summing its bytes on the way. Whoever gives the sink makes it durable.

    `dtype` is None for deletes.
    """

    def __init__(self, sink: Sink, dim: int, dtype: RowDType | None, shard: int, shards: int) -> None:
        """Write the header."""
        import pyarrow as pa

        self._pa = pa
        self._counter = _Counter(sink)
        self._dim, self._dtype = dim, dtype
        self._schema = _schema(pa, dim, dtype, shard, shards)
        self._file = pa.PythonFile(self._counter, mode="w")
        self._writer = pa.ipc.new_file(
            self._file, self._schema, options=pa.ipc.IpcWriteOptions(use_threads=False)
        )
        self._rows = 0

    def write(self, signs: Signs, rows: Rows | None = None) -> None:
        """Append records: signs u64 [n], rows [n, dim] of any float dtype (not for deletes), in batches of about 4 MiB.

        Raises:
            ValueError: arrays of another shape or dtype than the file is for.
            StorageError: the sink's.
        """
        self._check(signs, rows)
        step = max(1, _BATCH_BYTES // (8 + 4 * self._dim))
        for start in range(0, len(signs), step):
            part = slice(start, start + step)
            self._batch(signs[part], None if rows is None else rows[part])
        self._rows += len(signs)

    def close(self) -> WrittenFile:
        """Write the end, and say what the file has become. The sink stays open."""
        self._writer.close()
        self._file.close()
        return WrittenFile(self._rows, self._counter.bytes, f"xxh3_64:{self._counter.hash.hexdigest()}")

    def _check(self, signs: Signs, rows: Rows | None) -> None:
        if signs.dtype != np.uint64 or signs.ndim != 1:
            raise ValueError(f"signs must be uint64 [n], not {signs.dtype} {list(signs.shape)}")
        if (rows is None) != (self._dtype is None):
            raise ValueError("a file of rows needs rows, a file of deletes has none")
        if rows is not None and (rows.dtype.kind != "f" or rows.shape != (len(signs), self._dim)):
            raise ValueError(
                f"rows must be floats [{len(signs)}, {self._dim}], not {rows.dtype} {list(rows.shape)}"
            )

    def _batch(self, signs: Signs, rows: Rows | None) -> None:
        pa = self._pa
        columns = [pa.Array.from_buffers(pa.uint64(), len(signs), [None, _buffer(pa, signs)])]
        if rows is not None:
            with np.errstate(over="ignore"):  # float16's infinities are the guardrails' to see
                rows = np.ascontiguousarray(rows, dtype=self._dtype)
            of_list = self._schema.field("embedding").type
            values = pa.Array.from_buffers(of_list.value_type, rows.size, [None, _buffer(pa, rows)])
            columns.append(pa.Array.from_buffers(of_list, len(signs), [None], children=[values]))
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))


def read_row_file(path: str, data: bytes, entry: FileEntry, shards: int) -> list[Page]:
    """The records of a file that was read whole, as views of `data`, which they keep alive.

    `path` is what errors call it; `entry` and `shards` are the manifest's.

    Raises:
        TruncatedFileError: it has more or fewer bytes.
        ChecksumError: it has other bytes.
        RowFileError: it is not the file that the format describes.
        RowCountError: it has more or fewer records.
    """
    if len(data) != entry.bytes:
        raise TruncatedFileError(path, _other_size(len(data), entry))
    found = checksum_of(data)
    if found != entry.checksum:
        raise ChecksumError(path, f"its checksum is {found}, and the manifest says {entry.checksum}")
    import pyarrow as pa

    whole = pa.py_buffer(data)
    pages = list(_pages(pa, path, pa.BufferReader(whole), entry, shards))
    _check_end(path, data[-len(_END) :])
    return pages


def iter_row_file(path: str, file: BinaryIO, entry: FileEntry, shards: int) -> Iterator[Page]:
    """The records of a file batch by batch, holding one at a time.

    Whether the bytes are the manifest's is known at the end only: if an error is raised, all that was given before is
    to be thrown away. The errors are those of `read_row_file`, and the file's own.
    """
    import pyarrow as pa

    counted = _CountedFile(path, file, entry)
    stream = pa.PythonFile(counted, mode="r")
    try:
        yield from _pages(pa, path, stream, entry, shards)
    except (RowFileError, RowCountError):
        counted.finish()  # if its bytes are not the manifest's, that is what is wrong with it
        raise
    counted.finish()


def describe_row_file(path: str, name: str, file: BinaryIO) -> tuple[FileEntry, int]:
    """What a manifest would say of a file that is read from its first byte, by the file's own account: its entry, and
    how many shards there are. Holds one batch at a time.

    Raises:
        RowFileError: it is not a file that the format describes.
        StorageError: it cannot be read at the moment.
    """
    import pyarrow as pa

    counted = _CountedFile(path, file, None)
    stream = pa.PythonFile(counted, mode="r")
    with _translated(path):
        _check_magic(path, stream)
        schema = pa.ipc.read_schema(pa.ipc.read_message(stream))
        metadata = {key: int(value) for key, value in (schema.metadata or {}).items() if key in _METADATA}
        if len(metadata) != len(_METADATA):
            raise RowFileError(path, "its schema lacks satrap.dim, satrap.shard or satrap.shards")
        dim, shard, shards = (metadata[key] for key in _METADATA)
        dtype = None if len(schema.names) == 1 else _dtype_of(schema.field(schema.names[-1]).type)
        entry = FileEntry(name, "deletes" if dtype is None else "rows", dim, dtype, shard, 0, 1, "")
        _check_schema(pa, path, schema, entry, shards)
    rows = sum(len(page[0]) for page in _batches(pa, path, stream, schema, entry))
    found = counted.drain()
    counted.check_end()
    return replace(entry, rows=rows, bytes=found.bytes, checksum=found.checksum), shards


def _pages(pa: Any, path: str, stream: Any, entry: FileEntry, shards: int) -> Iterator[Page]:
    """Every record batch of an Arrow file, from its first byte up to the footer."""
    with _translated(path):
        _check_magic(path, stream)
        schema = _read_schema(pa, path, stream, entry, shards)
    rows = 0
    for page in _batches(pa, path, stream, schema, entry):
        rows += len(page[0])
        if rows > entry.rows:
            break
        yield page
    if rows != entry.rows:
        more = "more" if rows > entry.rows else f"only {rows}"
        raise RowCountError(path, f"the manifest says {entry.rows} records, and it has {more}")


def _batches(pa: Any, path: str, stream: Any, schema: Any, entry: FileEntry) -> Iterator[Page]:
    """Every record batch behind the schema, up to the mark of their end."""
    while True:
        with _translated(path):
            page = _read_page(pa, path, stream, schema, entry)
        if page is None:
            return
        yield page


def _check_magic(path: str, stream: Any) -> None:
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise RowFileError(path, "it does not begin as an Arrow file does")


def _read_schema(pa: Any, path: str, stream: Any, entry: FileEntry, shards: int) -> Any:
    message = pa.ipc.read_message(stream)
    if message.type != "schema":
        raise RowFileError(path, f"it begins with a message of type {message.type}, not with its schema")
    schema = pa.ipc.read_schema(message)
    _check_schema(pa, path, schema, entry, shards)
    return schema


def _check_schema(pa: Any, path: str, schema: Any, entry: FileEntry, shards: int) -> None:
    expected = _schema(pa, entry.dim, entry.dtype, entry.shard, shards)
    found = [(column.name, column.type) for column in schema]
    wanted = [(column.name, column.type) for column in expected]
    if [name for name, _ in found] != [name for name, _ in wanted] or any(
        not _same_type(pa, one, other) for (_, one), (_, other) in zip(found, wanted, strict=True)
    ):
        raise RowFileError(path, f"its columns are {_columns(found)}, and should be {_columns(wanted)}")
    if not schema.equals(
        pa.schema(list(schema))
    ):  # the same but for the byte order, which has no name in Python
        raise RowFileError(path, "it is big-endian; write it little-endian, as the format says")
    metadata = schema.metadata or {}
    for key, value in expected.metadata.items():
        if metadata.get(key) != value:
            said = metadata.get(key, b"nothing").decode(errors="replace")
            raise RowFileError(
                path, f"{key.decode()} is {said[:80]} in the file and {value.decode()} in the manifest"
            )


def _read_page(pa: Any, path: str, stream: Any, schema: Any, entry: FileEntry) -> Page | None:
    """The next record batch, None at the end."""
    try:
        message = pa.ipc.read_message(stream)
    except EOFError:
        return None
    if message.type != "record batch":
        raise RowFileError(path, f"it has a message of type {message.type}, where only record batches may be")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    count = batch.num_rows
    for column in batch.columns:
        if column.null_count or (column.type != pa.uint64() and column.values.null_count):
            raise RowFileError(path, "it has nulls")
    body = message.body
    signs = _array(path, batch.column(0).buffers()[-1], body, np.dtype("<u8"), count)
    if entry.dtype is None:
        return signs, None
    values = _array(path, batch.column(1).buffers()[-1], body, np.dtype(entry.dtype), count * entry.dim)
    return signs, values.reshape(count, entry.dim)


def _array(path: str, buffer: Any, body: Any, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """`count` values of a buffer, which must be a part of the file's own bytes."""
    if count == 0:
        return np.empty(0, dtype)
    if buffer is None or buffer.size < count * dtype.itemsize:
        raise RowFileError(path, f"a column has fewer than {count} values")
    start = buffer.address - body.address
    if not 0 <= start <= body.size - buffer.size:
        raise RowFileError(path, "it is compressed; write it uncompressed, as the format says")
    return np.frombuffer(buffer, dtype, count)


class _Counter:
    """A sink that counts."""

    closed = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.bytes = 0
        self.hash = xxhash.xxh3_64()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._sink.write(view)
        self.hash.update(view)
        self.bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Whoever owns the sink does."""

    def close(self) -> None:
        """Whoever owns the sink does."""


class _CountedFile(io.RawIOBase):
    """A file that is read from front to back, counting and summing, and never in too large a piece."""

    def __init__(self, path: str, file: BinaryIO, entry: FileEntry | None) -> None:
        self._path, self._file, self._entry = path, file, entry
        self._bytes = 0
        self._hash = xxhash.xxh3_64()
        self._last = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_BATCH_BYTES:
            raise RowFileError(
                self._path, f"it has a record batch of {size:,} bytes, and {MAX_BATCH_BYTES:,} is the most"
            )
        try:
            data = self._file.read(size)
        except FileNotFoundError as error:
            raise MissingFileError(self._path, "it went away while it was read") from error
        except OSError as error:
            raise StorageError(self._path, error.strerror or str(error)) from error
        self._bytes += len(data)
        self._hash.update(data)
        self._last = (self._last + data[-len(_END) :])[-len(_END) :]
        return data

    def finish(self) -> None:
        """Read the footer, and judge the whole."""
        entry = self._entry
        assert entry is not None
        found = self.drain(entry.bytes)
        if found.bytes != entry.bytes:
            raise TruncatedFileError(self._path, _other_size(found.bytes, entry))
        if found.checksum != entry.checksum:
            raise ChecksumError(
                self._path, f"its checksum is {found.checksum}, and the manifest says {entry.checksum}"
            )
        self.check_end()

    def check_end(self) -> None:
        """Whether what was read last is an Arrow file's end."""
        _check_end(self._path, self._last)

    def drain(self, limit: int | None = None) -> WrittenFile:
        """Read the rest, no further than a little beyond `limit`: bytes and checksum of all that was read."""
        while (limit is None or self._bytes <= limit) and self.read(1 << 20):
            pass
        return WrittenFile(0, self._bytes, f"xxh3_64:{self._hash.hexdigest()}")


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Make a RowFileError of whatever pyarrow raises at bytes that it cannot read."""
    try:
        yield
    except SatrapError:
        raise
    except Exception as error:
        text = str(error).splitlines() or [type(error).__name__]
        raise RowFileError(path, f"not an Arrow file that can be read: {text[0][:200]}") from error


def _schema(pa: Any, dim: int, dtype: RowDType | None, shard: int, shards: int) -> Any:
    columns = [pa.field("sign", pa.uint64(), nullable=False)]
    if dtype is not None:
        value = pa.field("item", pa.float32() if dtype == "float32" else pa.float16(), nullable=False)
        columns.append(pa.field("embedding", pa.list_(value, dim), nullable=False))
    return pa.schema(
        columns, {"satrap.dim": str(dim), "satrap.shard": str(shard), "satrap.shards": str(shards)}
    )


def _dtype_of(of_list: Any) -> RowDType:
    """The dtype of a column of rows; float32 if it is none, which the check of the columns then says."""
    return "float16" if str(getattr(of_list, "value_type", "")) == "halffloat" else "float32"


def _same_type(pa: Any, one: Any, other: Any) -> bool:
    """Equal, whatever a list's values are called and whether they might be null."""
    if pa.types.is_fixed_size_list(one) and pa.types.is_fixed_size_list(other):
        return bool(one.list_size == other.list_size and one.value_type == other.value_type)
    return bool(one == other)


def _columns(columns: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in columns)[:300] or "none"


def _buffer(pa: Any, array: NDArray[Any]) -> Any:
    return pa.py_buffer(np.ascontiguousarray(array))


def _check_end(path: str, last: bytes) -> None:
    if last != _END:
        raise RowFileError(path, "it does not end as an Arrow file does")


def _other_size(found: int, entry: FileEntry) -> str:
    has = "more than" if found > entry.bytes else f"only {found} of"
    return f"it has {has} the {entry.bytes} bytes that the manifest says"
