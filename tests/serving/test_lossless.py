"""Versions change under load: every request is answered once, by a version that may answer it, or told why not."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import (
    DeadlineError,
    ModelVersionNotFoundError,
    UnregisterTimeoutError,
    WorkerDiedError,
    WorkerStartError,
)
from satrap.serving.model_service import ModelService
from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = """
import os, time

class Handler:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]
        self.runs = open(os.environ["RUNS"], "a", buffering=1) if "RUNS" in os.environ else None

    def handle(self, data, context):
        for request in data:
            asked = bytes(request["data"]).decode()
            if self.runs:
                self.runs.write(asked + "\\n")
            if asked.startswith("hold "):
                open(asked[5:], "w").close()
                while os.path.exists(asked[5:]):
                    time.sleep(0.005)
        return [f"{self.version} {os.getpid()}"] * len(data)
"""


def register(service: ModelService, version: str, **more: Any) -> Any:
    given = {"initial_workers": 1, "synchronous": True, **more}
    return service.register(RegisterParameters(url=f"m{version}.mar", **given))


async def ask(service: ModelService, asked: str = "", version: str = "", **more: Any) -> list[str]:
    """[version, pid] that answered."""
    answer = await service.predict(Query("m", version, {"data": asked.encode()}, **more))
    assert answer.code == 200
    return answer.value.decode().split()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (files that workers make)
            await asyncio.sleep(0.005)


@pytest.fixture
def service(store: Any, open_service: Any, in_process: Any) -> ModelService:
    """Versions 1 (the default) and 2 of model m, with a worker each."""
    for version in "12":
        store.add(f"m{version}.mar", HANDLER, version=version)
    service: ModelService = open_service(unregister_model_timeout_seconds=1)
    for version in "12":
        in_process.run(register(service, version))
    return service


async def hold(service: ModelService, file: Path, version: str = "") -> asyncio.Task[list[str]]:
    """A request that keeps its worker busy while the file is there."""
    task = asyncio.create_task(ask(service, f"hold {file}", version))
    await until(file.exists)
    return task


async def waiting(service: ModelService, version: str, count: int, *named: str) -> list[asyncio.Task[Any]]:
    """Requests that wait in that version's queue."""
    tasks = [asyncio.create_task(ask(service, f"r{i}", *named)) for i in range(count)]
    await asyncio.sleep(0)

    async def pending() -> int:
        (described,) = await service.catalog.describe("m", version)
        return int(described["jobQueueStatus"]["pendingRequests"])

    while await pending() < count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return tasks


def test_what_named_no_version_goes_with_the_default(
    in_process: Any, service: ModelService, tmp_path: Path
) -> None:
    async def scene() -> None:
        held = await hold(service, tmp_path / "held")
        unnamed = await waiting(service, "1", 3)
        named = asyncio.create_task(ask(service, "named", "1"))
        service.set_default("m", "2")
        assert [(await task)[0] for task in unnamed] == ["2"] * 3, "though version 1 is still busy"
        assert not named.done() and not held.done()
        (tmp_path / "held").unlink()
        assert (await held)[0] == (await named)[0] == "1", "what a worker has, and what named it, stays"

    in_process.run(scene())


def test_who_went_away_after_that_is_not_run(
    in_process: Any, store: Any, open_service: Any, tmp_path: Path
) -> None:
    async def scene() -> None:
        first, second = await hold(service, tmp_path / "1"), await hold(service, tmp_path / "2", "2")
        (gone,) = await waiting(service, "1", 1)
        with pytest.raises(DeadlineError):
            late = asyncio.create_task(ask(service, "late", patience=0.05))
            await asyncio.sleep(0)
            service.set_default("m", "2")
            await late
        gone.cancel()
        for file in "12":
            (tmp_path / file).unlink()
        await asyncio.gather(first, second)
        await ask(service, "after")

    runs = tmp_path / "runs"
    for version in "12":
        store.add(
            f"m{version}.mar",
            HANDLER.replace('os.environ["RUNS"]', repr(str(runs))).replace(
                ' if "RUNS" in os.environ else None', ""
            ),
            version=version,
        )
    service = open_service()
    for version in "12":
        in_process.run(register(service, version))
    in_process.run(scene())
    assert runs.read_text().split("\n")[-2] == "after"
    assert "r0" not in runs.read_text() and "late" not in runs.read_text()


def test_nothing_goes_to_a_version_without_workers(
    in_process: Any, service: ModelService, tmp_path: Path
) -> None:
    async def scene() -> None:
        await service.scale("m", "2", 0)
        await hold(service, tmp_path / "held")
        tasks = await waiting(service, "1", 2)
        service.set_default("m", "2")
        (tmp_path / "held").unlink()
        assert [(await task)[0] for task in tasks] == ["1", "1"]

    in_process.run(scene())


