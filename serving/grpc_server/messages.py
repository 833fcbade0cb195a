"""gRPC's own framing over HTTP/2: messages with their lengths, timeouts, statuses. No I/O."""

import base64
import re
import struct
import zlib
from collections.abc import Iterable
from urllib.parse import quote

import grpc

from satrap.serving.refusal import STATUS, Refusal

__all__ = [
    "RESPONSE_HEADERS",
    "MessageError",
    "MessageParser",
    "framed",
    "header_block",
    "parse_timeout",
    "status_block",
]

_PREFIX = struct.Struct(">BI")
_UNITS = {ord("H"): 3600.0, ord("M"): 60.0, ord("S"): 1.0, ord("m"): 1e-3, ord("u"): 1e-6, ord("n"): 1e-9}
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class MessageError(Exception):
    """What the client sent is no message for us; `status` and the text are its answer.

    `http_status` is what that would be over REST.
    """

    def __init__(self, status: grpc.StatusCode, text: str, reason: Refusal = "malformed") -> None:
        """Keep all."""
        super().__init__(text)
        self.status, self.reason = status, reason
        self.http_status = STATUS[reason]


class MessageParser:
    """Messages out of a stream's data, in pieces of any size. Each is copied once, into memory of its own."""

    def __init__(self, max_bytes: int, encoding: bytes = b"identity") -> None:
        """Refuse messages over `max_bytes`, also after they are decompressed by `encoding`."""
        self._max_bytes, self._encoding = max_bytes, encoding
        self._prefix = bytearray()
        self._message: bytearray | None = None
        self._missing = 0  # bytes of it
        self._compressed = False

    @property
    def is_between(self) -> bool:
        """No message has been begun that is not whole yet."""
        return self._message is None and not self._prefix

    def feed(self, data: memoryview) -> list[bytes | bytearray]:
        """Take what arrived; return the messages that it completes.

        A message takes memory as it arrives, however much was announced.

        Raises:
            MessageError: feed nothing more.
        """
        messages: list[bytes | bytearray] = []
        position = 0
        while True:
            if self._message is None:
                end = position + _PREFIX.size - len(self._prefix)
                self._prefix += data[position:end]
                if len(self._prefix) < _PREFIX.size:
                    return messages
                position = end
                flag, length = _PREFIX.unpack(self._prefix)
                self._prefix.clear()
                self._begin(flag, length)
            assert self._message is not None
            end = position + self._missing
            if end > len(data):
                self._missing -= len(data) - position
                self._message += data[position:]
                return messages
            if self._message:
                self._message += data[position:end]
                message: bytes | bytearray = self._message
            else:
                message = bytes(data[position:end])
            position = end
            messages.append(self._inflated(message) if self._compressed else message)
            self._message = None

    def _begin(self, flag: int, length: int) -> None:
        if flag > 1:
            raise MessageError(grpc.StatusCode.INTERNAL, f"a message with the flag {flag}")
        if flag and self._encoding not in _WINDOW_BITS:
            encoding = self._encoding.decode("ascii", "replace")
            raise MessageError(
                grpc.StatusCode.UNIMPLEMENTED, f"the message encoding {encoding!r} is not known here"
            )
        self._check(length)
        self._message = bytearray()
        self._missing, self._compressed = length, bool(flag)

    def _check(self, length: int) -> None:
        if length > self._max_bytes:
            raise MessageError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"SERVER: Received message larger than max ({length} vs. {self._max_bytes}): raise "
                "serving.max_request_bytes (max_request_size in config.properties), or send less",
                "too large",
            )

    def _inflated(self, message: bytes | bytearray) -> bytes:
        inflater = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            inflated = inflater.decompress(message, self._max_bytes + 1)
        except zlib.error as error:
            raise MessageError(
                grpc.StatusCode.INTERNAL, f"a message cannot be decompressed: {error}"
            ) from None
        self._check(len(inflated))
        if not inflater.eof:
            raise MessageError(grpc.StatusCode.INTERNAL, "a compressed message ends too early")
        return inflated


def framed(message: bytes) -> bytes:
    """A message as a stream carries it, uncompressed."""
    return _PREFIX.pack(0, len(message)) + message


def parse_timeout(value: bytes) -> float | None:
    """Seconds from a `grpc-timeout` header; None if it is none."""
    if not 2 <= len(value) <= 9 or not value[:-1].isdigit() or value[-1] not in _UNITS:
        return None
    return int(value[:-1]) * _UNITS[value[-1]]


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block of literals that no table remembers: the same bytes whatever was sent before."""
    block = bytearray()
    for name, value in headers:
        block += b"\x00" + _length(len(name)) + name + _length(len(value)) + value
    return bytes(block)


def _length(value: int) -> bytes:
    """HPACK's integer with a prefix of 7 bits."""
    if value < 127:
        return bytes([value])
    value -= 127
    encoded = bytearray([127])
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


STATUS_200 = b"\x88"
"""`:status: 200`, which is in every HPACK table."""

RESPONSE_HEADERS = STATUS_200 + header_block(
    [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity, deflate, gzip")]
)

_OK_BLOCK = header_block([(b"grpc-status", b"0")])
_MAX_DETAILS = 6_000
"""Clients refuse trailers over 8 kB."""
_UNFINISHED_ESCAPE = re.compile(rb"%[0-9A-F]?\Z")


def status_block(
    status: grpc.StatusCode, details: str = "", metadata: Iterable[tuple[str, str | bytes]] = ()
) -> bytes:
    """The trailers that end a call. Details that are longer than a client takes are cut."""
    if status is grpc.StatusCode.OK and not metadata:
        return _OK_BLOCK
    headers = [(b"grpc-status", str(status.value[0]).encode())]
    if details:
        message = quote(details[:_MAX_DETAILS], safe=_PRINTABLE, errors="replace").encode()
        headers.append((b"grpc-message", _UNFINISHED_ESCAPE.sub(b"", message[:_MAX_DETAILS])))
    headers += [(name.encode(), _bytes(value)) for name, value in metadata]
    return header_block(headers)


_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def _bytes(value: str | bytes) -> bytes:
    """Metadata's bytes travel in base64 (their names end in `-bin`), text must be ASCII."""
    if isinstance(value, bytes):
        return base64.b64encode(value).rstrip(b"=")
    return value.encode("ascii", "backslashreplace")
