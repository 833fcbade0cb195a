"""Arrow streams as batches: what pyarrow writes is read, what we write pyarrow reads, everything else is refused."""

import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from satrap.batch import MAX_SAMPLES, Batch, IdFeature, Tensor, decode
from satrap.errors import BatchDecodeError, BatchError

FIXTURES = [
    "batch_all_empty_b7",
    "batch_b1",
    "batch_b128",
    "batch_b7",
    "batch_bench_128x3x32",
    "batch_dtypes_b7",
]
DTYPES = ["?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


def stream(
    columns: dict[str, Any] | list[tuple[str, Any]], metadata: dict[str, str] | None = None, **options: Any
) -> bytes:
    """What a client writes that knows pyarrow and nothing of us."""
    items = list(columns.items()) if isinstance(columns, dict) else columns
    schema = pa.schema([(name, array.type) for name, array in items], metadata=metadata)
    batch = pa.RecordBatch.from_arrays([array for _, array in items], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def ids(*samples: list[int], kind: Callable[[Any], Any] = pa.list_) -> pa.Array:
    return pa.array(samples, kind(pa.uint64()))


GOOD = {"tags": ids([7, 2**64 - 1], [], [7]), "height": pa.array([1.5, 2.5, 3.5], pa.float32())}


def refused(data: bytes) -> str:
    with pytest.raises(BatchDecodeError) as caught:
        decode(data)
    return str(caught.value)


def assert_same(mine: Batch, theirs: Batch) -> None:
    assert [feature.name for feature in mine.id_features] == [feature.name for feature in theirs.id_features]
    for one, other in zip(mine.id_features, theirs.id_features, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.offsets, other.offsets)
    for one, other in zip(
        mine.non_id_features + mine.labels, theirs.non_id_features + theirs.labels, strict=True
    ):
        assert (one.name or "", one.data.dtype, one.data.shape) == (
            other.name or "",
            other.data.dtype,
            other.data.shape,
        )
        assert one.data.tobytes() == other.data.tobytes()  # NaN and -0 too
    assert (mine.meta, mine.requires_grad, mine.batch_id) == (
        theirs.meta,
        theirs.requires_grad,
        theirs.batch_id,
    )


# ---- what a batch may be -----------------------------------------------------------------------------------


def test_what_pyarrow_wrote():
    decoded = decode(stream(GOOD))
    assert decoded.feature_names == ["tags"]
    assert (decoded.ids_kind, decoded.batch_size) == ("features", 3)
    assert (decoded.requires_grad, decoded.batch_id, decoded.meta, decoded.remote) == (
        False,
        None,
        None,
        None,
    )
    name, values, offsets = decoded.id_feature(0)
    assert (name, values.tolist(), offsets.tolist()) == ("tags", [7, 2**64 - 1, 7], [0, 2, 2, 3])
    assert (values.dtype, offsets.dtype) == (np.uint64, np.uint32)
    ((name, array),) = decoded.non_id_features()
    assert (name, array.tolist(), array.dtype) == ("height", [1.5, 2.5, 3.5], np.float32)
    assert decoded.labels() == []


def test_nothing_is_copied():
    data = stream(GOOD)
    decoded = decode(data)
    everything = np.frombuffer(data, np.uint8)
    for array in (*decoded.id_feature(0)[1:], decoded.non_id_features()[0][1]):
        assert np.shares_memory(array, everything)


@pytest.mark.parametrize("shift", range(1, 8))
def test_bytes_that_begin_anywhere(shift: int):
    whole = bytearray(shift) + stream(GOOD)
    decoded = decode(memoryview(whole)[shift:])
    assert decoded.id_feature(0)[1].tolist() == [7, 2**64 - 1, 7]
    assert decoded.id_feature(0)[1].flags.aligned
    assert decoded.non_id_features()[0][1].tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(ids([1], [], [2, 3], kind=pa.large_list), id="large_list"),
        pytest.param(ids([9], [1], [], [2, 3]).slice(1), id="slice"),
        pytest.param(
            pa.ListArray.from_arrays(
                pa.array([1, 2, 2, 4], pa.int32()), pa.array([9, 1, 2, 3, 8], pa.uint64())
            ),
            id="offsets from 1",
        ),
    ],
)
def test_lists_of_every_form(column: pa.Array):
    _, values, offsets = decode(stream({"f": column})).id_feature(0)
    assert (values.tolist(), offsets.tolist()) == ([1, 2, 3], [0, 1, 1, 3])


