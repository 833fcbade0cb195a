"""What a version does with queries, and with what happens to its workers; no processes here."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from satrap.errors import DeadlineError, NoWorkerError, SatrapError, WorkerDiedError, WorkerStartError
from satrap.serving.batching import BatchPolicy
from satrap.serving.observer import Ignore
from satrap.serving.query import Query
from satrap.serving.request import Prediction, Request
from satrap.serving.version import Version


class Failures(Ignore):
    """Keeps the names of errors, None for a caller who went away."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def failed(self, model: str, version: str, request: Request, error: SatrapError | None) -> None:
        self.seen.append(type(error).__name__ if error else None)


@dataclass
class FakeWorker:
    """Keeps the batches that it got."""

    batches: list[Sequence[Request]] = field(default_factory=list)

    def predict(self, batch: Sequence[Request], timeout: float) -> None:
        self.batches.append(batch)


class Site:
    """A version with workers that only the test moves."""

    def __init__(self, batch_size: int = 1, name: str = "1") -> None:
        self.failures = Failures()
        self.ready = 0
        self.pool = SimpleNamespace(idle=deque(), roster=SimpleNamespace(is_hopeless=False))
        policy = BatchPolicy(batch_size, max_delay=0.0)
        spec: Any = SimpleNamespace(
            model="m", version=name, name=f"m {name}", batching=policy, response_timeout=120
        )
        pool: Any = lambda events: self.pool  # noqa: E731
        ids = map(str, itertools.count())
        self.version = Version(spec, pool, ids, self._is_ready, self.failures)

    def _is_ready(self, version: Version) -> None:
        self.ready += 1

    def idle(self) -> FakeWorker:
        """A worker that has become ready."""
        worker = FakeWorker()
        self.pool.idle.append(worker)
        self.version.worker_ready(9000, 0.1)
        return worker

    async def ask(self, named: str = "", patience: float | None = None) -> asyncio.Task[Prediction]:
        """A query that waits, or was dispatched."""
        asked = asyncio.create_task(self.version.predict(Query("m", named, {}, patience)))
        await asyncio.sleep(0)
        return asked

    def answer(self, worker: FakeWorker) -> None:
        """The worker answers its last batch, and is idle."""
        batch = worker.batches[-1]
        answers = [Prediction(200, request.id.encode(), {}) for request in batch]
        for request, prediction in zip(batch, answers, strict=True):
            request.succeed(prediction)
        self.pool.idle.append(worker)
        self.version.batch_answered(9000, batch, answers, ())


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def test_what_waits_goes_to_the_worker_that_becomes_ready_or_idle() -> None:
    async def scene() -> None:
        site = Site()
        first, second = await site.ask(), await site.ask()
        assert site.version.pending == 2
        worker = site.idle()
        assert (site.version.pending, site.ready) == (1, 1)
        site.answer(worker)
        site.answer(worker)
        assert [(await each).value for each in (first, second)] == [b"0", b"1"]
        assert [len(batch) for batch in worker.batches] == [1, 1]

    run(scene())


def test_a_batch_whose_worker_is_gone_fails_and_is_not_run_again() -> None:
    async def scene() -> None:
        site = Site(batch_size=2)
        lost = [await site.ask(), await site.ask()]
        waiting = await site.ask()
        worker = site.idle()
        draining = asyncio.create_task(site.version.drain(60))
        site.version.batch_lost(worker.batches[0])
        for each in lost:
            with pytest.raises(WorkerDiedError):
                await each
        assert site.version.pending == 1 and not draining.done()
        other = site.idle()
        site.answer(other)
        assert (await waiting).value == b"2"
        assert await draining
        assert site.failures.seen == ["WorkerDiedError"] * 2

    run(scene())


def test_nobody_waits_for_workers_that_will_not_come() -> None:
    async def scene() -> None:
        site = Site()
        waiting = await site.ask()
        site.pool.roster.is_hopeless = True
        site.version.pool_hopeless(WorkerStartError("m", "1", "no such module"))
        with pytest.raises(WorkerStartError, match="no such module"):
            await waiting
        with pytest.raises(NoWorkerError):
            await site.version.predict(Query("m", "", {}))
        assert site.failures.seen == ["WorkerStartError", "NoWorkerError"]

    run(scene())


def test_a_query_whose_time_is_over_never_reaches_a_worker() -> None:
    async def scene() -> None:
        site = Site()
        late = await site.ask(patience=0.0)
        with pytest.raises(DeadlineError):
            await late
        assert not site.idle().batches

    run(scene())


def test_who_drains_hears_that_the_last_request_came_too_late_for_a_worker() -> None:
    """The worker is ready before the loop comes to the timer of the deadline."""

    async def scene() -> None:
        site = Site()
        late = await site.ask(patience=0.02)
        draining = asyncio.create_task(site.version.drain(60))
        await asyncio.sleep(0)
        over = time.monotonic() + 0.02
        while time.monotonic() <= over:
            pass
        site.idle()
        assert await draining
        with pytest.raises(DeadlineError):
            await late

    run(scene())


def test_a_new_default_gets_what_named_no_version() -> None:
    async def scene() -> None:
        old, new = Site(), Site(name="2")
        named, unnamed, cancelled = await old.ask("1"), await old.ask(), await old.ask()
        assert old.version.hand_over(new.version) == 2
        assert (old.version.pending, new.version.pending) == (1, 2)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        worker = new.idle()
        new.answer(worker)
        assert (await unnamed).value == b"1"
        assert len(worker.batches) == 1, "of whose caller went away meanwhile nobody makes a batch"
        assert new.failures.seen == [None]
        named.cancel()
        await asyncio.wait({named})
        assert old.failures.seen == [None]

    run(scene())


def test_a_new_default_that_will_not_answer_gets_nothing() -> None:
    async def scene() -> None:
        old, new = Site(), Site(name="2")
        new.pool.roster.is_hopeless = True
        waiting = await old.ask()
        assert old.version.hand_over(new.version) == 0
        old.answer(old.idle())
        assert (await waiting).value == b"0"

    run(scene())


def test_who_drains_hears_that_the_last_request_was_wanted_no_more() -> None:
    """Its caller went away after another version had handed it over; no worker gets it, and none answers it."""

    async def scene() -> None:
        old, new = Site(name="1"), Site(name="2")
        asked = await old.ask()
        assert old.version.hand_over(new.version) == 1
        asked.cancel()
        draining = asyncio.create_task(new.version.drain(60))
        await asyncio.wait({asked, draining}, return_when=asyncio.FIRST_COMPLETED)
        worker = new.idle()
        assert await draining
        assert worker.batches == [] and new.failures.seen == [None]

    run(scene())
