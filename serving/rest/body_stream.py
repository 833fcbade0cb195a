"""An answer in parts: each is sent when it is there, before the next one is known."""

import asyncio

from satrap.serving.rest.asgi import Send
from satrap.serving.rest.response import Headers, RestResponse

__all__ = ["BodyStream"]


class BodyStream:
    """Sends parts in a task of its own, so that who has them need not wait for the client."""

    def __init__(self, send: Send, status: int, headers: Headers) -> None:
        """Begin the answer; needs a running loop."""
        self._send = send
        self.begun = False
        """Whether anything has been sent."""
        self.unsent = 0
        """Bytes that wait for the client to read."""
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._write(status, headers))

    def write(self, part: bytes) -> None:
        """Send a part as soon as those before it are sent."""
        if part:
            self.unsent += len(part)
            self._parts.put_nowait(part)

    async def end(self, last: RestResponse) -> bool:
        """Send the last part and the end, and wait until they are sent.

        After an error there is nothing to send that a client would not take for the answer: then the body stays
        without its end, which closes the connection. Returns whether all was sent.
        """
        if last.is_error:
            self.abort()
            return False
        self.write(last.body)
        self._parts.put_nowait(None)
        await self._task
        return True

    def abort(self) -> None:
        """Send no more."""
        self._task.cancel()

    async def _write(self, status: int, headers: Headers) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        while (part := await self._parts.get()) is not None:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            self.unsent -= len(part)
        await self._send({"type": "http.response.body", "body": b""})
