"""Runs an ASGI application by uvicorn inside the frontend's loop: the caller binds, starts and stops it.

Of uvicorn its protocol is used and what starts and stops it; neither its signal handlers nor its ten ticks a second.
"""

import asyncio
import socket
import uuid
from collections.abc import Mapping
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from satrap.errors import InvalidInputError
from satrap.serving.listening import Address
from satrap.serving.rest.asgi import HEADERS_AS_SENT, IS_KEPT, Scope
from satrap.serving.rest.response import NEVER_CACHED, error_document

__all__ = ["Listener", "bind"]

_BACKLOG = 1024
_KEEP_ALIVE_SECONDS = 300
"""A connection that is idle for so long is closed. Long: a client whose idle connection is closed just when it sends
gets an error, and TorchServe closes none."""

_MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together, and what comes between parts of a body and after it. The parser has no limit."""


def bind(address: Address) -> socket.socket:
    """A socket that has the address and does not accept yet; the caller closes it.

    Raises:
        InvalidInputError: the address cannot be had.
    """
    bound: socket.socket | None = None
    try:
        found = socket.getaddrinfo(
            address.host.strip("[]"), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # Of a name with both, like localhost, IPv4: that is where TorchServe's clients look.
        family, kind, protocol, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise _cannot_listen(str(address), error) from error
    bound.setblocking(False)
    return bound


def _cannot_listen(where: str, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"cannot listen on {where} (is another server running there?): {error}")


class Listener:
    """One address: a bound socket, and after `start` a server on it."""

    def __init__(
        self,
        app: Any,
        bound: socket.socket,
        drain_seconds: int,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        """Start nothing; the socket becomes the listener's. `tls`: uvicorn's settings of that name."""
        self._socket = bound
        self._drain_seconds = drain_seconds
        self._config = uvicorn.Config(
            app,
            loop="none",
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            **(tls or {}),
        )
        self._state = uvicorn.server.ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections.

        Raises:
            InvalidInputError: another server took the address meanwhile.
        """
        self._config.load()
        try:
            self._socket.listen(_BACKLOG)  # here, because uvloop does not tell when it fails
        except OSError as error:
            host, port = self._socket.getsockname()[:2]
            raise _cannot_listen(str(Address(host, port)), error) from error
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(self._config, self._state, {}),
            sock=self._socket,
            ssl=self._config.ssl,
            backlog=_BACKLOG,
        )

    async def stop(self) -> None:
        """Accept no more, answer what has come, for so long as was said at the start, and close all connections."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=self._drain_seconds)
        for connection in list(self._state.connections):
            connection.transport.close()
        for task in list(self._state.tasks):
            task.cancel()
        self._server = None


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which also keeps the headers' names as they were sent, and refuses heads and trailers without end."""

    _in_head = False
    _is_whole = True
    _fruitless_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._fruitless_bytes += len(data)
        super().data_received(data)
        if self._is_whole:
            self._fruitless_bytes = 0
        elif self._fruitless_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._is_whole = True, False
        self._as_sent: list[tuple[bytes, bytes]] = []
        cast(Scope, self.scope)[HEADERS_AS_SENT] = self._as_sent

    def on_header(self, name: bytes, value: bytes) -> None:
        if (
            self._in_head
        ):  # what comes after the body is nobody's, least of all a header that was checked before
            super().on_header(name, value)
            self._as_sent.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._fruitless_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head, self._fruitless_bytes = False, 0
        super().on_headers_complete()
        cycle = self.cycle
        cast(Scope, self.scope)[IS_KEPT] = lambda: cycle.keep_alive

    def send_400_response(self, msg: str) -> None:
        """TorchServe's document for what is not HTTP, whatever uvicorn would say."""
        answer = error_document(400, "BadRequestException", "Invalid HTTP message.")
        headers = [
            *answer.headers,
            (b"x-request-id", str(uuid.uuid4()).encode()),
            *NEVER_CACHED,
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + lines + b"\r\n" + answer.body)
        self.transport.close()
