"""The gRPC server: a socket, the services that were added, and its clients' connections.

Services are added by the functions that grpc's compiler writes (`add_..._to_server`): of them the server needs the two
methods that they call. A service's methods are coroutines, or asynchronous generators where they stream.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from satrap.serving.grpc_server.call import Handler
from satrap.serving.grpc_server.connection import ClientConnection, OnRefused

__all__ = ["GrpcServer"]

_GOODBYE_SECONDS = 1.0
"""How long a client without calls may take to close when it is asked to, and a request to arrive whole."""


class GrpcServer:
    """One port. Add services, `start`, `stop`; belongs to one event loop."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        max_receive: int,
        max_send: int,
        admit: Callable[[str | None], None] | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        """Take a socket that listens; nobody is answered before `start`. Limits of one message are in bytes.

        `admit` sees the metadata `authorization` of every call before anything else of it is looked at, and raises a
        `SatrapError` to refuse it; `on_refused` hears of it, and of every other call that no method gets.
        """
        self.max_receive, self.max_send = max_receive, max_send
        self.admit, self.on_refused = admit, on_refused
        self._methods: dict[bytes, Handler] = {}
        self._socket = listening
        self._server: asyncio.Server | None = None
        self.connections: set[ClientConnection] = set()
        self._changed = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """Part of what generated code calls; the same methods come by the other call."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve these methods of `service`."""
        self._methods.update({f"/{service}/{name}".encode(): handler for name, handler in handlers.items()})

    def parse_by(self, path: str, parse: Callable[[bytes | bytearray], object]) -> None:
        """Parse the requests of `/service/method` by this function; it may keep what it is given."""
        handler = self._methods[path.encode()]
        self._methods[path.encode()] = cast(Handler, cast(Any, handler)._replace(request_deserializer=parse))

    def method(self, path: bytes) -> Handler | None:
        """The method of that path."""
        return self._methods.get(path)

    async def start(self) -> None:
        """Answer."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self), sock=self._socket)

    async def stop(self, grace: float | None) -> None:
        """Take no new calls; let those that are running finish for `grace` seconds, then cancel them.

        Requests that have not arrived whole soon after are refused.
        """
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for connection in list(self.connections):
            connection.drain()
        seconds = grace or 0.0
        await self._wait(lambda: not self.connections, min(seconds, _GOODBYE_SECONDS))
        for connection in list(self.connections):
            connection.give_up_arriving()
        await self._wait(lambda: not any(each.is_busy for each in self.connections), seconds)
        for connection in list(self.connections):
            connection.abort()

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    def closed(self, connection: "ClientConnection") -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self._changed.set()

    def progressed(self) -> None:
        """A connection that is drained has done something."""
        self._changed.set()
