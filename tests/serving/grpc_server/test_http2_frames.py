"""Bytes become frames, however they are cut."""

import pytest

from satrap.serving.grpc_server.http2_frames import (
    END_STREAM,
    PADDED,
    PREFACE,
    BrokenConnectionError,
    FrameKind,
    FrameReader,
    frame_head,
    unpadded,
)

LIMIT = 100_000


class Heard:
    """What was told, data put together again."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def begins(self, kind: int, stream: int, length: int) -> None:
        self.told.append(("begins", kind, stream, length))

    def data(self, stream: int, piece: memoryview) -> None:
        last = self.told[-1]
        if last[:2] == ("data", stream):
            self.told[-1] = ("data", stream, bytes(last[2]) + bytes(piece))  # type: ignore[call-overload]
        else:
            self.told.append(("data", stream, bytes(piece)))

    def data_ends(self, stream: int) -> None:
        self.told.append(("ends", stream))

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.told.append(("frame", kind, flags, stream, payload))


def framed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frame_head(kind, flags, stream, len(payload)) + payload


SENT = (
    PREFACE
    + framed(FrameKind.SETTINGS, 0, 0, b"")
    + framed(FrameKind.HEADERS, 4, 1, b"block")
    + framed(FrameKind.DATA, 0, 1, b"first")
    + framed(200, 0, 1, b"of a kind that nobody knows")
    + framed(FrameKind.DATA, END_STREAM, 1, b"last")
    + framed(FrameKind.DATA, END_STREAM, 3, b"")
    + framed(FrameKind.DATA, PADDED, 5, b"\x02data\0\0")
)
TOLD = [
    ("begins", FrameKind.SETTINGS, 0, 0),
    ("frame", FrameKind.SETTINGS, 0, 0, b""),
    ("begins", FrameKind.HEADERS, 1, 5),
    ("frame", FrameKind.HEADERS, 4, 1, b"block"),
    ("begins", FrameKind.DATA, 1, 5),
    ("data", 1, b"first"),
    ("begins", 200, 1, 27),
    ("begins", FrameKind.DATA, 1, 4),
    ("data", 1, b"last"),
    ("ends", 1),
    ("begins", FrameKind.DATA, 3, 0),
    ("ends", 3),
    ("begins", FrameKind.DATA, 5, 7),
    ("frame", FrameKind.DATA, PADDED, 5, b"\x02data\0\0"),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10, 64, len(SENT)])
def test_no_cut_makes_a_difference(step: int) -> None:
    heard = Heard()
    reader = FrameReader(heard, LIMIT)
    for start in range(0, len(SENT), step):
        assert reader.is_begun == (start >= len(PREFACE))
        reader.feed(memoryview(SENT)[start : start + step])
    assert heard.told == TOLD


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "this is not HTTP/2"),
        (PREFACE + frame_head(FrameKind.DATA, 0, 1, LIMIT + 1), "a frame of 100001 bytes"),
        (PREFACE + frame_head(FrameKind.HEADERS, 0, 1, 65_537), "a control frame of 65537 bytes"),
    ],
    ids=["preface", "frame", "control frame"],
)
def test_what_is_no_frame_or_too_long_is_refused_at_once(sent: bytes, why: str) -> None:
    with pytest.raises(BrokenConnectionError, match=why):
        FrameReader(Heard(), LIMIT).feed(memoryview(sent))


def test_padding_is_taken_away() -> None:
    assert unpadded(b"\x02data\0\0") == b"data"
    for bad in (b"", b"\x05four", b"\x01"):
        with pytest.raises(BrokenConnectionError, match="more padding than payload"):
            unpadded(bad)