def test_one_id_per_sample():
    data = stream({"user": pa.array([5, 6], pa.uint64())}, {"satrap.roles": '["id"]'})
    assert [part.tolist() for part in decode(data).id_feature(0)[1:]] == [[5, 6], [0, 1, 2]]


def test_roles_and_facts():
    columns = [
        ("a", pa.array([1, 2], pa.int8())),
        ("a", ids([1], [2])),
        ("", pa.array([0.5, 1], pa.float64())),
    ]
    metadata = {
        "satrap.batch": "1",
        "satrap.roles": '["label", "id", "dense"]',
        "satrap.meta": "AAH/",
        "satrap.requires_grad": "true",
        "satrap.batch_id": str(2**64 - 1),
        "pandas": "whatever",
    }
    decoded = decode(stream(columns, metadata))
    assert decoded.feature_names == ["a"]
    assert [(name, array.tolist()) for name, array in decoded.labels()] == [("a", [1, 2])]
    assert [(name, array.tolist()) for name, array in decoded.non_id_features()] == [(None, [0.5, 1])]
    assert (decoded.meta, decoded.requires_grad, decoded.batch_id) == (b"\x00\x01\xff", True, 2**64 - 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3), (5, 0), (0, 3), (0,)])
def test_tensors(dtype: str, shape: tuple[int, ...]):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    (tensor,) = Batch.from_bytes(Batch(non_id_features=[Tensor(array, "t")]).to_arrow()).non_id_features
    assert (tensor.name, tensor.data.dtype) == ("t", array.dtype)
    np.testing.assert_array_equal(tensor.data, array)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_batch_of_persia_and_the_same_as_arrow(name: str, persia_data):
    batch = Batch.from_bytes((persia_data / f"{name}.bin").read_bytes())
    again = Batch.from_bytes(batch.to_arrow())
    assert_same(again, batch)
    assert Batch.from_bytes(again.to_bytes()).to_arrow() == again.to_arrow()


def test_it_is_less_than_half_of_persias_bytes(persia_data):
    data = (persia_data / "batch_bench_128x3x32.bin").read_bytes()
    assert len(Batch.from_bytes(data).to_arrow()) < len(data) / 2


def test_pyarrow_reads_what_we_write():
    batch = Batch(
        [IdFeature("f", np.array([3, 4], np.uint64), np.array([0, 2, 2], np.uint32))],
        [Tensor(np.ones((2, 3), np.float32), "d")],
        [Tensor(np.array([True, False]))],
        meta=b"m",
    )
    with pa.ipc.open_stream(batch.to_arrow()) as reader:
        table = reader.read_all()
    table.validate(full=True)
    assert table.to_pydict() == {"f": [[3, 4], []], "d": [[1, 1, 1], [1, 1, 1]], "": [True, False]}
    assert table.schema.metadata[b"satrap.roles"] == b'["id", "dense", "label"]'


def test_ids_only():
    batch = Batch(
        [IdFeature("f", np.array([3, 4], np.uint64), np.array([0, 2, 2], np.uint32))],
        [Tensor(np.ones((2, 3), np.float32), "d")],
        meta=b"m",
    )
    alone = decode(decode(batch.to_arrow()).ids_only())
    assert [part.tolist() for part in alone.id_feature(0)[1:]] == [[3, 4], [0, 2, 2]]
    assert (alone.non_id_features(), alone.labels(), alone.meta) == ([], [], None)


def test_a_batch_without_anything():
    decoded = decode(stream({}))
    assert (decoded.ids_kind, decoded.batch_size, decoded.feature_names) == ("none", None, [])


