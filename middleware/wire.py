"""`LookupRequest` without protobuf's copies: a quarter of a megabyte, copied twice at each end.

The message is its one field: tag, length, batch. These bytes are protobuf's, so other clients and servers notice
nothing; whatever else a client's protobuf may write is left to protobuf to read.
"""

import re
from collections.abc import Iterable

import grpc

from satrap.batch import Bytes
from satrap.protos import middleware_pb2 as pb

__all__ = [
    "STALENESS_KEY",
    "STALE_KEY",
    "batch_of_request",
    "lookup_stub",
    "marks_of_metadata",
    "metadata_of_marks",
    "request_of_batch",
]

STALE_KEY = "satrap-stale"
"""Trailing metadata, value 1, of an answer some of whose rows may be out of date: their server is gone."""

STALENESS_KEY = "satrap-staleness-ms"
"""Trailing metadata of an answer: milliseconds since the newest event in its rows, the greatest over its shards."""

_MILLISECONDS = re.compile(r"[0-9]{1,18}", re.ASCII)

_BATCH_TAG = b"\x0a"  # field 1, length-delimited
_SEVEN_BITS = 0x7F
_MORE = 0x80
_LENGTH_BYTES = 5  # gRPC's messages end at 4 GiB

_LOOKUP = "/satrap.middleware.v1.MiddlewareService/Lookup"


def request_of_batch(batch: Bytes) -> bytes:
    """The bytes of `LookupRequest(batch=batch)`."""
    length = bytearray()
    rest = len(batch)
    while rest > _SEVEN_BITS:
        length.append(rest & _SEVEN_BITS | _MORE)
        rest >>= 7
    length.append(rest)
    return b"".join((_BATCH_TAG, length, batch))


def batch_of_request(request: bytes) -> Bytes:
    """The field `batch` of a serialised `LookupRequest`: a view into it, if there is nothing else."""
    length = 0
    for i, byte in enumerate(request[1 : 1 + _LENGTH_BYTES]):
        length |= (byte & _SEVEN_BITS) << (7 * i)
        if byte < _MORE:
            start = i + 2
            if request.startswith(_BATCH_TAG) and start + length == len(request):
                return memoryview(request)[start:]
            break
    return pb.LookupRequest.FromString(request).batch


def metadata_of_marks(*, is_stale: bool, staleness_ms: int | None) -> list[tuple[str, str]]:
    """The trailing metadata of an answer; empty when there is nothing to say."""
    metadata = [(STALE_KEY, "1")] if is_stale else []
    if staleness_ms is not None:
        metadata.append((STALENESS_KEY, str(staleness_ms)))
    return metadata


def marks_of_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[bool, int | None]:
    """`is_stale` and `staleness_ms` of a call's trailing metadata; what is no number there counts as unknown."""
    is_stale, staleness_ms = False, None
    for key, value in metadata or ():
        if key == STALE_KEY:
            is_stale = value == "1"
        elif key == STALENESS_KEY and isinstance(value, str) and _MILLISECONDS.fullmatch(value):
            staleness_ms = int(value)
    return is_stale, staleness_ms


def lookup_stub(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[Bytes, pb.LookupResponse]":
    """`MiddlewareServiceStub(channel).Lookup`, called with a batch."""
    return channel.unary_unary(
        _LOOKUP, request_serializer=request_of_batch, response_deserializer=pb.LookupResponse.FromString
    )
