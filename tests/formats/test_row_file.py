"""Row files: what is written is read, as views; everything else is refused by an error of its own."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from satrap.errors import (
    ChecksumError,
    MissingFileError,
    RowCountError,
    RowFileError,
    StorageError,
    TruncatedFileError,
    UpdateError,
)
from satrap.formats import row_file
from satrap.formats.manifest import FileEntry
from satrap.formats.row_file import (
    RowFileWriter,
    checksum_of,
    describe_row_file,
    iter_row_file,
    read_row_file,
)

SIGNS = np.array([1, 2**63, 2**64 - 1, 7], np.uint64)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) - 4


def finished(pages, dim=3, dtype="float32", shard=0, shards=1):
    """The bytes of a file of `pages`, and its entry."""
    sink = io.BytesIO()
    file = RowFileWriter(sink, dim, dtype, shard, shards)
    for signs, rows in pages:
        file.write(signs, rows)
    entry = FileEntry("x.arrow", "rows" if dtype else "deletes", dim, dtype, shard, *file.close())
    return sink.getvalue(), entry


def streamed(data, entry, shards=1):
    return list(iter_row_file("x", io.BytesIO(data), entry, shards))


def whole(data, entry, shards=1):
    return read_row_file("x", data, entry, shards)


both = pytest.mark.parametrize("read", [whole, streamed])


def entry_of(data, rows, dim=3, dtype="float32", kind="rows"):
    """An entry that says of `data` what is true, as a hostile writer's would."""
    return FileEntry("x.arrow", kind, dim, dtype, 0, rows, len(data), checksum_of(data))


def arrow_file(table, *, metadata=None, options=None, batches=None):
    """An Arrow file by another writer."""
    metadata = (
        {"satrap.dim": "3", "satrap.shard": "0", "satrap.shards": "1"} if metadata is None else metadata
    )
    sink = io.BytesIO()
    schema = table.schema.with_metadata(metadata)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches or table.cast(schema).to_batches():
            writer.write_batch(batch)
    return sink.getvalue()


def foreign(signs=None, values=None, name="embedding", dim=3, value_type=None):
    """A table as another writer may make it: nullable, of other dims or types."""
    values = pa.array(ROWS.ravel(), value_type or pa.float32()) if values is None else values
    return pa.table(
        {
            "sign": pa.array(SIGNS) if signs is None else signs,
            name: pa.FixedSizeListArray.from_arrays(values, dim),
        }
    )


@both
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read(read, dtype):
    data, entry = finished([(SIGNS, ROWS), (SIGNS[:1], ROWS[:1])], dtype=dtype)
    assert (entry.rows, entry.bytes, entry.checksum) == (5, len(data), checksum_of(data))
    pages = read(data, entry)
    assert [len(signs) for signs, _ in pages] == [4, 1]
    signs, rows = pages[0]
    assert signs.dtype == np.uint64 and rows.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(signs, SIGNS)
    np.testing.assert_array_equal(rows, ROWS.astype(dtype))
    assert not signs.flags.writeable and not rows.flags.writeable


@both
def test_deletes_are_signs_alone(read):
    data, entry = finished([(SIGNS, None)], dtype=None)
    [(signs, rows)] = read(data, entry)
    np.testing.assert_array_equal(signs, SIGNS)
    assert rows is None


@both
def test_a_file_without_records(read):
    data, entry = finished([])
    assert entry.rows == 0 and read(data, entry) == []
    data, entry = finished([(SIGNS[:0], ROWS[:0])])
    assert entry.rows == 0 and read(data, entry) == []


def test_reading_copies_nothing():
    data, entry = finished([(SIGNS, ROWS)])
    [(signs, rows)] = whole(data, entry)
    assert np.shares_memory(signs, np.frombuffer(data, np.uint8))
    assert np.shares_memory(rows, np.frombuffer(data, np.uint8))


def test_any_reader_of_arrow_reads_it():
    data, _ = finished([(SIGNS, ROWS)], shard=1, shards=2)
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    assert table.schema.names == ["sign", "embedding"]
    assert table["sign"].to_pylist() == SIGNS.tolist()
    assert table["embedding"].to_pylist() == ROWS.tolist()
    assert table.schema.metadata == {b"satrap.dim": b"3", b"satrap.shard": b"1", b"satrap.shards": b"2"}


