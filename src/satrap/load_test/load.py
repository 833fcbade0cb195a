"""The two ways to load a server, and the clock.

Closed loop: N clients, each with one request under way at a time; the rate is what the server gives. Open loop:
requests come at a rate whatever the server does, at random moments (a Poisson process, seeded), and latency counts from
the moment at which each was due.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from satrap.load_test.report import Answer, Report, summarize
from satrap.load_test.target import Target

__all__ = ["Load", "Measurement", "Progress", "arrivals", "measure", "run"]

Progress = Callable[[float, int, int], None]
"""Gets the seconds gone, good answers and errors, once a second."""

_PROGRESS_SECONDS = 1.0
_OVERRUN = "not sent: as many requests are under way as --clients allows"


@dataclass(frozen=True)
class Load:
    """How a server is loaded. `rate` 0: a closed loop of `clients`; otherwise requests per second of an open one, of
    which at most `clients` are under way together. The first `warmup` seconds are not counted.
    """

    clients: int
    seconds: float
    rate: float = 0.0
    warmup: float = 1.0
    timeout: float = 30.0
    seed: int = 1


@dataclass(frozen=True)
class Measurement:
    """The answers of the counted seconds, and the CPU seconds that this process used in them."""

    answers: list[Answer]
    seconds: float
    cpu_seconds: float


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When the requests of an open loop are due, in seconds from its start."""
    chance = random.Random(seed)  # noqa: S311  (not for secrets)
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)


def measure(target: Target, load: Load, on_progress: Progress) -> Report:
    """Connect, load the server from an event loop of its own, and sum up."""

    async def connected() -> Measurement:
        async with target:
            return await run(target, load, on_progress)

    measured = asyncio.run(connected())
    return summarize(measured.answers, measured.seconds, measured.cpu_seconds / measured.seconds)


async def run(target: Target, load: Load, on_progress: Progress) -> Measurement:
    """Load the server and time its answers."""
    answers: list[Answer] = []
    began = time.perf_counter()
    total = load.warmup + load.seconds

    async def ask(due: float | None) -> None:
        sent = time.perf_counter() - began
        error = await target.send(load.timeout)
        answered = time.perf_counter() - began
        answers.append(Answer(sent if due is None else due, sent, answered, error))

    async def client() -> None:
        while time.perf_counter() - began < total:
            await ask(None)

    async def closed() -> None:
        await asyncio.gather(*(client() for _ in range(load.clients)))

    async def opened() -> None:
        under_way: set[asyncio.Task[None]] = set()
        for due in arrivals(load.rate, total, load.seed):
            now = time.perf_counter() - began
            if due > now:
                await asyncio.sleep(due - now)
            if len(under_way) >= load.clients:
                answers.append(Answer(due, due, due, _OVERRUN))
                continue
            task = asyncio.create_task(ask(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    cpu_at_start = 0.0

    async def watch() -> None:
        nonlocal cpu_at_start
        await asyncio.sleep(load.warmup)
        cpu_at_start = time.process_time()
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            failed = sum(bool(answer.error) for answer in answers)
            on_progress(time.perf_counter() - began, len(answers) - failed, failed)

    watching = asyncio.create_task(watch())
    try:
        await (opened() if load.rate else closed())
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    cpu = time.process_time() - cpu_at_start
    seconds = time.perf_counter() - began - load.warmup
    counted = [
        Answer(a.due - load.warmup, a.sent - load.warmup, a.answered - load.warmup, a.error)
        for a in answers
        if a.due >= load.warmup
    ]
    return Measurement(counted, seconds, cpu)
