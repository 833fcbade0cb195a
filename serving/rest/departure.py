"""What becomes of a request whose client goes away before it has its answer."""

import asyncio
from types import TracebackType
from typing import Self

from satrap.serving.rest.asgi import Receive

__all__ = ["ClientGoneError", "Departure"]

_WATCH_AFTER_SECONDS = 0.02
"""A request that is answered sooner needs nobody to watch whether its client is still there."""


class ClientGoneError(Exception):
    """The client closed the connection; nobody waits for an answer."""


class Departure:
    """Cancels what runs inside it when the client closes the connection."""

    __slots__ = ("_caller", "_gone", "_receive", "_timer", "_watch")

    def __init__(self, receive: Receive) -> None:
        """`receive` is ASGI's."""
        self._receive = receive
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Begin to watch, a little later."""
        self._caller = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_SECONDS, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            if self._caller is not None:
                self._caller.uncancel()
            raise ClientGoneError from error

    def give_up(self) -> None:
        """As if the client had gone."""
        if self._caller is not None and not self._gone:
            self._gone = True
            self._caller.cancel()

    def _begin(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.give_up()
