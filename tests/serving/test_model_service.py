"""Changes of the model service that nobody waits for any more; nothing here starts a process."""

import asyncio
import gc
import logging

from satrap.serving.forks import Template
from satrap.serving.service_builder import build_model_service
from satrap.serving.settings import ServingSettings
from satrap.serving.version_spec import RegisterParameters


def test_a_change_that_fails_when_its_caller_is_gone_is_a_line_in_the_log(tmp_path, caplog):
    unhandled: list[object] = []

    async def abandon() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        service = build_model_service(ServingSettings(model_store=tmp_path), Template())
        before = asyncio.all_tasks()
        caller = loop.create_task(service.register(RegisterParameters(url="absent.mar")))
        await asyncio.sleep(0)
        (change,) = asyncio.all_tasks() - before - {caller}
        caller.cancel()
        await asyncio.wait({caller, change})
        assert caller.cancelled()
        del caller, change
        gc.collect()

    with caplog.at_level(logging.ERROR):
        asyncio.run(abandon())
    gc.collect()
    assert not unhandled
    (line,) = caplog.messages
    assert "caller went away" in line
    assert "absent.mar" in line
