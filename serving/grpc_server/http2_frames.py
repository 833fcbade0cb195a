"""HTTP/2's frames (RFC 9113, 4 and 6): how they look, and how bytes that arrive in pieces are cut into them.

What a frame means is decided by who listens (`http2.Connection`). Data is passed on in the pieces in which it came; any
other payload is collected first, which is why it may not be long.
"""

import enum
import struct
from typing import Protocol

from satrap.serving.frames import Bytes

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "GREATEST",
    "MAX_CONTROL_BYTES",
    "PADDED",
    "PREFACE",
    "WITH_PRIORITY",
    "BrokenConnectionError",
    "ErrorCode",
    "FrameKind",
    "FrameListener",
    "FrameReader",
    "frame_head",
    "unpadded",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""

END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
"""Flags of frames."""

GREATEST = 2**31 - 1
"""The greatest stream and window."""

MAX_CONTROL_BYTES = 65_536
"""Payloads that are collected are no longer than this."""

_HEAD = struct.Struct(">HBBBI")  # length in 16 + 8 bits, type, flags, stream


class FrameKind:
    """Kinds of frames (RFC 9113, 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class BrokenConnectionError(Exception):
    """The peer did what it must not: the connection ends with a GOAWAY of that code and reason."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.code, self.reason = code, reason


class FrameListener(Protocol):
    """Who is told of frames, in their order. Any of these may raise `BrokenConnectionError`."""

    def begins(self, kind: int, stream: int, length: int) -> None:
        """A frame's head is there; its payload has so many bytes, padding and all."""

    def data(self, stream: int, piece: memoryview) -> None:
        """Some of a DATA frame's payload. It is valid until the call returns."""

    def data_ends(self, stream: int) -> None:
        """That was the stream's last data."""

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Any other frame whose kind is known, and DATA that is padded, whole."""


class FrameReader:
    """Cuts what arrives into frames. After it raised `BrokenConnectionError` it is of no more use."""

    def __init__(self, listener: FrameListener, frame_bytes: int) -> None:
        """Tell `listener`; a payload may have `frame_bytes`."""
        self._listener, self._frame_bytes = listener, frame_bytes
        self._preface = PREFACE  # what is missing of it
        self._partial = bytearray()  # of a frame's head, or of the payload that `_head` announced
        self._head: tuple[int, int, int, int] | None = None  # kind, flags, stream, length
        self._data_left = self._skip_left = 0  # of a payload that is not collected
        self._data_stream, self._data_ends = 0, False

    @property
    def is_begun(self) -> bool:
        """The peer has sent the bytes that every connection begins with."""
        return not self._preface

    def feed(self, data: memoryview) -> None:
        """Take what arrived, in pieces of any size.

        Raises:
            BrokenConnectionError: this is not HTTP/2, a frame is too long, or the listener does not want it.
        """
        position = self._take_preface(data) if self._preface else 0
        while position < len(data):
            position = self._step(data, position)

    def _take_preface(self, data: memoryview) -> int:
        length = min(len(data), len(self._preface))
        if data[:length] != self._preface[:length]:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface = self._preface[length:]
        return length

    def _step(self, data: memoryview, position: int) -> int:
        """Take the next piece, and say where the one after it begins."""
        if self._data_left:
            end = min(position + self._data_left, len(data))
            self._data_left -= end - position
            self._listener.data(self._data_stream, data[position:end])
            if not self._data_left and self._data_ends:
                self._listener.data_ends(self._data_stream)
            return end
        if self._skip_left:
            end = min(position + self._skip_left, len(data))
            self._skip_left -= end - position
            return end
        wanted = _HEAD.size if self._head is None else self._head[3]
        collected, position = self._collect(data, position, wanted)
        if collected is None:
            return position
        if self._head is not None:
            kind, flags, stream, _ = self._head
            self._head = None
            self._listener.frame(kind, flags, stream, bytes(collected))
            return position
        high, low, kind, flags, stream = _HEAD.unpack(collected)
        self._begin(kind, flags, stream & GREATEST, high << 8 | low)
        return position

    def _collect(self, data: memoryview, position: int, wanted: int) -> tuple[Bytes | None, int]:
        partial = self._partial
        if not partial and len(data) - position >= wanted:
            return data[position : position + wanted], position + wanted
        end = min(position + wanted - len(partial), len(data))
        partial += data[position:end]
        if len(partial) < wanted:
            return None, end
        self._partial = bytearray()
        return partial, end

    def _begin(self, kind: int, flags: int, stream: int, length: int) -> None:
        """A frame's head is there: decide what becomes of its payload."""
        if length > self._frame_bytes:
            raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        self._listener.begins(kind, stream, length)
        if kind == FrameKind.DATA:
            if not flags & PADDED:
                self._data_stream, self._data_left = stream, length
                self._data_ends = bool(flags & END_STREAM)
                if not length and self._data_ends:
                    self._listener.data_ends(stream)
                return
        elif kind > FrameKind.CONTINUATION:
            self._skip_left = length
            return
        elif length > MAX_CONTROL_BYTES:
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, f"a control frame of {length} bytes")
        if length:
            self._head = kind, flags, stream, length
        else:
            self._listener.frame(kind, flags, stream, b"")


def frame_head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """What stands before a payload of `length` bytes."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def unpadded(payload: bytes) -> bytes:
    """The payload of a frame with the flag PADDED, without its padding.

    Raises:
        BrokenConnectionError: there is more padding than payload.
    """
    if not payload or payload[0] >= len(payload):
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