@both
def test_a_file_by_another_writer(read):
    data = arrow_file(foreign())
    [(signs, rows)] = read(data, entry_of(data, 4))
    np.testing.assert_array_equal(signs, SIGNS)
    np.testing.assert_array_equal(rows, ROWS)


def test_large_pages_become_batches_and_rows_become_the_dtype(monkeypatch):
    monkeypatch.setattr(row_file, "_BATCH_BYTES", 3 * (8 + 4 * 3))
    signs = np.arange(10, dtype=np.uint64)
    rows = np.full((10, 3), 1e6)
    rows[:, 1] = 0.5
    data, entry = finished([(signs, rows)], dtype="float16")
    pages = whole(data, entry)
    assert [len(page[0]) for page in pages] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([page[1] for page in pages])[0], [np.inf, 0.5, np.inf])


def test_strided_arrays_are_written():
    data, entry = finished([(np.repeat(SIGNS, 2)[::2], np.asfortranarray(ROWS)[:, ::-1])])
    [(signs, rows)] = whole(data, entry)
    np.testing.assert_array_equal(signs, SIGNS)
    np.testing.assert_array_equal(rows, ROWS[:, ::-1])


@pytest.mark.parametrize(
    ("signs", "rows"),
    [
        (SIGNS.astype(np.int64), ROWS),
        (SIGNS[:, None], ROWS),
        (SIGNS, ROWS[:, :2]),
        (SIGNS, ROWS[:3]),
        (SIGNS, ROWS.astype(np.int32)),
        (SIGNS, None),
    ],
)
def test_arrays_that_are_not_for_the_file(signs, rows):
    with pytest.raises(ValueError, match=r"must be|needs rows"):
        RowFileWriter(io.BytesIO(), 3, "float32", 0, 1).write(signs, rows)


def test_the_sinks_error_comes_through():
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 400:
                raise StorageError("x", "the disk is full")
            return super().write(data)

    writer = RowFileWriter(Full(), 3, "float32", 0, 1)
    with pytest.raises(StorageError, match="the disk is full"):
        for _ in range(3):
            writer.write(SIGNS, ROWS)


# Bytes that are not the manifest's.


@both
def test_cut_anywhere(read):
    data, entry = finished([(SIGNS, ROWS)])
    for size in range(len(data)):
        with pytest.raises(TruncatedFileError, match=f"only {size} of the {len(data)} bytes"):
            read(data[:size], entry)


@both
def test_grown(read):
    data, entry = finished([(SIGNS, ROWS)])
    with pytest.raises(TruncatedFileError, match="more than the"):
        read(data + b"\0", entry)


@both
def test_a_bit_flipped_anywhere(read):
    data, entry = finished([(SIGNS, ROWS)])
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(ChecksumError, match="its checksum is xxh3_64:"):
            read(bytes(flipped), entry)


@both
def test_empty(read):
    _, entry = finished([(SIGNS, ROWS)])
    with pytest.raises(TruncatedFileError):
        read(b"", entry)


# Bytes that are the manifest's, but not what the format says.


@both
@pytest.mark.parametrize("rows", [0, 3, 5, 2**40])
def test_another_count_than_the_manifest(read, rows):
    data, entry = finished([(SIGNS, ROWS)])
    with pytest.raises(
        RowCountError, match=f"says {rows} records, and it has {'more' if rows < 4 else 'only 4'}"
    ):
        read(data, replace(entry, rows=rows))


@both
@pytest.mark.parametrize(
    ("change", "shards", "reason"),
    [
        ({"dim": 4}, 1, "columns"),
        ({"dtype": "float16"}, 1, "columns"),
        ({"dtype": None, "kind": "deletes"}, 1, "columns"),
        ({"shard": 1}, 1, "satrap.shard is 0 in the file and 1 in the manifest"),
        ({}, 2, "satrap.shards is 1 in the file and 2 in the manifest"),
    ],
)
def test_another_file_than_the_manifest_names(read, change, shards, reason):
    data, entry = finished([(SIGNS, ROWS)])
    with pytest.raises(RowFileError, match=reason):
        read(data, replace(entry, **change), shards)


def nulls_in_the_signs():
    return arrow_file(foreign(signs=pa.array([1, None, 3, 4], pa.uint64())))


def nulls_in_the_values():
    return arrow_file(foreign(values=pa.array([1.0] * 11 + [None], pa.float32())))


