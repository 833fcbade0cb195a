"""Work on many items at once, with their results in the items' order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_order(
    items: AsyncIterator[Item], work: Callable[[Item], Awaitable[Result]], limit: int
) -> AsyncGenerator[Result, None]:
    """Results of `work` for every item. At most `limit` are begun whose results nobody has taken.

    So a slow reader slows the source down instead of filling the memory. Closed early, it cancels what runs. What
    `work` or the source raises is raised here, at its place.
    """
    room = asyncio.Semaphore(limit)
    begun: asyncio.Queue[asyncio.Future[Result] | None] = asyncio.Queue()
    running: set[asyncio.Future[Result]] = set()

    async def read() -> None:
        async for item in items:
            await room.acquire()
            task = asyncio.ensure_future(work(item))
            running.add(task)
            task.add_done_callback(running.discard)
            begun.put_nowait(task)

    reader = asyncio.ensure_future(read())
    reader.add_done_callback(lambda _: begun.put_nowait(None))
    try:
        while (task := await begun.get()) is not None:
            yield await task
            room.release()
        await reader
    finally:
        unfinished: list[asyncio.Future[Any]] = [reader, *running]
        for each in unfinished:
            each.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
