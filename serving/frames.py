"""How the frontend and a worker (or another forked child) speak over their socket pair.

A frame is a prefix, a head, and a body, in this order and without padding between them:

    offset  size          what
    0       1             kind (`Kind`)
    1       3             zero
    4       4             u32, little-endian: bytes of the head
    8       8             u64, little-endian: bytes of the body
    16      head bytes    the head: one JSON object in ASCII
    ...     body bytes    the body: values, back to back; the head says how long each is

    kind     sent by    head                                                        body
    LOAD     frontend   `serving.worker.assignment.Assignment`, field by field      -
    READY    worker     {}                                                          -
    FAILED   worker     {"reason": str}; the worker then ends                       -
    PREDICT  frontend   {"ids": [str], "inputs": [[[key, length, type]]],           values
                         "headers": [{name: value}] if any request has some}
    PART     worker     {"parts": [[place, code, length, *chosen]]}                 values
    ANSWER   worker     {"answers": [[code, length, *chosen]],                      values
                         "times": {name: ms}, "stale": [place],
                         "staleness_ms": number or null,
                         "observations": [[name, value, unit, type,
                                           [[dimension, value]], place or null]]}
    UNPACK   frontend   {"archive", "target", "max_bytes", "max_files"}             -
    UNPACKED unpacker   {"manifest": {}, "config": {}} or {"reason": str}           -
    DOWNLOAD frontend   {"url", "allowed": [pattern], "max_bytes",                  -
                         "partial", "target"}
    DOWNLOADED downloader {"bytes"}, {"exists": true}, or {"reason": str}           -
    INSTALL  frontend   {"requirements", "directory", "cache", "timeout"}           -
    INSTALLED installer {"directory", "packages", "python", "replaced": [str]},     -
                         or {"reason": str, "log": str}

In `PREDICT` a request is a list of inputs, each `[key, bytes in the body, content type]`. In `ANSWER` a code is
an HTTP status: 200 and the prediction's bytes, or another and the error's sentence; chosen is nothing, or what the
handler chose for its answer: an HTTP status, its phrase, and an object of headers. Any number of `PART` frames may
come before an `ANSWER`: parts of answers, by their places in the batch, of a handler that streams. The times are
the handler's and those that it reported of its parts; stale are the places, from 0, of answers made from embeddings
that may be out of date, and the staleness is how old the newest training event in the batch's embeddings is, the
greatest of all that was looked up (null: not known). A worker has at most one `PREDICT` unanswered. Bytes from a
client are never anything but a value in a body: nothing is unpickled.

The cost of this layout: a head is parsed as JSON, some microseconds per request. What it buys: values of any
size pass without being touched, and a field can be added to a head without a new format.
"""

import enum
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "Bytes",
    "Frame",
    "FrameError",
    "FrameParser",
    "Kind",
    "encode",
    "read_into",
    "receive_head",
]

Bytes = bytes | bytearray | memoryview

_PREFIX = struct.Struct("<B3xIQ")
MAX_HEAD_BYTES = 64 * 1024**2
MAX_BODY_BYTES = 16 * 1024**3


class Kind(enum.IntEnum):
    """What a frame is."""

    LOAD = 1
    READY = 2
    FAILED = 3
    PREDICT = 4
    ANSWER = 5
    UNPACK = 6
    UNPACKED = 7
    DOWNLOAD = 9
    DOWNLOADED = 10
    INSTALL = 16
    INSTALLED = 17
    PART = 8


_KINDS = {int(kind): kind for kind in Kind}
# Made once, and without the searches for white space that `json.loads` begins and ends with.
_FROM_JSON = json.JSONDecoder().raw_decode
_TO_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class FrameError(Exception):
    """The peer sent something that is not a frame; the connection is of no more use."""


class Frame(NamedTuple):
    """A whole frame as `FrameParser` gives it."""

    kind: Kind
    head: dict[str, Any]
    body: bytes


def encode(kind: Kind, head: dict[str, Any], values: Sequence[Bytes] = ()) -> list[Bytes]:
    """The buffers of one frame, for a gathering write: prefix and head first, then the values as they are."""
    text = _TO_JSON(head).encode("ascii")
    return [_PREFIX.pack(kind, len(text), sum(map(len, values))) + text, *values]


def _parse_prefix(buffer: Bytes, start: int = 0) -> tuple[Kind, int, int]:
    number, head_length, body_length = _PREFIX.unpack_from(buffer, start)
    if head_length > MAX_HEAD_BYTES or body_length > MAX_BODY_BYTES:
        raise FrameError(f"a frame of {head_length} + {body_length} bytes is larger than any that is sent")
    kind = _KINDS.get(number)
    if kind is None:
        raise FrameError(f"there is no frame of kind {number}")
    return kind, head_length, body_length


def _parse_head(text: bytes | bytearray) -> dict[str, Any]:
    try:
        head, end = _FROM_JSON(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame's head is not JSON: {error}") from None
    if not isinstance(head, dict) or end != len(text):
        raise FrameError("a frame's head is not an object")
    return head


class FrameParser:
    """Frames out of chunks of any size. No I/O: the caller feeds what it received."""

    def __init__(self) -> None:
        """Start between two frames."""
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take what arrived; return the frames that it completes.

        Raises:
            FrameError: this is not our peer, or it is broken; feed nothing more.
        """
        frames: list[Frame] = []
        buffer: bytes | bytearray = data
        if self._pending:
            self._pending += data
            buffer = self._pending
        start = 0
        while len(buffer) - start >= _PREFIX.size:
            kind, head_length, body_length = _parse_prefix(buffer, start)
            head_start = start + _PREFIX.size
            body_start = head_start + head_length
            end = body_start + body_length
            if end > len(buffer):
                break
            frames.append(
                Frame(kind, _parse_head(buffer[head_start:body_start]), bytes(buffer[body_start:end]))
            )
            start = end
        if buffer is self._pending:
            del self._pending[:start]
        elif start < len(buffer):
            self._pending += buffer[start:]
        return frames


def read_into(connection: socket.socket, buffer: bytearray) -> bool:
    """Fill the buffer from a blocking socket; False when the peer closed before it was full."""
    view = memoryview(buffer)
    while len(view):
        received = connection.recv_into(view, 0, socket.MSG_WAITALL)
        if received == 0:
            return False
        view = view[received:]
    return True


def receive_head(connection: socket.socket) -> tuple[Kind, dict[str, Any], int] | None:
    """Read one frame up to its body from a blocking socket: kind, head, and the body's length in bytes.

    The caller reads the body next, by `read_into`. None when the peer closed.

    Raises:
        FrameError: what arrived is not a frame.
    """
    prefix = bytearray(_PREFIX.size)
    if not read_into(connection, prefix):
        return None
    kind, head_length, body_length = _parse_prefix(prefix)
    text = bytearray(head_length)
    if not read_into(connection, text):
        return None
    return kind, _parse_head(text), body_length
