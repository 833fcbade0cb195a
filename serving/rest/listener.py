"""Runs an ASGI application by uvicorn inside the frontend's loop: the caller binds, starts and stops it.

Of uvicorn its protocol is used and what starts and stops it; neither its signal handlers nor its ten ticks a second.
"""

import asyncio
import socket
import ssl
from typing import Any, cast

import uvicorn

from satrap.errors import InvalidInputError
from satrap.serving.listening import Address
from satrap.serving.rest.connection import KEEP_ALIVE_SECONDS, ClientConnection, OnRefused
from satrap.serving.rest.unix_socket import UnixSocket

__all__ = ["Listener", "bind"]

_BACKLOG = 1024
_ARRIVAL_SECONDS = 2.0
"""After a stop, for requests that have begun to arrive."""
_LAST_SECONDS = 1.0
"""After the time to drain, for telling those who still wait. All is told at once, but to who does not read."""


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


def _listening(bound: socket.socket | UnixSocket) -> socket.socket:
    """Here, because uvloop does not tell when it fails."""
    if isinstance(bound, UnixSocket):
        return bound.listen(_BACKLOG)
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(str(Address(host, port)), error) from error
    return bound


def _cannot_listen(where: str, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"cannot listen on {where} (is another server running there?): {error}")


class Listener:
    """One address: a bound socket, or a path for one, and after `start` a server on it."""

    def __init__(
        self,
        app: Any,
        bound: socket.socket | UnixSocket,
        drain_seconds: int,
        tls: ssl.SSLContext | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        """Start nothing; the socket becomes the listener's. With `tls` it is served by TLS only.

        `on_refused` hears of what comes and is no request for `app`.
        """
        self._on_refused = on_refused
        self._bound = bound
        self._tls = tls
        self._drain_seconds = drain_seconds
        self._config = uvicorn.Config(
            app,
            loop="none",
            http=ClientConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._state = uvicorn.server.ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections.

        Raises:
            InvalidInputError: another server took the address meanwhile.
        """
        self._config.load()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: ClientConnection(self._config, self._state, {}, on_refused=self._on_refused),
            sock=_listening(self._bound),
            ssl=self._tls,
            backlog=_BACKLOG,
        )

    async def stop(self) -> None:
        """Accept no more, answer what has come, for so long as was said at the start, and close all connections.

        What has not come whole soon after is given up.
        """
        if self._server is None:
            self._bound.close()
            return
        if isinstance(self._bound, UnixSocket):
            self._bound.close()
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        arrival = min(_ARRIVAL_SECONDS, self._drain_seconds)
        await self._tasks_done(arrival)
        for connection in list(self._state.connections):
            if cast(ClientConnection, connection).is_arriving:
                connection.transport.close()
        await self._tasks_done(self._drain_seconds - arrival)
        for task in list(self._state.tasks):
            task.cancel()  # which tells its client
        await self._tasks_done(_LAST_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.close()
        self._server = None

    async def _tasks_done(self, seconds: float) -> None:
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=seconds)