def nulls_in_the_rows():
    rows = pa.array([[1, 2, 3], None, [1, 2, 3], [1, 2, 3]], pa.list_(pa.float32(), 3))
    return arrow_file(pa.table({"sign": pa.array(SIGNS), "embedding": rows}))


def signed_signs():
    return arrow_file(foreign(signs=pa.array([1, 2, 3, 4], pa.int64())))


def doubles():
    return arrow_file(foreign(value_type=pa.float64()))


def lists_of_any_size():
    rows = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
    return arrow_file(pa.table({"sign": pa.array(SIGNS), "embedding": rows}))


def another_column():
    return arrow_file(foreign().append_column("more", pa.array([1, 2, 3, 4])))


def columns_the_other_way_round():
    return arrow_file(foreign().select(["embedding", "sign"]))


def a_column_by_another_name():
    return arrow_file(foreign(name="row"))


def one_column():
    return arrow_file(foreign().select(["sign"]))


def no_column():
    return arrow_file(pa.table({}))


def no_metadata():
    return arrow_file(foreign(), metadata={})


def metadata_that_is_not_utf8():
    return arrow_file(foreign(), metadata={b"satrap.dim": b"\xff\xfe"})


def dictionary_signs():
    return arrow_file(foreign(signs=pa.array(SIGNS).dictionary_encode()))


def compressed(codec):
    return arrow_file(
        foreign(signs=pa.array([1, 1, 1, 1], pa.uint64()), values=pa.array([0.0] * 12, pa.float32())),
        options=pa.ipc.IpcWriteOptions(compression=codec),
    )


def compressed_by_lz4():
    return compressed("lz4")


def compressed_by_zstd():
    return compressed("zstd")


def a_stream_instead_of_a_file():
    sink = io.BytesIO()
    table = foreign()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet():
    return b"PAR1" + bytes(100) + b"PAR1"


def text():
    return b"sign,embedding\n1,2\n"


def only_magics():
    return b"ARROW1\0\0ARROW1"


def no_end():
    data, _ = finished([(SIGNS, ROWS)])
    return data[:-6] + b"ARROW2"


def nothing_after_the_schema():
    data, _ = finished([])
    return data[: data.index(b"\xff\xff\xff\xff\0\0\0\0")]


def a_schema_of_an_enormous_length():
    return b"ARROW1\0\0\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100)


BAD = [
    nulls_in_the_signs,
    nulls_in_the_values,
    nulls_in_the_rows,
    signed_signs,
    doubles,
    lists_of_any_size,
    another_column,
    columns_the_other_way_round,
    a_column_by_another_name,
    one_column,
    no_column,
    no_metadata,
    metadata_that_is_not_utf8,
    dictionary_signs,
    compressed_by_lz4,
    compressed_by_zstd,
    a_stream_instead_of_a_file,
    parquet,
    text,
    only_magics,
    no_end,
    a_schema_of_an_enormous_length,
]


@both
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_what_the_format_does_not_describe(read, make):
    data = make()
    with pytest.raises(RowFileError) as caught:
        read(data, entry_of(data, 4))
    assert str(caught.value).startswith("x: ")


@both
def test_a_file_that_ends_after_its_schema(read):
    data = nothing_after_the_schema()
    with pytest.raises((RowFileError, RowCountError)):
        read(data, entry_of(data, 4))


@both
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compression_is_refused_by_name(read, codec):
    data = compressed(codec)
    with pytest.raises(RowFileError, match="compressed"):
        read(data, entry_of(data, 4))


@both
def test_big_endian_is_refused(read):
    """pyarrow would turn the values round, and copy them. It writes no such file: the schema is told to be one."""
    data, _ = finished([(SIGNS, ROWS)])
    data = bytearray(data)

    def number(place, size=4):
        return int.from_bytes(data[place : place + size], "little")

    # A flatbuffer: a table begins with the distance back to its vtable, which has the offset of each of its fields.
    message = 16 + number(16)
    header = message + number(message - number(message) + 8, 2)
    schema = header + number(header)
    fields = schema - number(schema) + 6
    assert number(fields - 2, 2) == 0, "endianness is left out, as it is little"
    data[fields - 2 : fields] = data[fields : fields + 2]  # any number but 0 is big
    data = bytes(data)
    with pytest.raises(RowFileError, match="big-endian"):
        read(data, entry_of(data, 4))


