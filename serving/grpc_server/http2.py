"""The server's end of one HTTP/2 connection (RFC 9113): frames, streams and flow control. No I/O, no clock of its own.

The caller feeds what arrived to `receive`, passes on what `take` gives, and hears of streams through `Streams`. Header
blocks that are sent are made by the caller, without the dynamic table; those that arrive are decoded by `hpack`.

What a peer can make us keep is bounded: header blocks, streams at once, unread bytes (by flow control) and streams that
are opened only to be reset. What it must not do ends the connection with a GOAWAY that says why.
"""

import enum
import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hpack import Decoder, HPACKError

from satrap.serving.frames import Bytes

__all__ = ["Connection", "ErrorCode", "Header", "Limits", "Streams"]

Header = tuple[bytes, bytes]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_FRAME = struct.Struct(">HBBBI")  # length in 16 + 8 bits, type, flags, stream
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")

_END_STREAM, _END_HEADERS, _PADDED, _WITH_PRIORITY, _ACK = 0x1, 0x4, 0x8, 0x20, 0x1

_HEADER_TABLE_SIZE, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADER_LIST = 1, 3, 4, 5, 6

_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME_BYTES = 16_384
_GREATEST = 2**31 - 1
_MAX_CONTROL_BYTES = 65_536
_REMEMBERED_BLOCKS = 64


class _Kind:
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