def test_no_samples():
    decoded = decode(stream({"f": ids(), "d": pa.array([], pa.float32())}))
    assert [part.tolist() for part in decoded.id_feature(0)[1:]] == [[], [0]]
    assert decoded.batch_size == 0


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    samples = draw(st.integers(0, 5))
    names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
    features = []
    for _ in range(draw(st.integers(0, 3))):
        counts = draw(st.lists(st.integers(0, 4), min_size=samples, max_size=samples))
        values = draw(hnp.arrays(np.uint64, sum(counts)))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
        features.append(IdFeature(draw(names), values, offsets))

    def tensor() -> Tensor:
        shape = (samples, *draw(st.lists(st.integers(0, 3), max_size=2)))
        return Tensor(draw(hnp.arrays(np.dtype(draw(st.sampled_from(DTYPES))), shape)), draw(names) or None)

    return Batch(
        features,
        [tensor() for _ in range(draw(st.integers(0, 2)))],
        [tensor() for _ in range(draw(st.integers(0, 2)))],
        meta=draw(st.none() | st.binary(max_size=20)),
        requires_grad=draw(st.booleans()),
        batch_id=draw(st.none() | st.integers(0, 2**64 - 1)),
    )


@given(batches())
@settings(deadline=None)
def test_written_and_read_again(batch: Batch):
    assert_same(Batch.from_bytes(batch.to_arrow()), batch)


# ---- what is refused ---------------------------------------------------------------------------------------


def nested(*samples: list[list[int]]) -> pa.Array:
    return pa.array(samples, pa.list_(pa.list_(pa.uint64())))


@pytest.mark.parametrize(
    ("columns", "metadata", "said"),
    [
        ({"f": pa.array([[1], None], pa.list_(pa.uint64()))}, None, "feature 'f': it has 1 nulls"),
        ({"f": pa.array([[1, None]], pa.list_(pa.uint64()))}, None, "feature 'f': it has 1 nulls"),
        ({"d": pa.array([1.0, None], pa.float32())}, None, "feature 'd': it has 1 nulls"),
        ({"d": pa.array([[1.0], None], pa.list_(pa.float32(), 1))}, None, "feature 'd': it has 1 nulls"),
        (
            {"f": pa.array([[1]], pa.list_(pa.int64()))},
            None,
            "ids are list<uint64> or uint64, not list<int64>",
        ),
        ({"f": pa.array([["a"]], pa.list_(pa.string()))}, None, "ids are list<uint64> or uint64, not list"),
        ({"f": nested([[1]])}, None, "ids are list<uint64> or uint64, not list"),
        ({"f": pa.array([1], pa.int64())}, {"satrap.roles": '["id"]'}, "not int64"),
        ({"d": ids([1])}, {"satrap.roles": '["dense"]'}, "a dense column is numbers"),
        (
            {"d": pa.array(["a"])},
            None,
            "a dense column is numbers, or a fixed_size_list of numbers, not utf8",
        ),
        ({"d": pa.array(["a"]).dictionary_encode()}, None, "not dictionary"),
        ({"d": pa.array([{"x": 1}])}, None, "not struct"),
        ({"d": pa.nulls(2)}, None, "not null"),
        ({"d": pa.array([1], pa.decimal128(5))}, None, "not decimal"),
        ({"d": pa.array([1], pa.timestamp("s"))}, None, "not timestamp"),
        ({"l": pa.array(["a"])}, {"satrap.roles": '["label"]'}, "a label column is numbers"),
        (GOOD, {"satrap.roles": '["id"]'}, "it has 1 roles for 2 columns"),
        (GOOD, {"satrap.roles": '["id", "height"]'}, "it is a JSON list of id, dense, label"),
        (GOOD, {"satrap.roles": '["id", ["dense"]]'}, "it is a JSON list of id, dense, label"),
        (GOOD, {"satrap.roles": "[" * 100_000}, "it is a JSON list"),
        (GOOD, {"satrap.roles": "id,dense"}, "it is a JSON list"),
        (GOOD, {"satrap.batch": "2"}, "this satrap reads version 1"),
        (GOOD, {"satrap.meta": "***"}, "it is not base64"),
        (GOOD, {"satrap.requires_grad": "yes"}, "it is true or false"),
        (GOOD, {"satrap.batch_id": "-1"}, "it is a number below 2^64"),
        (GOOD, {"satrap.batch_id": str(2**64)}, "it is a number below 2^64"),
        (GOOD, {"satrap.batch_id": "9" * 5000}, "it is a number below 2^64"),
    ],
)
def test_columns_that_are_no_batch(columns: Any, metadata: dict[str, str] | None, said: str):
    assert said in refused(stream(columns, metadata))


