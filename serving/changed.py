"""Waiting for something to change that nobody can wait for by itself."""

import asyncio

__all__ = ["Changed"]


class Changed:
    """Wakes everybody who waits, at every change; who is woken looks again. Belongs to one event loop."""

    def __init__(self) -> None:
        """Nothing has changed."""
        self._next: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait for the next change."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def notify(self) -> None:
        """Something has changed."""
        if self._next is not None:
            changed, self._next = self._next, None
            changed.set_result(None)
