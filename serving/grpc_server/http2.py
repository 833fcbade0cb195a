"""The server's end of one HTTP/2 connection (RFC 9113): streams and flow control. No I/O, no clock of its own.

The caller feeds what arrived to `receive`, passes on what `take` gives, and hears of streams through `Streams`. Bytes
become frames in `http2_frames`, header blocks headers in `http2_headers`; blocks that are sent are made by the caller,
without the dynamic table.

What a peer can make us keep is bounded: header blocks, streams at once, unread bytes (by flow control) and streams that
are opened only to be reset. What it must not do ends the connection with a GOAWAY that says why.
"""

import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from satrap.serving.frames import Bytes
from satrap.serving.grpc_server.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GREATEST,
    MAX_CONTROL_BYTES,
    PADDED,
    WITH_PRIORITY,
    BrokenConnectionError,
    ErrorCode,
    FrameKind,
    FrameReader,
    frame_head,
    unpadded,
)
from satrap.serving.grpc_server.http2_headers import Header, HeaderDecoder

__all__ = ["Connection", "Limits", "Streams"]

_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")

_HEADER_TABLE_SIZE, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADER_LIST = 1, 3, 4, 5, 6

_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME_BYTES = 16_384


class Limits(NamedTuple):
    """What one connection may do.

    Attributes:
        streams: open at once; more are refused, and may be tried again.
        stream_window: bytes that may be on their way to us on one stream.
        connection_window: the same, of all streams.
        frame_bytes: of one frame's payload.
        header_bytes: of one request's headers, decoded.
        resets: streams that the peer may reset before we answer them; every two that it opens allow one more, and
            time does.
        resets_per_second: how many more, in every second that passes.
    """

    streams: int = 256
    stream_window: int = 1024**2
    connection_window: int = 8 * 1024**2
    frame_bytes: int = 1024**2
    header_bytes: int = 16_384
    resets: int = 1000
    resets_per_second: float = 500


class Streams(Protocol):
    """Who is told what happens to streams. None of these may raise."""

    def opened(self, stream: int, headers: Sequence[Header], *, ended: bool) -> None:
        """The peer opened a stream; `ended`: it sends nothing more."""

    def data(self, stream: int, data: memoryview) -> None:
        """Some bytes came. They are valid until the call returns."""

    def ended(self, stream: int) -> None:
        """The peer sends nothing more on it."""

    def aborted(self, stream: int) -> None:
        """The peer reset it: nothing is to be sent on it any more."""

    def flushed(self, stream: int) -> None:
        """Flow control holds back none of its data any more."""


class _Stream:
    __slots__ = ("answering", "held", "receive_window", "receiving", "send_window", "trailers", "waiting")

    def __init__(self, send_window: int, receive_window: int, *, receiving: bool) -> None:
        self.send_window = send_window
        self.receive_window = receive_window
        self.receiving = receiving  # the peer may still send
        self.answering = False  # something of the answer was sent
        self.held = False  # its window is not given back
        self.waiting: deque[memoryview] = deque()  # data that flow control holds back
        self.trailers: bytes | None = None  # the block that follows it and ends the stream