def test_too_many_samples():
    data = stream({"d": pa.array(np.zeros(MAX_SAMPLES + 1, np.int8))})
    assert refused(data) == "bad batch: 65536 samples; a batch has 65,535 at most"
    assert decode(stream({"d": pa.array(np.zeros(MAX_SAMPLES, np.int8))})).batch_size == MAX_SAMPLES


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_body(compression: str):
    assert "compressed" in refused(stream(GOOD, compression=compression))


def test_more_than_one_record_batch():
    schema = pa.schema([("d", pa.int8())])
    batch = pa.RecordBatch.from_arrays([pa.array([1], pa.int8())], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    assert "it goes on with a record batch after its first" in refused(sink.getvalue().to_pybytes())


def test_no_record_batch():
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, pa.schema([("d", pa.int8())])).close()
    assert "it ends before its record batch" in refused(sink.getvalue().to_pybytes())


def test_a_record_batch_without_a_schema():
    data = stream(GOOD)
    schema_bytes = 8 + struct.unpack_from("<i", data, 4)[0]
    assert "it has a record batch where its schema should be" in refused(data[schema_bytes:])
    assert "it has a schema where its record batch should be" in refused(data[:schema_bytes] * 2)


def test_an_arrow_file():
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pydict({"d": [1.0]})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert "it is an Arrow file; write an Arrow stream instead" in refused(sink.getvalue().to_pybytes())


def test_big_endian_numbers():
    data = bytearray(stream({"d": pa.array([1], pa.int8())}))
    head = bytes(data[8 : 8 + struct.unpack_from("<i", data, 4)[0]])
    message = struct.unpack_from("<I", head)[0]
    vtable = message - struct.unpack_from("<i", head, message)[0]
    header = message + struct.unpack_from("<H", head, vtable + 8)[0]
    schema = header + struct.unpack_from("<I", head, header)[0]
    vtable = schema - struct.unpack_from("<i", head, schema)[0]
    # pyarrow leaves the endianness out, as it is 0: let its slot lead to some number that is 1.
    one = next(at for at in range(schema + 4, len(head), 2) if head[at : at + 2] == b"\x01\x00")
    struct.pack_into("<H", data, 8 + vtable + 4, one - schema)
    assert "big-endian" in refused(bytes(data))


def shared_columns(count: int, name: bytes) -> bytes:
    """A stream that ends after its schema: `count` columns of int8, which are one field of the flatbuffer."""
    fields = 48 + 4 * count
    field, number = fields + 12, fields + 36
    name_at = number + 12
    head = bytearray(name_at)
    struct.pack_into("<I", head, 0, 16)
    struct.pack_into("<5H", head, 4, 10, 12, 0, 4, 8)  # a message: its kind, its header
    struct.pack_into("<iB3xI", head, 16, 12, 1, 12)
    struct.pack_into("<4H", head, 28, 8, 8, 0, 4)  # a schema: its fields
    struct.pack_into("<iI", head, 36, 8, 4)
    struct.pack_into(f"<I{count}I", head, 44, count, *(field - 48 - 4 * i for i in range(count)))
    struct.pack_into("<6H", head, fields, 12, 16, 4, 0, 8, 12)  # a field: its name, its kind, its type
    struct.pack_into("<iIB3xI", head, field, 12, name_at - field - 4, 2, number - field - 12)
    struct.pack_into("<4H", head, number - 8, 8, 12, 4, 8)  # an int: bits, signed
    struct.pack_into("<iiB3x", head, number, 8, 8, 1)
    head += struct.pack("<I", len(name)) + name
    return b"\xff" * 4 + struct.pack("<i", len(head)) + head


