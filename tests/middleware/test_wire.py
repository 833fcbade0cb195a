"""Requests framed by hand are protobuf's, byte for byte, and what else protobuf may write is read too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.middleware.wire import batch_of_request, marks_of_metadata, metadata_of_marks, request_of_batch
from satrap.protos import middleware_pb2 as pb

SIZES = [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152]


@pytest.mark.parametrize("size", SIZES)
def test_request_is_protobufs(size):
    batch = bytes(size)
    request = request_of_batch(batch)
    assert pb.LookupRequest.FromString(request).batch == batch
    assert batch_of_request(request) == batch
    if size:  # protobuf leaves an empty field out
        assert request == pb.LookupRequest(batch=batch).SerializeToString()


def test_batch_is_a_view():
    view = batch_of_request(request_of_batch(b"x" * 300))
    assert isinstance(view, memoryview)
    assert view == b"x" * 300


@pytest.mark.parametrize(
    ("request_bytes", "batch"),
    [
        (b"", b""),
        (b"\x0a\x01a\x0a\x01b", b"b"),  # a field given twice: the last one counts
        (b"\x0a\x81\x00a", b"a"),  # a length in more bytes than it needs
        (b"\x10\x05\x0a\x01a", b"a"),  # a field of a later version
        (b"\x0a\x01a\x10\x05", b"a"),
    ],
)
def test_other_ways_to_say_it(request_bytes, batch):
    assert batch_of_request(request_bytes) == batch


@given(st.binary(max_size=40))
def test_anything_is_read_as_protobuf_reads_it(request_bytes):
    try:
        expected = pb.LookupRequest.FromString(request_bytes).batch
    except Exception as error:
        with pytest.raises(type(error)):
            batch_of_request(request_bytes)
    else:
        assert batch_of_request(request_bytes) == expected


@given(st.booleans(), st.none() | st.integers(0, 10**18 - 1))
def test_marks_travel(is_stale, staleness_ms):
    metadata = metadata_of_marks(is_stale=is_stale, staleness_ms=staleness_ms)
    assert marks_of_metadata(metadata) == (is_stale, staleness_ms)
    assert marks_of_metadata([("other", b"\xff"), *metadata]) == (is_stale, staleness_ms)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [("satrap-staleness-ms", "soon")],
        [("satrap-staleness-ms", "-1")],
        [("satrap-staleness-ms", "1.5")],
        [("satrap-staleness-ms", "")],
        [("satrap-staleness-ms", "9" * 5000)],
        [("satrap-staleness-ms", "\u0661")],
        [("satrap-staleness-ms", b"1")],
        [("satrap-stale", "no")],
    ],
)
def test_marks_that_are_none(metadata):
    assert marks_of_metadata(metadata) == (False, None)
