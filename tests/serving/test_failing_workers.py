"""Workers that do not load: they are tried again with pauses, health says when that has gone on for too long.

And those that there are no means to start.
"""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import NoWorkerError, UnavailableError, WorkerStartError
from satrap.serving.forks import Child
from satrap.serving.outcome import OutcomeState
from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

LOADS_LATER = """
import os, time

with open({tries!r}, "a") as file:
    file.write("%f\\n" % time.monotonic())
if len(open({tries!r}).readlines()) <= {failures}:
    raise ValueError("not yet")

def handle(data, context):
    return None if data is None else [b"loaded"] * len(data)
"""


def register(service: Any) -> Any:
    return service.register(RegisterParameters(url="m.mar", initial_workers=1))


def archive(store: Any, tmp_path: Path, failures: int, config: str = "") -> Path:
    tries = tmp_path / "tries"
    more = {"config": config} if config else {}
    store.add("m.mar", LOADS_LATER.format(tries=str(tries), failures=failures), **more)
    return tries


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (the clock decides)
            await asyncio.sleep(0.01)


def test_it_is_tried_again_after_0_and_1_seconds(
    in_process: Any, open_service: Any, store: Any, tmp_path: Path
) -> None:
    async def answered() -> bytes:
        async with asyncio.timeout(30):
            while True:
                try:
                    return bytes((await service.predict(Query("m", "", {"d": b""}))).value)
                except (WorkerStartError, NoWorkerError):
                    await asyncio.sleep(0.01)

    tries = archive(store, tmp_path, failures=2)
    service = open_service()
    assert in_process.run(register(service)).state is OutcomeState.ACCEPTED
    assert in_process.run(answered()) == b"loaded"
    first, second, third = map(float, tries.read_text().split())
    assert second - first < 1 <= third - second


def test_it_is_given_up_and_scaling_tries_again(
    in_process: Any, open_service: Any, store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        await register(service)
        assert service.catalog.is_healthy(), "it is being started"
        await until(lambda: not service.catalog.is_healthy())
        await until(lambda: "is given up: scale the model" in caplog.text)
        (described,) = await service.catalog.describe("m")
        assert [(w["status"], w["pid"]) for w in described["workers"]] == [("UNLOADING", -1)]
        with pytest.raises((NoWorkerError, WorkerStartError)):
            await service.predict(Query("m", "", {"d": b""}))
        assert len(tries.read_text().split()) == 3, "at 0, 0 and 1 second: the time is over"
        await service.scale("m", minimum=1, synchronous=True)
        assert service.catalog.is_healthy()
        assert (await service.predict(Query("m", "", {"d": b""}))).value == b"loaded"

    tries = archive(store, tmp_path, failures=3, config="maxRetryTimeoutInSec: 1\n")
    service = open_service()
    in_process.run(scene())


def test_health_is_of_default_versions(
    in_process: Any, open_service: Any, store: Any, tmp_path: Path
) -> None:
    async def scene() -> None:
        await service.register(RegisterParameters(url="good.mar", initial_workers=1, synchronous=True))
        await register(service)
        await until(tries.exists)
        assert service.catalog.is_healthy(), "2.0 is not the default"
        service.set_default("m", "2.0")
        await until(lambda: not service.catalog.is_healthy())
        service.set_default("m", "1.0")
        assert service.catalog.is_healthy()

    tries = tmp_path / "tries"
    store.add("good.mar", "def handle(data, context):\n    return data and ['x'] * len(data)\n")
    failing = LOADS_LATER.format(tries=str(tries), failures=99)
    store.add("m.mar", failing, version="2.0", config="maxRetryTimeoutInSec: 0\n")
    service = open_service()
    in_process.run(scene())


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process may open so many more, and then none."""
    free = [os.open("/", os.O_RDONLY) for _ in range(count + 1)]
    for descriptor in free:
        os.close(descriptor)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", range(5))
def test_a_server_that_may_open_no_more_says_so_and_goes_on(in_process: Any, count: int) -> None:
    """A process takes a socket pair, a pipe, and what it is watched by."""

    async def fork() -> Child:
        return await in_process.template.fork("worker")

    async def refused() -> None:
        with descriptors_left(count), pytest.raises(UnavailableError, match=r"\(ulimit -n\)"):
            await fork()

    async def end(child: Child) -> str:
        child.kill()
        child.connection.close()
        os.close(child.output)
        os.close(child.pidfd)
        return await child.ended

    in_process.run(refused())
    assert "signal 9" in in_process.run(end(in_process.run(fork())))