class Connection:
    """One connection's state. `failed` says why it is to be closed, once it is; send what `take` gives first."""

    def __init__(self, streams: Streams, limits: Limits = Limits()) -> None:  # noqa: B008 (immutable)
        """The first bytes to send are there at once."""
        self._listener, self._limits = streams, limits
        self._reader = FrameReader(self, limits.frame_bytes)
        self._headers_of = HeaderDecoder(limits.header_bytes).decode
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._block: bytearray | None = None  # headers that CONTINUATION frames go on with
        self._block_stream, self._block_ends = 0, False
        self._unreturned = 0  # bytes received that the peer has not been given back, of all streams
        self._send_window = self._peer_window = _DEFAULT_WINDOW
        self._peer_frame_bytes = _DEFAULT_FRAME_BYTES
        self._table_update = b""
        self._resets_left: float = limits.resets
        self._now = 0.0
        self._refusing = False
        self._out: list[Bytes] = []
        self.failed = ""
        self.pings_answered = 0
        settings = (
            (_MAX_STREAMS, limits.streams),
            (_INITIAL_WINDOW, limits.stream_window),
            (_MAX_FRAME, limits.frame_bytes),
            (_MAX_HEADER_LIST, limits.header_bytes),
        )
        self._write(FrameKind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))
        self._write(FrameKind.WINDOW_UPDATE, 0, 0, _U32.pack(limits.connection_window - _DEFAULT_WINDOW))

    @property
    def is_begun(self) -> bool:
        """The peer has sent the bytes that every connection begins with."""
        return self._reader.is_begun

    @property
    def open_streams(self) -> int:
        """Streams that are not finished."""
        return len(self._streams)

    def take(self) -> list[Bytes]:
        """What is to be sent now, in order."""
        out, self._out = self._out, []
        return out

    # ---- what arrives ----

    def receive(self, data: memoryview, now: float = 0.0) -> None:
        """Take what arrived, in pieces of any size. Nothing is looked at any more once `failed` is set.

        `now` is any clock's time in seconds, which does not go back.
        """
        if self.failed:
            return
        self._allow_resets((now - self._now) * self._limits.resets_per_second)
        self._now = now
        try:
            self._reader.feed(data)
        except BrokenConnectionError as error:
            self._write_goaway(error.code, error.reason)
            self.failed = error.reason

    # ---- frames ----

    def begins(self, kind: int, stream: int, length: int) -> None:
        """Part of `FrameListener`."""
        if self._block is not None and (kind != FrameKind.CONTINUATION or stream != self._block_stream):
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame in the middle of headers")
        if kind == FrameKind.DATA:
            self._account(stream, length)

    def data(self, stream: int, piece: memoryview) -> None:
        """Part of `FrameListener`."""
        if stream in self._streams:
            self._listener.data(stream, piece)

    def data_ends(self, stream: int) -> None:
        """Part of `FrameListener`."""
        self._peer_ended(stream)

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Part of `FrameListener`."""
        match kind:
            case FrameKind.DATA:  # padded, others are not collected
                self.data(stream, memoryview(unpadded(payload)))
                if flags & END_STREAM:
                    self._peer_ended(stream)
            case FrameKind.HEADERS:
                self._headers(flags, stream, payload)
            case FrameKind.CONTINUATION:
                self._continue(flags, payload)
            case FrameKind.RST_STREAM:
                self._reset(stream, payload)
            case FrameKind.SETTINGS:
                self._settings(flags, stream, payload)
            case FrameKind.PING:
                self._ping(flags, stream, payload)
            case FrameKind.WINDOW_UPDATE:
                self._window_update(stream, payload)
            case FrameKind.PUSH_PROMISE:
                raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a client that pushes")
            case FrameKind.PRIORITY if len(payload) != 5 or not stream:
                raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad PRIORITY frame")
            case FrameKind.GOAWAY if stream or len(payload) < 8:
                raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a bad GOAWAY frame")
            case _:  # a priority, which nobody heeds, or a GOAWAY: what is open goes on
                pass

    def _account(self, stream_id: int, length: int) -> None:
        """Flow control: a payload is counted, padding too, and given back as soon as half of a window is used."""
        if stream_id == 0 or stream_id > self._last:
            raise BrokenConnectionError(
                ErrorCode.PROTOCOL_ERROR, f"data on stream {stream_id}, which is not open"
            )
        self._unreturned += length
        if self._unreturned > self._limits.connection_window:
            raise BrokenConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window"
            )
        if self._unreturned * 2 > self._limits.connection_window:
            self._write(FrameKind.WINDOW_UPDATE, 0, 0, _U32.pack(self._unreturned))
            self._unreturned = 0
        stream = self._streams.get(stream_id)
        if stream is None:  # we have ended it, and the peer did not know
            return
        if not stream.receiving:
            raise BrokenConnectionError(ErrorCode.STREAM_CLOSED, f"data on stream {stream_id} after its end")
        stream.receive_window -= length
        window = self._limits.stream_window
        if stream.receive_window < 0:
            raise BrokenConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, f"more data than stream {stream_id}'s window"
            )
        if stream.receive_window * 2 < window and not stream.held:
            self._write(FrameKind.WINDOW_UPDATE, 0, stream_id, _U32.pack(window - stream.receive_window))
            stream.receive_window = window

    def _peer_ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.receiving = False
            self._listener.ended(stream_id)

    # ---- headers ----

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream % 2 == 0:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"headers on stream {stream}")
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame that is too short")
            payload = payload[5:]
        self._block_stream, self._block_ends = stream, bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._headers_done(payload)
        else:
            self._block = bytearray(payload)

    def _continue(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        self._block += payload
        if len(self._block) > MAX_CONTROL_BYTES:
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "headers without end")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._headers_done(block)

    def _headers_done(self, block: bytes) -> None:
        headers = self._headers_of(block)  # also of a stream that is refused: the table must stay in step
        stream_id, ended = self._block_stream, self._block_ends
        if stream_id <= self._last:
            self._trailers(stream_id, ended=ended)
            return
        self._last = stream_id
        if self._refusing or len(self._streams) >= self._limits.streams:
            self._write(FrameKind.RST_STREAM, 0, stream_id, _U32.pack(ErrorCode.REFUSED_STREAM))
            return
        self._streams[stream_id] = _Stream(self._peer_window, self._limits.stream_window, receiving=not ended)
        self._allow_resets(0.5)
        self._listener.opened(stream_id, headers, ended=ended)

    def _trailers(self, stream_id: int, *, ended: bool) -> None:
        """Headers of a stream that is there already; gRPC's clients send none, and nobody reads them."""
        stream = self._streams.get(stream_id)
        if stream is not None and (not stream.receiving or not ended):
            raise BrokenConnectionError(
                ErrorCode.PROTOCOL_ERROR, f"headers in the middle of stream {stream_id}"
            )
        self._peer_ended(stream_id)

    # ---- the connection's own frames ----

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4 or stream_id == 0 or stream_id > self._last:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a bad RST_STREAM frame")
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        self._listener.aborted(stream_id)
        self._resets_left -= (
            not stream.answering
        )  # a whole request costs us work too, which nothing else bounds
        if self._resets_left < 0:
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "streams are opened only to be reset")

    def _allow_resets(self, more: float) -> None:
        self._resets_left = min(self._limits.resets, self._resets_left + more)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) % 6 or (flags & ACK and payload):
            raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad SETTINGS frame")
        if flags & ACK:
            return
        for key, value in _SETTING.iter_unpack(payload):
            if key == _HEADER_TABLE_SIZE:
                self._table_update = b"\x20"  # our next block says that we use no table
            elif key == _INITIAL_WINDOW:
                self._resize_windows(value)
            elif key == _MAX_FRAME:
                if not _DEFAULT_FRAME_BYTES <= value < 2**24:
                    raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._peer_frame_bytes = value
        self._write(FrameKind.SETTINGS, ACK, 0, b"")
        self._flush()

    def _resize_windows(self, value: int) -> None:
        if value > GREATEST:
            raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
        for stream in self._streams.values():
            stream.send_window += value - self._peer_window
            if stream.send_window > GREATEST:
                raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self._peer_window = value

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) != 8:
            raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad PING frame")
        if flags & ACK:
            self.pings_answered += 1
        else:
            self._write(FrameKind.PING, ACK, 0, payload)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4 or stream_id > self._last:
            raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad WINDOW_UPDATE frame")
        increment = _U32.unpack(payload)[0] & GREATEST
        if not increment:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
        if stream_id == 0:
            self._send_window += increment
            if self._send_window > GREATEST:
                raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
            self._flush()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.send_window += increment
        if stream.send_window > GREATEST:
            raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self._release(stream_id, stream)

    # ---- what is sent ----

    def send_headers(self, stream_id: int, block: bytes) -> None:
        """Begin the answer. A block is less than 16 kB; nothing is sent on a stream that is over."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.answering = True
            self._write(FrameKind.HEADERS, END_HEADERS, stream_id, self._first_in_block(block))

    def send_data(self, stream_id: int, data: Bytes) -> None:
        """Some of the answer, as flow control lets it go; what waits is kept, so the data must not change."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.waiting.append(memoryview(data))
            self._send_waiting(stream_id, stream)

    def send_end(self, stream_id: int, block: bytes) -> None:
        """The trailers, after all data; the stream is over by them."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.trailers = block
            self._send_waiting(stream_id, stream)

    def hold(self, stream_id: int, *, held: bool) -> None:
        """Let the peer send no more than its window on this stream, until it is held no longer."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.held = held
        window = self._limits.stream_window
        if not held and stream.receiving and stream.receive_window * 2 < window:
            self._write(FrameKind.WINDOW_UPDATE, 0, stream_id, _U32.pack(window - stream.receive_window))
            stream.receive_window = window

    def waiting_bytes(self, stream_id: int) -> int:
        """How much of a stream's data flow control holds back."""
        stream = self._streams.get(stream_id)
        return sum(map(len, stream.waiting)) if stream is not None else 0

    def ping(self) -> None:
        """Ask the peer for a sign of life; `pings_answered` counts the answers."""
        self._write(FrameKind.PING, 0, 0, bytes(8))

    def say_goodbye(self, *, final: bool) -> None:
        """Ask the peer to open no more streams; after the final one those that it opens are refused."""
        self._refusing = self._refusing or final
        last = self._last if final else GREATEST
        self._write(FrameKind.GOAWAY, 0, 0, _U32.pack(last) + _U32.pack(ErrorCode.NO_ERROR))

    def _first_in_block(self, block: bytes) -> bytes:
        if not self._table_update:
            return block
        update, self._table_update = self._table_update, b""
        return update + block

    def _flush(self) -> None:
        for stream_id, stream in list(self._streams.items()):
            if self._send_window <= 0:
                return
            self._release(stream_id, stream)

    def _release(self, stream_id: int, stream: _Stream) -> None:
        if stream.waiting:
            self._send_waiting(stream_id, stream)
            if not stream.waiting:
                self._listener.flushed(stream_id)

    def _send_waiting(self, stream_id: int, stream: _Stream) -> None:
        waiting = stream.waiting
        while waiting:
            data = waiting[0]
            length = min(len(data), stream.send_window, self._send_window, self._peer_frame_bytes)
            if length <= 0 and len(data):
                return
            stream.send_window -= length
            self._send_window -= length
            self._write(FrameKind.DATA, 0, stream_id, data[:length])
            if length < len(data):
                waiting[0] = data[length:]
            else:
                waiting.popleft()
        if stream.trailers is None:
            return
        block = self._first_in_block(stream.trailers)
        self._write(FrameKind.HEADERS, END_HEADERS | END_STREAM, stream_id, block)
        if stream.receiving:  # the answer does not need the rest of the request
            self._write(FrameKind.RST_STREAM, 0, stream_id, _U32.pack(ErrorCode.NO_ERROR))
        del self._streams[stream_id]

    def _write_goaway(self, code: ErrorCode, reason: str) -> None:
        self._write(FrameKind.GOAWAY, 0, 0, _U32.pack(self._last) + _U32.pack(code) + reason.encode()[:200])

    def _write(self, kind: int, flags: int, stream: int, payload: Bytes) -> None:
        length = len(payload)
        self._out.append(frame_head(kind, flags, stream, length))
        if length:
            self._out.append(payload)
