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
    sending = _Sending(target, load, time.perf_counter())
    watch = _Watch(sending, load.warmup, on_progress)
    watching = asyncio.create_task(watch.run())
    try:
        await (sending.opened() if load.rate else sending.closed())
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    cpu = time.process_time() - watch.cpu_at_start
    seconds = sending.now() - load.warmup
    counted = [
        Answer(a.due - load.warmup, a.sent - load.warmup, a.answered - load.warmup, a.error)
        for a in sending.answers
        if a.due >= load.warmup
    ]
    return Measurement(counted, seconds, cpu)


class _Sending:
    """The requests of one load, and the answers so far; times are in seconds from `began`."""

    def __init__(self, target: Target, load: Load, began: float) -> None:
        self._target, self._load, self._began = target, load, began
        self._total = load.warmup + load.seconds
        self.answers: list[Answer] = []

    def now(self) -> float:
        return time.perf_counter() - self._began

    async def closed(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._load.clients)))

    async def opened(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        for due in arrivals(self._load.rate, self._total, self._load.seed):
            now = self.now()
            if due > now:
                await asyncio.sleep(due - now)
            if len(under_way) >= self._load.clients:
                self.answers.append(Answer(due, due, due, _OVERRUN))
                continue
            task = asyncio.create_task(self._ask(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(max(0.0, self._total - self.now()))  # nothing more is due, and the time is not up
        await asyncio.gather(*under_way)

    async def _client(self) -> None:
        while self.now() < self._total:
            await self._ask(None)

    async def _ask(self, due: float | None) -> None:
        sent = self.now()
        error = await self._target.send(self._load.timeout)
        self.answers.append(Answer(sent if due is None else due, sent, self.now(), error))


class _Watch:
    """Begins to count CPU time after the warm-up, and tells of progress from then on."""

    def __init__(self, sending: _Sending, warmup: float, on_progress: Progress) -> None:
        self._sending, self._warmup, self._on_progress = sending, warmup, on_progress
        self.cpu_at_start = 0.0

    async def run(self) -> None:
        await asyncio.sleep(self._warmup)
        self.cpu_at_start = time.process_time()
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            answers = self._sending.answers
            failed = sum(bool(answer.error) for answer in answers)
            self._on_progress(self._sending.now(), len(answers) - failed, failed)
