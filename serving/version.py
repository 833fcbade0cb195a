"""One version of one model at work: what is asked of it, its queue, and what its workers answer.

A thin shell: `batching` decides what leaves the queue; here are the clock and the timer. `worker_pool` has the workers.
Belongs to the frontend's event loop.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from satrap.errors import DeadlineError, NoWorkerError, SatrapError, UnavailableError, WorkerDiedError
from satrap.serving.batching import BatchQueue, Ticket
from satrap.serving.changed import Changed
from satrap.serving.observation import Observation
from satrap.serving.observer import Observer
from satrap.serving.query import Query
from satrap.serving.request import Prediction, Request
from satrap.serving.version_spec import VersionSpec
from satrap.serving.worker_pool import PoolEvents, WorkerPool

__all__ = ["Version"]

log = logging.getLogger("satrap.serving")

_TIMER_RESOLUTION = 0.001
"""uvloop's timers are whole milliseconds; asking for less would spin."""

_MAX_UNREAD_BYTES = 64 * 1024**2
"""Parts of one stream that may wait for a client that reads slowly."""


class Version:
    """Answers requests of one version, from registration to the end of its last worker."""

    def __init__(
        self,
        spec: VersionSpec,
        pool: Callable[[PoolEvents], WorkerPool],
        request_ids: Iterator[str],
        on_ready: Callable[["Version"], None],
        observer: Observer,
    ) -> None:
        """Start nothing.

        `pool` makes its workers, who tell it what happens; `request_ids` names requests; `on_ready` is called whenever
        a worker became ready.
        """
        self.spec = spec
        self.pool = pool(self)
        self._request_ids, self._on_ready, self._observer = request_ids, on_ready, observer
        self._queue: BatchQueue[Request] = BatchQueue(
            spec.batching, f"model {spec.model} version {spec.version}"
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._changed = Changed()

    @property
    def pending(self) -> int:
        """Requests that wait in the queue."""
        return len(self._queue)

    async def predict(
        self,
        query: Query,
        on_part: Callable[[Prediction], None] | None = None,
    ) -> Prediction:
        """Answer one query.

        It is run once or not at all: if its worker dies the caller is told. Of a handler that streams, `on_part` takes
        the parts before the last; without it all parts are put together.

        Raises:
            NoWorkerError: no worker will answer soon.
            OverloadedError: the queue is full.
            DeadlineError: the time passed in the queue.
            WorkerDiedError: the worker died, or did not answer in time.
        """
        request = self._request(query)
        request.on_part = on_part
        ticket = self._accept(request)
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise

    async def stream(self, query: Query) -> AsyncGenerator[Prediction, None]:
        """The same, part by part as the handler gives them; the last is what it returned.

        A handler that does not stream gives one. Close the iterator (`contextlib.aclosing`) to withdraw the request.

        Raises:
            SatrapError: what `predict` raises, maybe after some parts.
        """
        request = self._request(query)
        parts: asyncio.Queue[Prediction | None] = asyncio.Queue()
        unread = 0

        def take(part: Prediction) -> None:
            nonlocal unread
            unread += len(part.value)
            if unread <= _MAX_UNREAD_BYTES:
                parts.put_nowait(part)
            else:
                request.fail(
                    UnavailableError(f"the stream is given up: {unread} bytes of it wait for its reader")
                )

        request.on_part = take
        request.answer.add_done_callback(lambda _: parts.put_nowait(None))
        ticket = self._accept(request)
        try:
            while (part := await parts.get()) is not None:
                yield part
                unread -= len(part.value)
            yield request.answer.result()
        finally:
            if request.answer.cancel():
                self._withdraw(ticket)

    def _request(self, query: Query) -> Request:
        return Request(
            query.request_id or next(self._request_ids),
            query,
            asyncio.get_running_loop().create_future(),
            arrived=time.monotonic(),
        )

    def _accept(self, request: Request) -> Ticket[Request]:
        try:
            if not self.pool.idle and self.pool.roster.is_hopeless:
                raise NoWorkerError(self.spec.model, self.spec.version)
            query, now = request.query, request.arrived
            deadline = math.inf if query.patience is None else now + query.patience
            ticket = self._queue.offer(request, now, deadline, alone=query.is_description)
        except SatrapError as error:
            self._observer.failed(self.spec.model, self.spec.version, request, error)
            raise
        self._dispatch()
        return ticket

    def _withdraw(self, ticket: Ticket[Request]) -> None:
        """Nobody waits for it any more. What a worker has already it finishes, and its answer is dropped."""
        if self._queue.withdraw(ticket):
            self._observer.failed(self.spec.model, self.spec.version, ticket.item, None)
        self._changed.notify()

    def hand_over(self, other: "Version") -> int:
        """Give the requests that wait and named no version to the one that is the default now; returns how many.

        They keep their places by arrival. Nothing is given to a version that would not answer soon.
        """
        if other.pool.roster.is_hopeless:
            return 0
        released = self._queue.release(lambda request: not request.query.version)
        other.adopt(released)
        self._changed.notify()
        return len(released)

    def adopt(self, tickets: Sequence[Ticket[Request]]) -> None:
        """Take in what another version had accepted."""
        self._queue.adopt(tickets)
        self._dispatch()

    async def drain(self, seconds: float) -> bool:
        """Finish what was accepted, for at most `seconds`; the caller sends nothing new.

        What is left then fails as when its worker died. Returns whether nothing was left.
        """
        try:
            async with asyncio.timeout(seconds):
                while len(self._queue) or self._queue.in_flight:
                    await self._changed.wait()
        except TimeoutError:
            log.warning("%s: requests are still running after %g s; they fail", self.spec.name, seconds)
            return False
        return True

    async def close(self) -> None:
        """End all workers and wait until they are gone; whatever still runs fails."""
        self._fail_queue(WorkerDiedError(self.spec.model, self.spec.version))
        await self.pool.close()
        self._cancel_timer()

    # ---- events of the pool ----

    def worker_ready(self, number: int, seconds: float) -> None:
        """Part of `PoolEvents`."""
        self._observer.loaded(self.spec.model, self.spec.version, number, seconds)
        self._dispatch_waiting()
        self._on_ready(self)

    def batch_answered(
        self,
        number: int,
        batch: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """Part of `PoolEvents`."""
        self._queue.finished(len(batch))
        self._dispatch_waiting()
        self._changed.notify()
        spec = self.spec
        self._observer.answered(spec.model, spec.version, number, batch, predictions, observations)

    def batch_lost(self, batch: Sequence[Request]) -> None:
        """Part of `PoolEvents`."""
        self._queue.finished(len(batch))
        for request in batch:
            self._fail(request, WorkerDiedError(self.spec.model, self.spec.version))
        self._changed.notify()

    def pool_hopeless(self, error: SatrapError) -> None:
        """Part of `PoolEvents`."""
        self._fail_queue(error)
        self._changed.notify()

    # ---- moves ----

    def _dispatch_waiting(self) -> None:
        if len(self._queue):
            self._dispatch()

    def _dispatch(self) -> None:
        """Hand over every batch that is due, and come back when the next one is."""
        now, idle = time.monotonic(), self.pool.idle
        if expired := self._queue.expire(now):
            for request in expired:
                self._fail(
                    request, DeadlineError("the deadline passed while the request waited for a worker")
                )
            self._changed.notify()
        while idle and (taken := self._queue.take(now)):
            batch = [request for request in taken if not request.answer.done()]
            for request in taken:
                if request.answer.done():  # its caller went away after another version had handed it over
                    self._observer.failed(self.spec.model, self.spec.version, request, None)
            if batch:
                idle.popleft().predict(batch, self.spec.response_timeout)
            if len(batch) < len(taken):
                self._queue.finished(len(taken) - len(batch))
                self._changed.notify()
        self._schedule(self._queue.wake_at(idle=bool(idle)), now)

    def _schedule(self, moment: float, now: float) -> None:
        if moment == self._timer_at:
            return
        self._cancel_timer()
        if moment < math.inf:
            delay = max(moment - now, _TIMER_RESOLUTION)
            self._timer_at = moment
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._dispatch()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _fail_queue(self, error: SatrapError) -> None:
        for request in self._queue.drain():
            self._fail(request, error)

    def _fail(self, request: Request, error: SatrapError) -> None:
        request.fail(error)
        self._observer.failed(self.spec.model, self.spec.version, request, error)
