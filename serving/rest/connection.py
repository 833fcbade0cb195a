"""One client's connection to a REST address: uvicorn's protocol, with limits on what has not arrived whole."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from satrap.serving.refusal import Refusal
from satrap.serving.rest.asgi import HEADERS_AS_SENT, IS_KEPT, SET_PHRASE, Scope
from satrap.serving.rest.response import NEVER_CACHED, RestResponse, error_document

__all__ = ["KEEP_ALIVE_SECONDS", "ClientConnection", "OnRefused"]

OnRefused = Callable[[Scope, Refusal], None]
"""Told about what is no whole request: a scope with what is known of it, and the reason."""

KEEP_ALIVE_SECONDS = 300
"""A connection that is idle for so long is closed. Long: a client whose idle connection is closed just when it sends
gets an error, and TorchServe closes none."""

_MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together, and what comes between parts of a body and after it. The parser has no limit."""

_REQUEST_SECONDS = 120.0
"""How long a request may take to arrive, as over gRPC..."""
_SLOWEST_BYTES_PER_SECOND = 64 * 1024
"""...besides the time that its body takes at this rate, for large ones."""


class ClientConnection(HttpToolsProtocol):
    """uvicorn's, which also keeps the headers' names as they were sent, and refuses requests without end."""

    def __init__(self, *given: Any, on_refused: OnRefused | None = None) -> None:
        """As uvicorn makes it; `on_refused` hears of what is refused here, which the application never sees."""
        super().__init__(*given)
        self._on_refused = on_refused
        self._in_head = False
        self._is_whole = True
        self._fruitless_bytes = 0
        self._as_sent: list[tuple[bytes, bytes]] = []
        self._begun = 0.0
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None  # runs while we wait for the client, not it for us

    @property
    def is_arriving(self) -> bool:
        """A request has begun to arrive, and is not whole."""
        return not self._is_whole

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Part of `asyncio.Protocol`."""
        super().connection_made(transport)
        self._watch(KEEP_ALIVE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        super().connection_lost(exc)
        self._unwatch()

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self._fruitless_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._is_whole:
            if self._fruitless_bytes > _MAX_HEAD_BYTES:
                self.send_400_response("")
            elif self._timer is None:
                self._watch(_REQUEST_SECONDS)
            return
        self._fruitless_bytes = 0
        if self._is_answering:
            self._unwatch()
        elif self._timer is None:  # empty lines, which have ended uvicorn's own wait for the next request
            self._watch(KEEP_ALIVE_SECONDS)

    def on_message_begin(self) -> None:
        """Part of the parser's protocol."""
        super().on_message_begin()
        self._in_head, self._is_whole = True, False
        self._begun, self._body_bytes = self.loop.time(), 0
        self._unwatch()
        self._as_sent = []
        cast(Scope, self.scope)[HEADERS_AS_SENT] = self._as_sent

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of the parser's protocol."""
        if (
            self._in_head
        ):  # what comes after the body is nobody's, least of all a header that was checked before
            super().on_header(name, value)
            self._as_sent.append((name, value))

    def on_headers_complete(self) -> None:
        """Part of the parser's protocol."""
        self._in_head, self._fruitless_bytes = False, 0
        super().on_headers_complete()
        cycle = self.cycle
        scope, transport = cast(Scope, self.scope), self.transport
        scope[IS_KEPT] = lambda: cycle.keep_alive

        def set_phrase(phrase: str) -> None:
            cycle.transport = cast(Any, _Phrased(cycle, transport, phrase)) if phrase else transport

        scope[SET_PHRASE] = set_phrase

    def on_body(self, body: bytes) -> None:
        """Part of the parser's protocol."""
        self._fruitless_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Part of the parser's protocol."""
        self._is_whole = True
        super().on_message_complete()

    @property
    def _is_answering(self) -> bool:
        """The request whose headers came last has not been answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._is_whole:
            if not self._is_answering:
                self.transport.close()
            return
        if self.flow.read_paused or (self._in_head and self._is_answering):
            self._begun = self.loop.time()  # it waits for us, or for the answer to the request before it
        remaining = _seconds_left(self.loop.time() - self._begun, self._body_bytes)
        if remaining > 0:
            self._watch(remaining)
        elif self._is_answering and self.cycle.response_started:
            self.transport.close()
        else:
            reason = f"The request did not arrive within {_REQUEST_SECONDS:g} s."
            self._refuse(
                error_document(408, "RequestTimeoutException", reason), b"408 Request Timeout", "late"
            )

    def send_400_response(self, msg: str) -> None:
        """TorchServe's document for what is not HTTP, whatever uvicorn would say."""
        answer = error_document(400, "BadRequestException", "Invalid HTTP message.")
        self._refuse(answer, b"400 Bad Request", "malformed")

    def _refuse(self, answer: RestResponse, status: bytes, reason: Refusal) -> None:
        """The last answer of this connection."""
        if self._on_refused is not None:  # between two requests the scope is of the one before
            self._on_refused({"client": self.client} if self._is_whole else cast(Scope, self.scope), reason)
        headers = [
            *answer.headers,
            (b"x-request-id", str(uuid.uuid4()).encode()),
            *NEVER_CACHED,
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + lines + b"\r\n" + answer.body)
        self.transport.close()


class _Phrased:
    """Stands for the transport of an answer until its head is written, whose reason phrase is another then."""

    def __init__(self, cycle: RequestResponseCycle, transport: asyncio.Transport, phrase: str) -> None:
        self._cycle, self._transport, self._phrase = cycle, transport, phrase

    def write(self, head: bytes) -> None:
        self._cycle.transport = self._transport
        status, _, rest = head.partition(b"\r\n")
        self._transport.write(
            b"%s %s\r\n%s" % (status[: len("HTTP/1.1 200")], self._phrase.encode("ascii"), rest)
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def _seconds_left(passed: float, body_bytes: int) -> float:
    """Until a request must be whole that began `passed` seconds ago, and of whose body so much is there."""
    return _REQUEST_SECONDS + body_bytes / _SLOWEST_BYTES_PER_SECOND - passed
