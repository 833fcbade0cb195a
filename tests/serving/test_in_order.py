"""Many at once, in order, bounded; and nothing is left running."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from satrap.serving.in_order import in_order


async def source(count: int, taken: list[int] | None = None) -> AsyncIterator[int]:
    for item in range(count):
        if taken is not None:
            taken.append(item)
        yield item


def test_results_come_in_the_order_of_the_items() -> None:
    async def run() -> list[int]:
        gates = [asyncio.Event() for _ in range(4)]
        gates[3].set()

        async def work(item: int) -> int:
            await gates[item].wait()
            if item:
                gates[item - 1].set()  # the last one ends first
            return item * 10

        return [result async for result in in_order(source(4), work, 4)]

    assert asyncio.run(run()) == [0, 10, 20, 30]


def test_no_more_than_the_limit_is_begun_ahead_of_the_reader() -> None:
    async def run() -> None:
        begun: list[int] = []

        async def work(item: int) -> int:
            begun.append(item)
            return item

        results = in_order(source(100), work, 3)
        assert await anext(results) == 0
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun == [0, 1, 2]
        assert await anext(results) == 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun == [0, 1, 2, 3]
        await results.aclose()

    asyncio.run(run())


def test_closing_cancels_what_runs_and_the_source() -> None:
    async def run() -> list[str]:
        ends: list[str] = []

        async def items() -> AsyncIterator[int]:
            try:
                yield 0
                yield 1
                await asyncio.Event().wait()
            finally:
                ends.append("source")

        async def work(item: int) -> int:
            if item == 0:
                return 0
            try:
                return await asyncio.Event().wait()
            finally:
                ends.append("work")

        results = in_order(items(), work, 4)
        assert await anext(results) == 0
        await asyncio.sleep(0)
        await results.aclose()
        return sorted(ends)

    assert asyncio.run(run()) == ["source", "work"]


def test_an_error_of_the_work_or_the_source_is_raised_at_its_place() -> None:
    async def work(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    async def broken() -> AsyncIterator[int]:
        yield 0
        raise ValueError("the source")

    async def run(items: AsyncIterator[int]) -> list[int | str]:
        seen: list[int | str] = []
        try:
            async for result in in_order(items, work, 8):
                seen.append(result)  # noqa: PERF401  (what came before the error counts)
        except ValueError as error:
            seen.append(str(error))
        return seen

    assert asyncio.run(run(source(5))) == [0, 1, "the third"]
    assert asyncio.run(run(broken())) == [0, "the source"]


def test_nothing_comes_of_nothing() -> None:
    async def work(item: int) -> int:
        raise AssertionError

    async def run() -> None:
        with pytest.raises(StopAsyncIteration):
            await anext(in_order(source(0), work, 1))

    asyncio.run(run())