def test_a_first_version_that_fails_leaves_its_requests_to_the_next(
    in_process: Any, store: Any, open_service: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    wait = f"import os, time\nwhile os.path.exists({str(gate)!r}): time.sleep(0.005)\n"
    store.add("m1.mar", wait + "raise ValueError('at import')", version="1")
    store.add("m2.mar", HANDLER, version="2")
    service = open_service()

    async def scene() -> None:
        registering = asyncio.create_task(register(service, "1"))
        await until(service.catalog.model_count)
        asked = await waiting(service, "1", 1)
        await register(service, "2")
        service.set_default("m", "2")
        assert (await asked[0])[0] == "2"
        gate.unlink()
        with pytest.raises(WorkerStartError):
            await registering
        assert (await ask(service))[0] == "2"

    in_process.run(scene())


def test_the_same_version_again_while_the_old_one_drains(
    in_process: Any, service: ModelService, tmp_path: Path
) -> None:
    async def scene() -> None:
        held = await hold(service, tmp_path / "held", "2")
        accepted = asyncio.create_task(ask(service, "accepted", "2"))
        await asyncio.sleep(0)
        unregistering = asyncio.create_task(service.unregister("m", "2"))
        await asyncio.sleep(0)
        with pytest.raises(ModelVersionNotFoundError):
            await ask(service, "", "2")
        assert len(await service.catalog.describe("m", "all")) == 1
        await register(service, "2")
        version, pid = await ask(service, "", "2")
        assert version == "2" and not held.done() and not unregistering.done()
        (tmp_path / "held").unlink()
        assert (await held)[1] == (await accepted)[1] != pid
        await unregistering
        assert (await ask(service, "", "2"))[1] == pid

    in_process.run(scene())


def test_what_is_left_after_the_timeout_fails(in_process: Any, service: ModelService, tmp_path: Path) -> None:
    async def scene() -> None:
        held = await hold(service, tmp_path / "held", "2")
        queued = asyncio.create_task(ask(service, "", "2"))
        await asyncio.sleep(0)
        with pytest.raises(UnregisterTimeoutError, match="Timed out while cleaning resources: m"):
            await service.unregister("m", "2")
        for task in (held, queued):
            with pytest.raises(WorkerDiedError, match=r"Worker died\."):
                await task

    in_process.run(scene())


def test_a_version_that_is_unregistered_while_it_is_registered(
    in_process: Any, store: Any, open_service: Any
) -> None:
    store.add("m1.mar", "import time\ntime.sleep(600)\n", version="1")
    service = open_service(unregister_model_timeout_seconds=1)

    async def scene() -> None:
        registering = asyncio.create_task(register(service, "1"))
        await until(service.catalog.model_count)
        await service.unregister("m", "1")
        with pytest.raises(WorkerStartError, match="it was unregistered meanwhile"):
            await registering
        assert service.catalog.model_count() == 0

    in_process.run(scene())


def test_a_hundred_rounds_lose_nothing(
    in_process: Any, store: Any, open_service: Any, tmp_path: Path
) -> None:
    """Each round registers a version, makes it the default and takes the old one out, under load all the while."""
    rounds, runs = 100, tmp_path / "runs"
    handler = HANDLER.replace('os.environ["RUNS"]', repr(str(runs)))
    handler = handler.replace(' if "RUNS" in os.environ else None', "")
    for version in "12":
        store.add(f"m{version}.mar", handler, version=version)
    service = open_service()
    outcomes: Counter[str] = Counter()
    answered: list[str] = []
    defaults = ["1"]  # every default there was, in order
    ended = asyncio.Event()

    async def unnamed(client: int) -> None:
        for number in range(10**9):
            if ended.is_set():
                return
            first = len(defaults) - 1
            name = f"unnamed-{client}-{number}"
            version, _ = await ask(service, name)
            assert version in defaults[first:], "it was the default at some moment of the request"
            answered.append(name)
            outcomes["unnamed"] += 1

    async def named(client: int) -> None:
        for number in range(10**9):
            if ended.is_set():
                return
            wanted, name = "12"[number % 2], f"named-{client}-{number}"
            try:
                version, _ = await ask(service, name, wanted)
            except ModelVersionNotFoundError as error:
                assert str(error) == f"Model version: {wanted} does not exist for model: m"
                outcomes["gone"] += 1
                await asyncio.sleep(0.002)
                continue
            assert version == wanted
            answered.append(name)
            outcomes["named"] += 1

    async def scene() -> None:
        await register(service, "1")
        clients = [asyncio.create_task(each(i)) for i in range(3) for each in (unnamed, named)]
        for number in range(rounds):
            old, new = ("1", "2") if number % 2 == 0 else ("2", "1")
            await register(service, new)
            defaults.append(new)
            service.set_default("m", new)
            await service.unregister("m", old)
            assert not any(client.done() for client in clients), "no client met an error"
        ended.set()
        await asyncio.gather(*clients)

    in_process.runner.run(scene())
    ran = Counter(runs.read_text().split())
    assert set(ran.values()) == {1}, "no request is run twice"
    assert set(ran) == set(answered), "what was run was answered, and what was answered was run"
    assert min(outcomes.values()) > rounds, outcomes
