"""Changes that nobody waits for any more."""

import asyncio
import gc
import logging

import pytest

from satrap.errors import NotFoundError
from satrap.serving.changes import Changes


def test_a_change_goes_on_without_its_caller() -> None:
    async def scene() -> None:
        changes, go_on, ended = Changes(), asyncio.Event(), asyncio.Event()

        async def change() -> None:
            await go_on.wait()
            ended.set()

        caller = asyncio.create_task(changes.carry_through(change()))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled()
        go_on.set()
        await asyncio.wait_for(ended.wait(), 60)

    asyncio.run(scene())


def test_the_caller_is_told_how_it_ended() -> None:
    async def change(error: Exception | None) -> str:
        if error is not None:
            raise error
        return "done"

    async def scene() -> None:
        changes = Changes()
        assert await changes.carry_through(change(None)) == "done"
        with pytest.raises(NotFoundError):
            await changes.carry_through(change(NotFoundError("m.mar")))

    asyncio.run(scene())


def test_those_that_were_begun_can_be_cancelled() -> None:
    async def scene() -> None:
        changes = Changes()
        caller = asyncio.create_task(changes.carry_through(asyncio.Event().wait()))
        await asyncio.sleep(0)
        await changes.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "trace"),
    [(NotFoundError("absent.mar"), False), (ValueError("absent.mar"), True)],
    ids=["of ours", "unexpected"],
)
def test_a_change_that_fails_when_its_caller_is_gone_is_a_line_in_the_log(
    error: Exception, trace: bool, caplog: pytest.LogCaptureFixture
) -> None:
    unhandled: list[object] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        go_on = asyncio.Event()

        async def fail() -> None:
            await go_on.wait()
            raise error

        before = asyncio.all_tasks()
        caller = loop.create_task(Changes().carry_through(fail()))
        await asyncio.sleep(0)
        (change,) = asyncio.all_tasks() - before - {caller}
        caller.cancel()
        go_on.set()
        await asyncio.wait({caller, change})
        assert caller.cancelled()
        del caller, change
        gc.collect()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scene())
    gc.collect()
    assert not unhandled
    (line,) = caplog.records
    assert "caller went away" in line.getMessage()
    assert "absent.mar" in caplog.text
    assert (line.exc_info is not None) == trace