@both
def test_a_batch_of_an_enormous_length(read):
    """Every 8 bytes of the first batch's message become 2^62: lengths, offsets and counts among them."""
    data, _ = finished([(SIGNS, ROWS)])
    start = data.index(SIGNS.tobytes()) - 300
    for place in range(start, start + 300):
        changed = data[:place] + (2**62).to_bytes(8, "little") + data[place + 8 :]
        try:
            read(changed, entry_of(changed, 4))
        except UpdateError:
            continue


def test_a_batch_too_large_to_hold_is_refused_before_it_is_read(monkeypatch):
    data, entry = finished([(np.arange(1000, dtype=np.uint64), np.zeros((1000, 3), np.float32))])
    assert len(streamed(data, entry)) == 1
    monkeypatch.setattr(row_file, "MAX_BATCH_BYTES", 10_000)
    with pytest.raises(RowFileError, match="is the most"):
        streamed(data, entry)


def test_a_file_that_fails_while_it_is_read():
    data, entry = finished([(SIGNS, ROWS)])

    class Failing(io.BytesIO):
        def __init__(self, error):
            super().__init__(data)
            self.error = error

        def read(self, size=-1):
            if self.tell() > 300:
                raise self.error
            return super().read(size)

    for raised, expected in [
        (OSError(5, "Input/output error"), StorageError),
        (FileNotFoundError(2, "gone"), MissingFileError),
        (StorageError("x", "the connection broke"), StorageError),
    ]:
        with pytest.raises(expected):
            list(iter_row_file("x", Failing(raised), entry, 1))


@given(
    st.sampled_from(["float32", "float16", None]),
    st.integers(1, 9),
    st.lists(st.integers(0, 40), max_size=4),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_rows_go_through(dtype, dim, sizes, data):
    pages = []
    for size in sizes:
        signs = data.draw(arrays.arrays(np.uint64, size))
        pages.append(
            (signs, None if dtype is None else data.draw(arrays.arrays(np.dtype(dtype), (size, dim))))
        )
    content, entry = finished(pages, dim=dim, dtype=dtype)
    for read in (whole, streamed):
        found = read(content, entry)
        joined = [np.concatenate([page[0] for page in some] or [SIGNS[:0]]) for some in (pages, found)]
        np.testing.assert_array_equal(*joined)
        if dtype is not None and found:
            expected = np.concatenate([rows for _, rows in pages])
            assert np.concatenate([rows for _, rows in found]).tobytes() == expected.tobytes()


MADE = [
    finished([(SIGNS, ROWS)]),
    finished([(SIGNS, None)] * 2, dtype=None),
    finished([(SIGNS, ROWS)], dtype="float16"),
]
NUMBERS = [2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1, 2**40, 0, 1]


@given(st.sampled_from(MADE), st.data())
@settings(max_examples=400, deadline=None)
def test_hostile_bytes_are_read_or_refused(made, data):
    """With a manifest that says what is true of them, so that nothing but the reader stands in the way."""
    content, entry = made
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(8, len(content) - 9))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place : place + 8] = data.draw(st.sampled_from(NUMBERS)).to_bytes(8, "little")
    content = bytes(content)
    entry = replace(entry, bytes=len(content), checksum=checksum_of(content))
    results = []
    for read in (whole, streamed):
        try:
            pages = read(content, entry)
            results.append(sum(len(signs) for signs, _ in pages))
            for signs, rows in pages:
                assert rows is None or rows.shape == (len(signs), entry.dim)
        except UpdateError:
            results.append("refused")
    assert results[0] == results[1]


# A file without a manifest.


@pytest.mark.parametrize("dtype", ["float32", "float16", None])
def test_a_file_describes_itself(dtype):
    data, entry = finished([(SIGNS, ROWS if dtype else None)] * 2, dtype=dtype, shard=1, shards=3)
    assert describe_row_file("x", "x.arrow", io.BytesIO(data)) == (entry, 3)


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_what_does_not_describe_itself(make):
    if make is one_column:  # a file of deletes
        return
    with pytest.raises(RowFileError):
        describe_row_file("x", "x.arrow", io.BytesIO(make()))


def test_a_cut_file_does_not_describe_itself():
    data, _ = finished([(SIGNS, ROWS)])
    for size in range(len(data)):
        with pytest.raises(RowFileError):
            describe_row_file("x", "x.arrow", io.BytesIO(data[:size]))