class _ConnectionError(Exception):
    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


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
        self._decoder = Decoder(max_header_list_size=limits.header_bytes)
        self._blocks: dict[bytes, list[Header]] = {}  # decoded, as long as the decoder's table stays as it is
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._preface = PREFACE  # what is missing of it
        self._partial = bytearray()  # of a frame's head, or of the payload that `_head` announced
        self._head: tuple[int, int, int, int] | None = None  # kind, flags, stream, length
        self._data_left = self._skip_left = 0  # of a payload that is not collected
        self._data_stream, self._data_ends = 0, False
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
        self._write(_Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))
        self._write(_Kind.WINDOW_UPDATE, 0, 0, _U32.pack(limits.connection_window - _DEFAULT_WINDOW))

    @property
    def is_begun(self) -> bool:
        """The peer has sent the bytes that every connection begins with."""
        return not self._preface

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
            position = self._take_preface(data) if self._preface else 0
            while position < len(data):
                position = self._step(data, position)
        except _ConnectionError as error:
            self._write_goaway(error.code, error.reason)
            self.failed = error.reason

    def _take_preface(self, data: memoryview) -> int:
        length = min(len(data), len(self._preface))
        if data[:length] != self._preface[:length]:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface = self._preface[length:]
        return length

    def _step(self, data: memoryview, position: int) -> int:
        """Take the next piece, and say where the one after it begins."""
        if self._data_left:
            end = min(position + self._data_left, len(data))
            self._data_left -= end - position
            if self._data_stream in self._streams:
                self._listener.data(self._data_stream, data[position:end])
            if not self._data_left:
                self._data_done()
            return end
        if self._skip_left:
            end = min(position + self._skip_left, len(data))
            self._skip_left -= end - position
            return end
        wanted = _FRAME.size if self._head is None else self._head[3]
        collected, position = self._collect(data, position, wanted)
        if collected is None:
            return position
        if self._head is not None:
            kind, flags, stream, _ = self._head
            self._head = None
            self._handle(kind, flags, stream, bytes(collected))
            return position
        high, low, kind, flags, stream = _FRAME.unpack(collected)
        self._begin(kind, flags, stream & _GREATEST, high << 8 | low)
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
        if length > self._limits.frame_bytes:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if self._block is not None and (kind != _Kind.CONTINUATION or stream != self._block_stream):
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame in the middle of headers")
        if kind == _Kind.DATA:
            self._account(stream, length)
            if not flags & _PADDED:
                self._data_stream, self._data_left = stream, length
                self._data_ends = bool(flags & _END_STREAM)
                if not length:
                    self._data_done()
                return
        elif kind > _Kind.CONTINUATION:
            self._skip_left = length
            return
        elif length > _MAX_CONTROL_BYTES:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, f"a control frame of {length} bytes")
        if length:
            self._head = kind, flags, stream, length
        else:
            self._handle(kind, flags, stream, b"")

    def _account(self, stream_id: int, length: int) -> None:
        """Flow control: a payload is counted, padding too, and given back as soon as half of a window is used."""
        if stream_id == 0 or stream_id > self._last:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"data on stream {stream_id}, which is not open")
        self._unreturned += length
        if self._unreturned > self._limits.connection_window:
            raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._unreturned * 2 > self._limits.connection_window:
            self._write(_Kind.WINDOW_UPDATE, 0, 0, _U32.pack(self._unreturned))
            self._unreturned = 0
        stream = self._streams.get(stream_id)
        if stream is None:  # we have ended it, and the peer did not know
            return
        if not stream.receiving:
            raise _ConnectionError(ErrorCode.STREAM_CLOSED, f"data on stream {stream_id} after its end")
        stream.receive_window -= length
        window = self._limits.stream_window
        if stream.receive_window < 0:
            raise _ConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, f"more data than stream {stream_id}'s window"
            )
        if stream.receive_window * 2 < window and not stream.held:
            self._write(_Kind.WINDOW_UPDATE, 0, stream_id, _U32.pack(window - stream.receive_window))
            stream.receive_window = window

    def _data_done(self) -> None:
        if self._data_ends:
            self._peer_ended(self._data_stream)

    def _peer_ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.receiving = False
            self._listener.ended(stream_id)

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case _Kind.DATA:  # padded, others are not collected
                if stream in self._streams:
                    self._listener.data(stream, memoryview(_unpadded(payload)))
                if flags & _END_STREAM:
                    self._peer_ended(stream)
            case _Kind.HEADERS:
                self._headers(flags, stream, payload)
            case _Kind.CONTINUATION:
                self._continue(flags, payload)
            case _Kind.RST_STREAM:
                self._reset(stream, payload)
            case _Kind.SETTINGS:
                self._settings(flags, stream, payload)
            case _Kind.PING:
                self._ping(flags, stream, payload)
            case _Kind.WINDOW_UPDATE:
                self._window_update(stream, payload)
            case _Kind.PUSH_PROMISE:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a client that pushes")
            case _Kind.PRIORITY if len(payload) != 5 or not stream:
                raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad PRIORITY frame")
            case _Kind.GOAWAY if stream or len(payload) < 8:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a bad GOAWAY frame")
            case _:  # a priority, which nobody heeds, or a GOAWAY: what is open goes on
                pass

    # ---- headers ----

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream % 2 == 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"headers on stream {stream}")
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _WITH_PRIORITY:
            if len(payload) < 5:
                raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame that is too short")
            payload = payload[5:]
        self._block_stream, self._block_ends = stream, bool(flags & _END_STREAM)
        if flags & _END_HEADERS:
            self._headers_done(payload)
        else:
            self._block = bytearray(payload)

    def _continue(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        self._block += payload
        if len(self._block) > _MAX_CONTROL_BYTES:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "headers without end")
        if flags & _END_HEADERS:
            block, self._block = bytes(self._block), None
            self._headers_done(block)

    def _headers_done(self, block: bytes) -> None:
        headers = self._decoded(block)  # also of a stream that is refused: the table must stay in step
        stream_id, ended = self._block_stream, self._block_ends
        if stream_id <= self._last:
            self._trailers(stream_id, ended=ended)
            return
        self._last = stream_id
        if self._refusing or len(self._streams) >= self._limits.streams:
            self._write(_Kind.RST_STREAM, 0, stream_id, _U32.pack(ErrorCode.REFUSED_STREAM))
            return
        self._streams[stream_id] = _Stream(self._peer_window, self._limits.stream_window, receiving=not ended)
        self._allow_resets(0.5)
        self._listener.opened(stream_id, headers, ended=ended)

    def _trailers(self, stream_id: int, *, ended: bool) -> None:
        """Headers of a stream that is there already; gRPC's clients send none, and nobody reads them."""
        stream = self._streams.get(stream_id)
        if stream is not None and (not stream.receiving or not ended):
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"headers in the middle of stream {stream_id}")
        self._peer_ended(stream_id)

    def _decoded(self, block: bytes) -> list[Header]:
        """A block's headers. Blocks that change nothing in the decoder's table come again and again: they are kept."""
        known = self._blocks.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        before = table.dynamic_entries[0] if table.dynamic_entries else None
        size = table.maxsize
        try:
            headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise _ConnectionError(
                ErrorCode.COMPRESSION_ERROR, f"headers cannot be decoded: {error}"
            ) from None
        after = table.dynamic_entries[0] if table.dynamic_entries else None
        if after is not before or table.maxsize != size:
            self._blocks.clear()
        elif len(self._blocks) < _REMEMBERED_BLOCKS:
            self._blocks[block] = headers
        return headers

    # ---- the connection's own frames ----

    def _reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4 or stream_id == 0 or stream_id > self._last:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a bad RST_STREAM frame")
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        self._listener.aborted(stream_id)
        self._resets_left -= (
            not stream.answering
        )  # a whole request costs us work too, which nothing else bounds
        if self._resets_left < 0:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "streams are opened only to be reset")

    def _allow_resets(self, more: float) -> None:
        self._resets_left = min(self._limits.resets, self._resets_left + more)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) % 6 or (flags & _ACK and payload):
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad SETTINGS frame")
        if flags & _ACK:
            return
        for key, value in _SETTING.iter_unpack(payload):
            if key == _HEADER_TABLE_SIZE:
                self._table_update = b"\x20"  # our next block says that we use no table
            elif key == _INITIAL_WINDOW:
                self._resize_windows(value)
            elif key == _MAX_FRAME:
                if not _DEFAULT_FRAME_BYTES <= value < 2**24:
                    raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._peer_frame_bytes = value
        self._write(_Kind.SETTINGS, _ACK, 0, b"")
        self._flush()

    def _resize_windows(self, value: int) -> None:
        if value > _GREATEST:
            raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
        for stream in self._streams.values():
            stream.send_window += value - self._peer_window
            if stream.send_window > _GREATEST:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self._peer_window = value

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) != 8:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad PING frame")
        if flags & _ACK:
            self.pings_answered += 1
        else:
            self._write(_Kind.PING, _ACK, 0, payload)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4 or stream_id > self._last:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a bad WINDOW_UPDATE frame")
        increment = _U32.unpack(payload)[0] & _GREATEST
        if not increment:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
        if stream_id == 0:
            self._send_window += increment
            if self._send_window > _GREATEST:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
            self._flush()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.send_window += increment
        if stream.send_window > _GREATEST:
            raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self._release(stream_id, stream)

    # ---- what is sent ----

    def send_headers(self, stream_id: int, block: bytes) -> None:
        """Begin the answer. A block is less than 16 kB; nothing is sent on a stream that is over."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.answering = True
            self._write(_Kind.HEADERS, _END_HEADERS, stream_id, self._first_in_block(block))

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
            self._write(_Kind.WINDOW_UPDATE, 0, stream_id, _U32.pack(window - stream.receive_window))
            stream.receive_window = window

    def waiting_bytes(self, stream_id: int) -> int:
        """How much of a stream's data flow control holds back."""
        stream = self._streams.get(stream_id)
        return sum(map(len, stream.waiting)) if stream is not None else 0

    def ping(self) -> None:
        """Ask the peer for a sign of life; `pings_answered` counts the answers."""
        self._write(_Kind.PING, 0, 0, bytes(8))

    def say_goodbye(self, *, final: bool) -> None:
        """Ask the peer to open no more streams; after the final one those that it opens are refused."""
        self._refusing = self._refusing or final
        last = self._last if final else _GREATEST
        self._write(_Kind.GOAWAY, 0, 0, _U32.pack(last) + _U32.pack(ErrorCode.NO_ERROR))

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
            self._write(_Kind.DATA, 0, stream_id, data[:length])
            if length < len(data):
                waiting[0] = data[length:]
            else:
                waiting.popleft()
        if stream.trailers is None:
            return
        block = self._first_in_block(stream.trailers)
        self._write(_Kind.HEADERS, _END_HEADERS | _END_STREAM, stream_id, block)
        if stream.receiving:  # the answer does not need the rest of the request
            self._write(_Kind.RST_STREAM, 0, stream_id, _U32.pack(ErrorCode.NO_ERROR))
        del self._streams[stream_id]

    def _write_goaway(self, code: ErrorCode, reason: str) -> None:
        self._write(_Kind.GOAWAY, 0, 0, _U32.pack(self._last) + _U32.pack(code) + reason.encode()[:200])

    def _write(self, kind: int, flags: int, stream: int, payload: Bytes) -> None:
        length = len(payload)
        self._out.append(_FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream))
        if length:
            self._out.append(payload)


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
