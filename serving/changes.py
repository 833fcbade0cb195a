"""Changes that go on when who asked for them does not wait any more: half a registration is worse than a whole one."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from satrap.errors import SatrapError

__all__ = ["Changes"]

log = logging.getLogger("satrap.serving")

T = TypeVar("T")


class Changes:
    """The changes that were begun and have not ended. Belongs to one event loop."""

    def __init__(self) -> None:
        """None was begun."""
        self._begun: set[asyncio.Task[Any]] = set()

    async def carry_through(self, change: Coroutine[Any, Any, T]) -> T:
        """Wait for a change, which goes on if this is cancelled; that it failed is then a line in the log.

        Raises:
            Exception: what the change raises.
        """
        task = asyncio.get_running_loop().create_task(change)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def cancel(self) -> None:
        """Cancel those that were begun, and wait until they have ended."""
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)


def _log_failure(change: asyncio.Task[Any]) -> None:
    """Of a change whose caller went away: nobody else is told."""
    if change.cancelled() or (error := change.exception()) is None:
        return
    if isinstance(error, SatrapError):
        log.error("a change whose caller went away failed: %s", error)
    else:
        log.error("a change whose caller went away failed", exc_info=error)
