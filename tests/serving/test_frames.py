"""Frames: a round trip however the bytes are cut, and refusal of what is not a frame."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.middleware import wire as wire_names
from satrap.serving import headers
from satrap.serving.frames import FrameError, FrameParser, Kind, encode, read_into, receive_head

HEADS = st.dictionaries(
    st.text(), st.one_of(st.text(), st.integers(-(2**40), 2**40), st.lists(st.integers()))
)


def wire(kind: Kind, head: dict, *values: bytes) -> bytes:
    return b"".join(bytes(b) for b in encode(kind, head, values))


@given(st.lists(st.tuples(st.sampled_from(Kind), HEADS, st.binary(max_size=300)), max_size=4), st.data())
def test_frames_survive_any_cut(frames: list[tuple[Kind, dict, bytes]], data: st.DataObject) -> None:
    stream = b"".join(wire(kind, head, body) for kind, head, body in frames)
    parser, parsed = FrameParser(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        parsed += parser.feed(stream[:cut])
        stream = stream[cut:]
    assert [(f.kind, f.head, f.body) for f in parsed] == frames


def test_one_byte_at_a_time() -> None:
    parser, parsed = FrameParser(), []
    for byte in wire(Kind.ANSWER, {"answers": [[200, 3]]}, b"abc") * 2:
        parsed += parser.feed(bytes([byte]))
    assert [f.body for f in parsed] == [b"abc", b"abc"]


def test_values_are_not_copied_by_encode() -> None:
    value = bytearray(b"x" * 1000)
    assert encode(Kind.PREDICT, {}, [value])[1] is value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack("<B3xIQ", 99, 0, 0), "no frame of kind 99"),
        (struct.pack("<B3xIQ", 1, 2**32 - 1, 0), "larger than any"),
        (struct.pack("<B3xIQ", 1, 0, 2**63), "larger than any"),
        (struct.pack("<B3xIQ", 1, 3, 0) + b"{,}", "not JSON"),
        (struct.pack("<B3xIQ", 1, 1, 0) + b"\xff", "not JSON"),
        (struct.pack("<B3xIQ", 1, 2, 0) + b"[]", "not an object"),
    ],
)
def test_what_is_not_a_frame_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        FrameParser().feed(data)


def test_blocking_reads() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire(Kind.PREDICT, {"ids": ["a"]}, b"12345"))
        assert receive_head(theirs) == (Kind.PREDICT, {"ids": ["a"]}, 5)
        value = bytearray(5)
        assert read_into(theirs, value) and value == b"12345"
        ours.sendall(wire(Kind.PREDICT, {})[:7])
        ours.close()
        assert receive_head(theirs) is None


def test_marks_have_the_middlewares_names() -> None:
    # Twice, because the frontend imports nothing of the middleware's.
    assert (headers.STALE_HEADER, headers.STALENESS_HEADER) == (
        wire_names.STALE_KEY,
        wire_names.STALENESS_KEY,
    )
