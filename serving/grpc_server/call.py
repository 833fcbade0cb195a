"""One call of the gRPC server: what is kept of it while it lasts, and what its method is told and says."""

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc

from satrap.serving.grpc_server.http2_headers import Header
from satrap.serving.grpc_server.messages import MessageError, MessageParser, parse_timeout

__all__ = ["Abort", "Call", "CallContext", "Handler", "Metadata", "metadata_of", "parsed", "serialized"]

log = logging.getLogger("satrap.serving")

if TYPE_CHECKING:  # generic in the stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler


Metadata = tuple[tuple[str, str | bytes], ...]


def metadata_of(headers: Sequence[Header]) -> Metadata:
    """A request's headers without the pseudo-headers; the values of names in `-bin` are bytes."""
    return tuple(
        (name.decode("latin-1"), _metadata_value(name, value))
        for name, value in headers
        if not name.startswith(b":")
    )


def _metadata_value(name: bytes, value: bytes) -> str | bytes:
    if not name.endswith(b"-bin"):
        return value.decode("latin-1")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return value


class Abort(Exception):  # noqa: N818 (control flow)
    """Ends a call with that status; never leaves the server."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        """`details` is the status' sentence."""
        super().__init__(details)
        self.status, self.details = status, details


class CallContext:
    """What a method is told about its call: those of `grpc.aio.ServicerContext` that satrap's methods use."""

    __slots__ = ("_deadline", "_metadata", "_peer", "sent_trailing")

    def __init__(self, metadata: Metadata, timeout: bytes | None, peer: str) -> None:
        """`timeout` is the header of that name; the deadline counts from now."""
        self._metadata, self._peer = metadata, peer
        seconds = parse_timeout(timeout) if timeout is not None else None
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.sent_trailing: Sequence[tuple[str, str | bytes]] = ()

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, not less than 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> Metadata:
        """The call's metadata, without the pseudo-headers; the values of names in `-bin` are bytes."""
        return self._metadata

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """What goes with the status."""
        self.sent_trailing = metadata

    def peer(self) -> str:
        """The client's address as grpc writes it: `ipv4:127.0.0.1:1234`."""
        return self._peer

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with that status."""
        raise Abort(code, details)


class Call:
    """One stream: what has come of its request, and the task that answers."""

    __slots__ = (
        "begun",
        "context",
        "handler",
        "held",
        "is_broken",
        "messages",
        "parser",
        "path",
        "queued",
        "requests",
        "room",
        "task",
    )

    def __init__(self, path: bytes, handler: Handler, context: CallContext, parser: MessageParser) -> None:
        """Begin now; nothing has come yet."""
        self.path, self.handler, self.context, self.parser = path, handler, context, parser
        self.begun = time.monotonic()
        self.is_broken = False  # nothing that comes of it is looked at any more
        self.messages: list[bytes | bytearray] = []
        # Of a request that streams; None in it is the end.
        self.requests: asyncio.Queue[bytes | bytearray | MessageError | None] | None = None
        self.queued, self.held = 0, False  # bytes in it, and whether the client was told to wait
        self.room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


def parsed(handler: Handler, message: bytes | bytearray) -> object:
    """The request in a message.

    Raises:
        MessageError: the method's parser refuses it.
    """
    try:
        return handler.request_deserializer(message) if handler.request_deserializer else message
    except Exception:
        log.debug("a request cannot be parsed", exc_info=True)
        raise MessageError(grpc.StatusCode.INTERNAL, "Exception deserializing request!") from None


def serialized(handler: Handler, response: object) -> bytes:
    """The message of a response."""
    return cast(bytes, handler.response_serializer(response) if handler.response_serializer else response)
