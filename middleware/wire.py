"""`LookupRequest` without protobuf's copies: a quarter of a megabyte, copied twice at each end.

The message is its one field: tag, length, batch. These bytes are protobuf's, so other clients and servers notice
nothing; whatever else a client's protobuf may write is left to protobuf to read.
"""

from collections.abc import Iterable

import grpc

from satrap.batch import Bytes
from satrap.protos import middleware_pb2 as pb

__all__ = ["STALE_METADATA", "batch_of_request", "is_stale", "lookup_stub", "request_of_batch"]

STALE_METADATA = (("satrap-stale", "1"),)
"""Trailing metadata of a lookup some of whose rows may be out of date."""

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


def is_stale(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether a call's trailing metadata says that its rows may be out of date."""
    return any(item in STALE_METADATA for item in map(tuple, metadata or ()))


def lookup_stub(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[Bytes, pb.LookupResponse]":
    """`MiddlewareServiceStub(channel).Lookup`, called with a batch."""
    return channel.unary_unary(
        _LOOKUP, request_serializer=request_of_batch, response_deserializer=pb.LookupResponse.FromString
    )
