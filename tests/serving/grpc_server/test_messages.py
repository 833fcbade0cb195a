"""gRPC's framing: any cut gives the same messages, bad ones are refused, statuses survive their encoding."""

import gzip
import struct
import tracemalloc
import zlib
from urllib.parse import unquote

import grpc
import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from satrap.serving.grpc_server.messages import (
    MessageError,
    MessageParser,
    framed,
    header_block,
    parse_timeout,
    status_block,
)

LIMIT = 1000


@given(st.lists(st.binary(max_size=50), max_size=5), st.data())
def test_messages_survive_any_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = memoryview(b"".join(framed(message) for message in messages))
    parser = MessageParser(LIMIT)
    parsed: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        parsed += map(bytes, parser.feed(stream[:cut]))
        stream = stream[cut:]
    assert parsed == messages
    assert parser.is_between


def test_a_message_is_memory_of_its_own() -> None:
    buffer = bytearray(framed(b"first"))
    (message,) = MessageParser(LIMIT).feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert message == b"first"


def test_a_large_message_takes_memory_as_it_arrives() -> None:
    parser = MessageParser(10**9)
    message = bytes(range(256)) * 10_000
    stream = memoryview(framed(message))
    tracemalloc.start()
    try:
        assert parser.feed(memoryview(struct.pack(">BI", 0, 10**9))) == []
        assert tracemalloc.get_traced_memory()[0] < 10**6
    finally:
        tracemalloc.stop()
    parser = MessageParser(10**9)
    parts = [stream[start : start + 99_999] for start in range(0, len(stream), 99_999)]
    assert [bytes(whole) for part in parts for whole in parser.feed(part)] == [message]


def test_half_a_message_is_not_between() -> None:
    parser = MessageParser(LIMIT)
    assert parser.feed(memoryview(framed(b"message")[:3])) == []
    assert not parser.is_between
    assert parser.feed(memoryview(framed(b"message")[3:7])) == []
    assert not parser.is_between


def compressed(data: bytes) -> bytes:
    return struct.pack(">BI", 1, len(data)) + data


@pytest.mark.parametrize(
    ("encoding", "data"),
    [(b"gzip", gzip.compress(b"x" * 900)), (b"deflate", zlib.compress(b"x" * 900))],
    ids=["gzip", "deflate"],  # the bytes have a time in them
)
def test_compressed_messages(encoding: bytes, data: bytes) -> None:
    assert MessageParser(LIMIT, encoding).feed(memoryview(compressed(data))) == [b"x" * 900]
    with pytest.raises(MessageError, match=r"cannot be decompressed|ends too early") as caught:
        MessageParser(LIMIT, encoding).feed(memoryview(compressed(data[:-9])))
    assert caught.value.status is grpc.StatusCode.INTERNAL
    with pytest.raises(MessageError, match="cannot be decompressed"):
        MessageParser(LIMIT, encoding).feed(memoryview(compressed(b"no such thing")))


@pytest.mark.parametrize(
    ("data", "encoding", "status", "reason"),
    [
        (framed(bytes(1001)), b"identity", "RESOURCE_EXHAUSTED", r"larger than max \(1001 vs. 1000\)"),
        (struct.pack(">BI", 0, 2**32 - 1), b"identity", "RESOURCE_EXHAUSTED", "larger than max"),
        (compressed(gzip.compress(bytes(10**7))), b"gzip", "RESOURCE_EXHAUSTED", "larger than max"),
        (compressed(b"x"), b"identity", "UNIMPLEMENTED", "'identity' is not known"),
        (compressed(b"x"), b"snappy", "UNIMPLEMENTED", "'snappy' is not known"),
        (struct.pack(">BI", 2, 0), b"gzip", "INTERNAL", "the flag 2"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, encoding: bytes, status: str, reason: str) -> None:
    with pytest.raises(MessageError, match=reason) as caught:
        MessageParser(20_000 if encoding == b"gzip" and len(data) > 1000 else LIMIT, encoding).feed(
            memoryview(data)
        )
    assert caught.value.status.name == status


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1),
        (b"99999999m", 99_999.999),
        (b"2H", 7200),
        (b"3M", 180),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"0S", 0),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S", b"\xff\xff"])
def test_what_is_no_timeout(value: bytes) -> None:
    assert parse_timeout(value) is None


def decoded(block: bytes) -> dict[str, str]:
    return dict(Decoder(max_header_list_size=2**20).decode(block))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)), max_size=5))
def test_blocks_are_hpack(headers: list[tuple[bytes, bytes]]) -> None:
    assert [tuple(pair) for pair in Decoder(2**20).decode(header_block(headers), raw=True)] == headers


@given(st.sampled_from(list(grpc.StatusCode)), st.text(max_size=200))
def test_statuses_and_their_details(status: grpc.StatusCode, details: str) -> None:
    fields = decoded(status_block(status, details))
    assert int(fields["grpc-status"]) == status.value[0]
    if status is not grpc.StatusCode.OK and details:
        sent = fields["grpc-message"]
        assert sent.isascii() and sent.isprintable()
        assert unquote(sent) == details.encode(errors="replace").decode()


def test_details_that_no_client_takes_are_cut() -> None:
    for prefix in ("", "a", "ab"):
        sent = decoded(status_block(grpc.StatusCode.INTERNAL, prefix + "ß" * 100_000))["grpc-message"]
        assert 5_990 < len(sent) <= 6_000
        assert (
            unquote(sent, errors="ignore") == prefix + "ß" * 1_000
            or len(unquote(sent, errors="ignore")) > 990
        )


def test_metadata_beside_the_status() -> None:
    fields = decoded(status_block(grpc.StatusCode.OK, metadata=[("a", "ä"), ("b-bin", b"\x00\xff")]))
    assert fields == {"grpc-status": "0", "a": "\\xe4", "b-bin": "AP8"}