def test_parts_of_a_schema_that_are_shared_do_not_multiply():
    assert "it ends before its record batch" in refused(shared_columns(1, b"d"))
    assert "it ends before its record batch" in refused(shared_columns(10_000, b"d"))
    assert "more than 10,000 columns" in refused(shared_columns(10_001, b"d"))
    assert "its schema has longer texts than bytes" in refused(shared_columns(100, b"d" * 10_000))


def test_a_name_that_is_not_utf8():
    data = stream({"abcd": pa.array([1], pa.int8())})
    assert "the name of a column is not UTF-8" in refused(data.replace(b"abcd", b"\xff\xfe\xfd\xfc"))


def test_more_dimensions_than_an_array_has():
    column = pa.array([1], pa.int8())
    for _ in range(40):
        column = pa.FixedSizeListArray.from_arrays(column, 1)
    assert "feature 'd': a dense column is numbers" in refused(stream({"d": column}))


@pytest.mark.parametrize("sizes", [[2**31 - 1] * 4, [2**31 - 1, 0, 2**31 - 1, 2**31 - 1]])
def test_samples_larger_than_any_array(sizes: list[int]):
    kind = pa.float32()
    for size in sizes:
        kind = pa.list_(kind, size)
    assert "feature 'd': no array has samples of the shape" in refused(stream({"d": pa.array([], kind)}))


def test_every_cut():
    data = stream(GOOD)
    end = data.rindex(b"\xff\xff\xff\xff\0\0\0\0")
    for length in range(4, end):
        refused(data[:length])
    assert decode(data[:end]).batch_size == 3, "the end of a stream may be left out"


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_whatever_is_spoiled_the_answer_is_an_error_or_a_sound_batch(data: st.DataObject):
    columns = {**GOOD, "one": pa.array([[True, False]] * 3, pa.list_(pa.bool_(), 2))}
    spoiled = bytearray(stream(columns, {"satrap.roles": '["id", "dense", "label"]'}))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(4, len(spoiled) - 1))
        spoiled[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    try:
        batch = Batch.from_bytes(bytes(spoiled))
    except BatchError:
        return
    for feature in batch.id_features:
        assert feature.offsets[0] == 0
        assert feature.offsets[-1] == len(feature.values)
        assert (np.diff(feature.offsets.astype(np.int64)) >= 0).all()
        feature.values.sum()
    for tensor in (*batch.non_id_features, *batch.labels):
        tensor.data.tobytes()


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (Batch([IdFeature("f", np.zeros(2, np.uint64), np.array([0, 3], np.uint32))]), "offsets must rise"),
        (
            Batch([IdFeature("f", np.zeros(2, np.uint64), np.array([0, 2, 1, 2], np.uint32))]),
            "offsets must rise",
        ),
        (Batch([IdFeature("f", np.zeros(0, np.uint64), np.zeros(0, np.uint32))]), "offsets must rise"),
        (Batch(non_id_features=[Tensor(np.zeros(2, "U1"))]), "cannot travel"),
        (Batch(non_id_features=[Tensor(np.zeros(2, complex))]), "cannot travel"),
        (Batch(non_id_features=[Tensor(np.zeros(2)), Tensor(np.zeros(3))]), "3 samples"),
        (Batch(non_id_features=[Tensor(np.zeros(()))]), "a scalar has no samples"),
    ],
)
def test_what_cannot_be_written(batch: Batch, said: str):
    with pytest.raises(BatchError, match=said):
        batch.to_arrow()


def test_pyarrow_is_imported_to_write_only():
    code = (
        "import sys, satrap.batch, satrap.middleware, satrap.client\n"
        "from satrap.batch import Batch, decode\n"
        f"decode({Batch(meta=b'm').to_arrow()!r})\n"
        "assert 'pyarrow' not in sys.modules\n"
        "Batch().to_arrow()\n"
        "assert 'pyarrow' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
