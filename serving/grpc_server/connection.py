"""One client's connection to the gRPC server, and the calls on it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, cast

import grpc

from satrap.errors import SatrapError
from satrap.serving.grpc_server.call import (
    Abort,
    Call,
    CallContext,
    Handler,
    Metadata,
    metadata_of,
    parsed,
    serialized,
)
from satrap.serving.grpc_server.http2 import Connection
from satrap.serving.grpc_server.http2_headers import Header
from satrap.serving.grpc_server.messages import (
    RESPONSE_HEADERS,
    STATUS_200,
    MessageError,
    MessageParser,
    framed,
    header_block,
    status_block,
)
from satrap.serving.refusal import Refusal

__all__ = ["ClientConnection", "OnRefused", "Owner"]

log = logging.getLogger("satrap.serving")

_READ_BYTES = 256 * 1024
_KEEPALIVE_SECONDS = 10.0
_REQUEST_SECONDS = 120.0
"""How long the one message of a request may take to arrive; it is looked at every `_KEEPALIVE_SECONDS`."""
_MAX_WAITING_BYTES = 1024**2
"""Of a stream's answers that the client does not read: then the method waits. Of its requests that the method does not
take: then the client must."""
_MESSAGE_COST = 256
"""What a waiting message takes besides its bytes."""


OnRefused = Callable[[str, str, Refusal], None]
"""Told about a call that no method gets: what it asked for, the peer, and why."""


class Owner(Protocol):
    """What a connection needs of its server: the limits of a message in bytes, the methods, and who may call them."""

    max_receive: int
    max_send: int
    admit: Callable[[str | None], None] | None
    on_refused: OnRefused | None
    connections: "set[ClientConnection]"

    def method(self, path: bytes) -> Handler | None:
        """The method of that path."""

    def closed(self, connection: "ClientConnection") -> None:
        """A connection is gone."""

    def progressed(self) -> None:
        """A connection that is drained has done something."""


class ClientConnection(asyncio.BufferedProtocol):
    """One client's connection: moves bytes between its socket and the HTTP/2 state, and runs its calls."""

    def __init__(self, server: Owner) -> None:
        """Begin when asyncio has the connection, which the server learns of then."""
        self._server = server
        self._http2 = Connection(self)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._calls: dict[int, Call] = {}
        self._headers: Sequence[Header] = ()  # of the stream that was opened last, and what they say
        self._fields: dict[bytes, bytes] = {}
        self._metadata: Metadata = ()
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._asked = (
            False  # since the timer was set: something came; and before: a ping was sent
        )
        self._is_paused = False
        self._pings_before_drain: int | None = None
        self._said_goodbye = False

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.BufferedProtocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are of no common class
        name = transport.get_extra_info("peername") or ("", 0)
        self._peer = f"ipv6:[{name[0]}]:{name[1]}" if ":" in name[0] else f"ipv4:{name[0]}:{name[1]}"
        self._server.connections.add(self)
        self._keep_alive()
        self._send()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Part of `asyncio.BufferedProtocol`."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Part of `asyncio.BufferedProtocol`."""
        self._heard = True
        self._http2.receive(self._buffer[:nbytes], time.monotonic())
        self._send()

    def pause_writing(self) -> None:
        """The client does not read what we send: we do not read what it sends."""
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Part of `asyncio.BufferedProtocol`."""
        self._is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        for call in self._calls.values():
            call.room.set()

    def flushed(self, stream: int) -> None:
        """Part of `Streams`."""
        if stream in self._calls:
            self._calls[stream].room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.BufferedProtocol`."""
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls.values():
            if call.task is not None:
                call.task.cancel()
        self._calls.clear()
        self._server.closed(self)

    # ---- the server's side ----

    @property
    def is_busy(self) -> bool:
        """It has calls that are not finished."""
        return self._http2.open_streams > 0

    def drain(self) -> None:
        """Ask the client to go elsewhere with new calls, and close when there are none left."""
        self._pings_before_drain = self._http2.pings_answered
        self._http2.say_goodbye(final=False)
        self._http2.ping()  # when it is answered the client knows
        self._send()

    def give_up_arriving(self) -> None:
        """Refuse the requests that are not whole: nobody knows when they would be."""
        for stream, call in list(self._calls.items()):
            if call.task is None:
                self._give_up(stream, call, grpc.StatusCode.UNAVAILABLE, "the server stops", "stopping")
        self._send()

    def abort(self) -> None:
        """Close now; calls are cancelled."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self) -> None:
        transport, http2 = self._transport, self._http2
        if transport is None or transport.is_closing():
            return
        if self._pings_before_drain is not None:
            self._drain_on()
        if out := http2.take():
            transport.write(b"".join(out))
        if http2.failed:
            log.debug("a gRPC client at %s is disconnected: %s", self._peer, http2.failed)
        if http2.failed or (self._said_goodbye and not http2.open_streams):
            transport.close()

    def _drain_on(self) -> None:
        if not self._said_goodbye and self._http2.pings_answered != self._pings_before_drain:
            self._said_goodbye = True
            self._http2.say_goodbye(final=True)
        self._server.progressed()

    def _keep_alive(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_KEEPALIVE_SECONDS, self._on_timer)
        self._heard = False

    def _on_timer(self) -> None:
        """A client that says nothing is asked for a sign of life while it has calls; without one it is gone.

        So is one that has not begun to speak HTTP/2 by then; and a request has its time to arrive.
        """
        if (not self._heard and self._asked) or not self._http2.is_begun:
            self.abort()
            return
        for stream, call in list(self._calls.items()):
            if call.task is None and time.monotonic() - call.begun > _REQUEST_SECONDS:
                details = "the request did not come to its end"
                self._give_up(stream, call, grpc.StatusCode.DEADLINE_EXCEEDED, details, "late")
        self._send()
        self._asked = not self._heard and self.is_busy
        if self._asked:
            self._http2.ping()
            self._send()
        self._keep_alive()

    # ---- streams ----

    def opened(self, stream: int, headers: Sequence[Header], *, ended: bool) -> None:
        """Part of `Streams`."""
        if (
            headers is not self._headers
        ):  # the same object comes again with every request that has the same ones
            self._headers, self._fields, self._metadata = headers, dict(headers), metadata_of(headers)
        fields = self._fields
        path = fields.get(b":path", b"")
        if fields.get(b":method") != b"POST" or not fields.get(b"content-type", b"").startswith(
            b"application/grpc"
        ):
            self._count(path, "malformed")
            self._http2.send_end(stream, header_block([(b":status", b"415")]))
            return
        if self._server.admit is not None:
            header = fields.get(b"authorization")
            try:
                self._server.admit(None if header is None else header.decode("latin-1"))
            except SatrapError as error:
                self._count(path, "token")
                self._refuse(stream, error.grpc_status, str(error))
                return
        handler = self._server.method(path)
        if handler is None:
            self._count(path, "unknown method")
            self._refuse(stream, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        encoding = fields.get(b"grpc-encoding", b"identity")
        call = Call(
            path,
            handler,
            CallContext(self._metadata, fields.get(b"grpc-timeout"), self._peer),
            MessageParser(self._server.max_receive, encoding),
        )
        self._calls[stream] = call
        if handler.request_streaming:
            call.requests = asyncio.Queue()
            self._start(stream, call)
        if ended:
            self.ended(stream)

    def data(self, stream: int, data: memoryview) -> None:
        """Part of `Streams`."""
        call = self._calls.get(stream)
        if call is None or call.is_broken:
            return
        try:
            messages = call.parser.feed(data)
        except MessageError as error:
            self._break(stream, call, error)
            return
        if call.requests is None:
            call.messages += messages
            if len(call.messages) > 1:  # now, because there is no end to how many a client may send
                self._break(stream, call, _not_whole())
        else:
            for message in messages:
                call.queued += len(message) + _MESSAGE_COST
                call.requests.put_nowait(message)
            if call.queued > _MAX_WAITING_BYTES and not call.held:
                call.held = True
                self._http2.hold(stream, held=True)

    def ended(self, stream: int) -> None:
        """Part of `Streams`."""
        call = self._calls.get(stream)
        if call is None or call.is_broken:
            return
        if not call.parser.is_between or (call.requests is None and len(call.messages) != 1):
            self._break(stream, call, _not_whole())
        elif call.requests is not None:
            call.requests.put_nowait(None)
        else:
            self._start(stream, call)

    def aborted(self, stream: int) -> None:
        """Part of `Streams`."""
        call = self._calls.get(stream)
        if call is not None:
            self._drop(stream, call)

    def _break(self, stream: int, call: Call, error: MessageError) -> None:
        """What comes is no request: a method that has begun is told by its requests, any other never learns of it."""
        call.is_broken = True
        if call.requests is not None:
            call.requests.put_nowait(error)
        else:
            self._give_up(stream, call, error.status, str(error), error.reason)

    def _give_up(
        self, stream: int, call: Call, status: grpc.StatusCode, details: str, reason: Refusal
    ) -> None:
        """Refuse a call whose method has not begun."""
        self._drop(stream, call)
        self._count(call.path, reason)
        self._refuse(stream, status, details)

    def _drop(self, stream: int, call: Call) -> None:
        del self._calls[stream]
        if call.task is not None:
            call.task.cancel()

    def _count(self, path: bytes, reason: Refusal) -> None:
        if self._server.on_refused is not None:
            self._server.on_refused(path.decode("latin-1").removeprefix("/"), self._peer, reason)

    def _refuse(self, stream: int, status: grpc.StatusCode, details: str) -> None:
        self._http2.send_end(stream, _trailers_only(status, details))

    # ---- calls ----

    def _start(self, stream: int, call: Call) -> None:
        work = (
            self._stream_answer(stream, call)
            if call.handler.response_streaming
            else self._answer(stream, call)
        )
        call.task = asyncio.get_running_loop().create_task(work)

    async def _answer(self, stream: int, call: Call) -> None:
        handler, context = call.handler, call.context
        try:
            request = self._request(call)
            response = await cast(Any, handler.unary_unary)(request, context)
            message = framed(serialized(handler, response))
            self._check_size(message)
        except Exception as error:
            self._finish_with(stream, call, error)
            return
        http2 = self._http2
        http2.send_headers(stream, RESPONSE_HEADERS)
        http2.send_data(stream, message)
        http2.send_end(stream, status_block(grpc.StatusCode.OK, metadata=context.sent_trailing))
        self._calls.pop(stream, None)
        self._send()

    async def _stream_answer(self, stream: int, call: Call) -> None:
        handler, context = call.handler, call.context
        http2 = self._http2
        begun = False
        try:
            if call.requests is not None:
                responses = cast(Any, handler.stream_stream)(self._requests(stream, call), context)
            else:
                responses = cast(Any, handler.unary_stream)(self._request(call), context)
            async with asyncio.timeout(context.time_remaining()), contextlib.aclosing(responses):
                async for response in responses:
                    message = framed(serialized(handler, response))
                    self._check_size(message)
                    if not begun:
                        http2.send_headers(stream, RESPONSE_HEADERS)
                        begun = True
                    http2.send_data(stream, message)
                    self._send()
                    await self._room(stream, call)
        except Exception as error:
            self._finish_with(stream, call, error, begun=begun)
            return
        if not begun:
            http2.send_headers(stream, RESPONSE_HEADERS)
        http2.send_end(stream, status_block(grpc.StatusCode.OK, metadata=context.sent_trailing))
        self._calls.pop(stream, None)
        self._send()

    async def _requests(self, stream: int, call: Call) -> AsyncIterator[object]:
        assert call.requests is not None
        while (message := await call.requests.get()) is not None:
            if isinstance(message, MessageError):
                raise message
            call.queued -= len(message) + _MESSAGE_COST
            if call.held and call.queued * 2 < _MAX_WAITING_BYTES:
                call.held = False
                self._http2.hold(stream, held=False)
                self._send()
            yield parsed(call.handler, message)

    def _request(self, call: Call) -> object:
        """What the one message of a call says. Raises MessageError if nothing, which its method never learns."""
        try:
            return parsed(call.handler, call.messages[0])
        except MessageError as error:
            self._count(call.path, error.reason)
            raise

    async def _room(self, stream: int, call: Call) -> None:
        """Wait until the client has read most of what is sent to it."""
        while self._is_paused or self._http2.waiting_bytes(stream) > _MAX_WAITING_BYTES:
            call.room.clear()
            await call.room.wait()

    def _finish_with(self, stream: int, call: Call, error: Exception, *, begun: bool = False) -> None:
        """End a call by what its method raised."""
        if self._calls.pop(stream, None) is None:
            return  # the client is gone
        match error:
            case Abort():
                status, details = error.status, error.details
            case MessageError():
                status, details = error.status, str(error)
            case TimeoutError():
                status, details = grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
            case _:
                log.error("a gRPC method failed", exc_info=error)
                status, details = grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"
        metadata = call.context.sent_trailing
        block = (
            status_block(status, details, metadata) if begun else _trailers_only(status, details, metadata)
        )
        self._http2.send_end(stream, block)
        self._send()

    def _check_size(self, message: bytes) -> None:
        if len(message) > self._server.max_send:
            raise MessageError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"SERVER: Sent message larger than max ({len(message)} vs. {self._server.max_send}): raise "
                "serving.max_response_bytes (max_response_size in config.properties)",
            )


def _not_whole() -> MessageError:
    return MessageError(grpc.StatusCode.INTERNAL, "the request is not one whole message")


def _trailers_only(
    status: grpc.StatusCode, details: str, metadata: Sequence[tuple[str, str | bytes]] = ()
) -> bytes:
    content_type = header_block([(b"content-type", b"application/grpc")])
    return STATUS_200 + content_type + status_block(status, details, metadata)
