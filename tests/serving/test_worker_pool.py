"""How a pool carries out what its roster decides; processes that cannot be had, and none that can."""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from satrap.errors import SatrapError, UnavailableError, WorkerStartError
from satrap.serving.request import Request
from satrap.serving.roster import WorkerState
from satrap.serving.worker.assignment import Assignment
from satrap.serving.worker_pool import WorkerPool


class Told:
    """The errors that were told."""

    def __init__(self) -> None:
        self.hopeless: list[str] = []

    def worker_ready(self, number: int, seconds: float) -> None:
        raise AssertionError("there are no processes")

    def batch_answered(self, *_: Any) -> None:
        raise AssertionError("there are no processes")

    def batch_lost(self, batch: Sequence[Request]) -> None:
        raise AssertionError("there are no processes")

    def pool_hopeless(self, error: SatrapError) -> None:
        self.hopeless.append(str(error))


class NoTemplate:
    """A template that is not there: asked for a process it says so, when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()

    async def fork(self, kind: str, python: str) -> Any:
        self.asked += 1
        await self.go_on.wait()
        raise UnavailableError("there is no template")


@pytest.fixture
def told() -> Told:
    return Told()


def made(template: Any, told: Told) -> WorkerPool:
    spec: Any = SimpleNamespace(
        model="m", version="1", name="m 1", max_retry_timeout=300, startup_timeout=120, devices=()
    )
    assignment = Assignment(model="m", version="1", directory="", handler="h", manifest={}, batch_size=1)
    return WorkerPool(spec, assignment, template, itertools.count(9000), told)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def test_a_process_that_cannot_be_had_is_told_to_who_waits_for_it_and_who_dispatches(told: Told) -> None:
    async def scene() -> None:
        template = NoTemplate()
        pool = made(template, told)
        pool.scale(1, 1)
        waiting = asyncio.create_task(pool.wait_started())
        template.go_on.set()
        with pytest.raises(WorkerStartError, match="there is no template"):
            await waiting
        assert all("there is no template" in each for each in told.hopeless)
        assert told.hopeless
        await pool.close()
        assert pool.roster.workers() == []

    run(scene())


def test_who_waits_for_workers_hears_that_fewer_are_wanted(told: Told) -> None:
    async def scene() -> None:
        pool = made(NoTemplate(), told)
        pool.scale(1, 1)
        waiting = asyncio.create_task(pool.wait_started())
        await asyncio.sleep(0)
        assert pool.roster.count(WorkerState.STARTING) == 1
        pool.scale(0, 1)
        await waiting

    run(scene())


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_template_that_says_nothing_does_not_hold_up_the_end(told: Told, is_asked: bool) -> None:
    async def scene() -> None:
        template = NoTemplate()
        pool = made(template, told)
        pool.scale(2, 2)
        if is_asked:
            await asyncio.sleep(0)
        assert template.asked == (2 if is_asked else 0)
        async with asyncio.timeout(20):
            await pool.close()
        assert template.asked == (2 if is_asked else 0)
        assert pool.roster.workers() == []

    run(scene())


def test_a_worker_that_is_wanted_no_more_is_not_waited_for(told: Told) -> None:
    async def scene() -> None:
        pool = made(NoTemplate(), told)
        pool.scale(1, 1)
        await asyncio.sleep(0)
        pool.scale(0, 0)
        await asyncio.wait_for(pool.wait_started(), 20)
        assert pool.roster.workers() == []

    run(scene())
