"""One version of one model at work: its queue, its workers, and the moves between them.

A thin shell: `batching` decides what leaves the queue, `roster` what happens to workers; here are the clock, the
timers and the processes. Belongs to the frontend's event loop.
"""

import asyncio
import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from satrap.errors import (
    DeadlineError,
    NoWorkerError,
    SatrapError,
    UnavailableError,
    WorkerDiedError,
    WorkerStartError,
)
from satrap.serving.batching import BatchQueue, Ticket
from satrap.serving.devices import device_of
from satrap.serving.forks import Template
from satrap.serving.observation import Observation
from satrap.serving.observer import Observer
from satrap.serving.query import Query
from satrap.serving.request import Prediction, Request
from satrap.serving.roster import Roster, Start, Stop, WorkerState
from satrap.serving.version_spec import VersionSpec
from satrap.serving.worker.assignment import Assignment
from satrap.serving.worker_process import WorkerProcess

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
        assignment: Assignment,
        template: Template,
        numbers: Iterator[int],
        request_ids: Iterator[str],
        on_ready: Callable[["Version"], None],
        observer: Observer,
    ) -> None:
        """Start nothing.

        `numbers` names workers, `request_ids` requests; `on_ready` is called whenever a worker became ready.
        """
        self._observer = observer
        self.spec = spec
        self._request_ids = request_ids
        self._assignment, self._template, self._on_ready = assignment, template, on_ready
        self._queue: BatchQueue[Request] = BatchQueue(
            spec.batching, f"model {spec.model} version {spec.version}"
        )
        self.roster = Roster(numbers, spec.max_retry_timeout)
        self._processes: dict[int, WorkerProcess] = {}
        self._idle: deque[WorkerProcess] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._restarts: dict[int, asyncio.TimerHandle] = {}
        self._launches: set[asyncio.Task[None]] = set()
        self._changed: asyncio.Future[None] | None = None
        self._start_failure = ""

    @property
    def name(self) -> str:
        """For logs."""
        return f"{self.spec.model} {self.spec.version}"

    @property
    def pending(self) -> int:
        """Requests that wait in the queue."""
        return len(self._queue)

    def process(self, number: int) -> WorkerProcess | None:
        """The process of that worker, if it has one at the moment."""
        return self._processes.get(number)

    def is_healthy(self) -> bool:
        """Enough workers are not failing, as TorchServe's Ping counts them."""
        return self.roster.is_healthy(time.monotonic())

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
            if not self._idle and self.roster.is_hopeless:
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
        self._notify()

    def hand_over(self, other: "Version") -> int:
        """Give the requests that wait and named no version to the one that is the default now; returns how many.

        They keep their places by arrival. Nothing is given to a version that would not answer soon.
        """
        if other.roster.is_hopeless:
            return 0
        released = self._queue.release(lambda request: not request.query.version)
        other.adopt(released)
        self._notify()
        return len(released)

    def adopt(self, tickets: Sequence[Ticket[Request]]) -> None:
        """Take in what another version had accepted."""
        self._queue.adopt(tickets)
        self._dispatch()

    def scale(self, minimum: int, maximum: int) -> None:
        """Have at least `minimum` and at most `maximum` workers; what is busy finishes first."""
        self._act(self.roster.scale(minimum, maximum))

    async def wait_started(self) -> None:
        """Wait until the minimum of workers is ready, and those that were told to end are gone.

        Raises:
            WorkerStartError: one could not load its handler, and why.
        """
        self._start_failure = ""
        while (is_short := self.roster.is_short) or self.roster.count(WorkerState.UNLOADING):
            if is_short and self._start_failure:
                raise WorkerStartError(self.spec.model, self.spec.version, self._start_failure)
            if is_short and self.roster.count(WorkerState.FAILED):
                raise WorkerStartError(self.spec.model, self.spec.version, "a worker was given up")
            await self._change()

    async def drain(self, seconds: float) -> bool:
        """Finish what was accepted, for at most `seconds`; the caller sends nothing new.

        What is left then fails as when its worker died. Returns whether nothing was left.
        """
        try:
            async with asyncio.timeout(seconds):
                while len(self._queue) or self._queue.in_flight:
                    await self._change()
        except TimeoutError:
            log.warning("%s: requests are still running after %g s; they fail", self.name, seconds)
            return False
        return True

    async def close(self) -> None:
        """End all workers and wait until they are gone; whatever still runs fails."""
        self._fail_queue(WorkerDiedError(self.spec.model, self.spec.version))
        self.scale(0, 0)
        for process in self._processes.values():
            if not process.is_ending:
                process.kill("was stopped")
        while self._processes or self._launches:
            await self._change()
        self._cancel_timer()

    # ---- events of workers ----

    def worker_loaded(self, worker: WorkerProcess) -> None:
        """Part of `WorkerEvents`."""
        self.roster.loaded(worker.number)
        seconds = time.time() - worker.started_at
        self._observer.loaded(self.spec.model, self.spec.version, worker.number, seconds)
        log.info("%s: worker %d is ready (pid %s)", self.name, worker.number, worker.pid)
        self._worker_free(worker)
        self._on_ready(self)
        self._notify()

    def worker_answered(
        self,
        worker: WorkerProcess,
        batch: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """Part of `WorkerEvents`."""
        self._queue.finished(len(batch))
        self.roster.answered(worker.number)
        self._worker_free(worker)
        self._notify()
        spec = self.spec
        self._observer.answered(spec.model, spec.version, worker.number, batch, predictions, observations)

    def worker_ended(self, worker: WorkerProcess, batch: Sequence[Request], reason: str) -> None:
        """Part of `WorkerEvents`."""
        self._queue.finished(len(batch))
        for request in batch:
            self._fail(request, WorkerDiedError(self.spec.model, self.spec.version))
        if worker in self._idle:
            self._idle.remove(worker)
        del self._processes[worker.number]
        self._ended(worker.number, reason)

    # ---- moves ----

    def _worker_free(self, worker: WorkerProcess) -> None:
        if self.roster.state(worker.number) is WorkerState.UNLOADING:
            worker.stop()
            return
        self._idle.append(worker)
        if len(self._queue):
            self._dispatch()

    def _dispatch(self) -> None:
        """Hand over every batch that is due, and come back when the next one is."""
        now = time.monotonic()
        for request in self._queue.expire(now):
            self._fail(request, DeadlineError("the deadline passed while the request waited for a worker"))
        while self._idle and (taken := self._queue.take(now)):
            batch = [request for request in taken if not request.answer.done()]
            for request in taken:
                if request.answer.done():  # its caller went away after another version had handed it over
                    self._observer.failed(self.spec.model, self.spec.version, request, None)
            self._queue.finished(len(taken) - len(batch))
            if batch:
                self._idle.popleft().predict(batch, self.spec.response_timeout)
        self._schedule(self._queue.wake_at(idle=bool(self._idle)), now)

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
        self._notify()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _act(self, actions: list[Start | Stop]) -> None:
        loop = asyncio.get_running_loop()
        for action in actions:
            match action:
                case Start(number, delay) if delay == 0:
                    self._start(number)
                case Start(number, delay):
                    self._restarts[number] = loop.call_later(delay, self._start, number)
                case Stop(number, at_once):
                    self._stop(number, at_once=at_once)

    def _start(self, number: int) -> None:
        self._restarts.pop(number, None)
        if not self.roster.starting(number):
            return
        task = asyncio.get_running_loop().create_task(self._launch(number))
        self._launches.add(task)
        task.add_done_callback(self._launched)

    async def _launch(self, number: int) -> None:
        process = self._processes[number] = WorkerProcess(number, self._assignment_of(number), self)
        try:
            await process.launch(self._template, self.spec.startup_timeout)
        except (UnavailableError, OSError) as error:
            del self._processes[number]
            self._ended(number, str(error))

    def _assignment_of(self, number: int) -> Assignment:
        if not self.spec.devices:
            return self._assignment
        return dataclasses.replace(self._assignment, gpu=device_of(self.spec.devices, number))

    def _launched(self, task: asyncio.Task[None]) -> None:
        self._launches.discard(task)
        self._notify()

    def _stop(self, number: int, *, at_once: bool) -> None:
        if number in self._restarts:
            self._restarts.pop(number).cancel()
        process = self._processes.get(number)
        if process is None:
            return
        if process in self._idle:
            self._idle.remove(process)
            process.stop()
        elif at_once:
            process.kill("was stopped")

    def _ended(self, number: int, reason: str) -> None:
        starting = self.roster.state(number) is WorkerState.STARTING
        actions = self.roster.ended(number, time.monotonic())
        for action in actions:
            if isinstance(action, Start):
                log.error(
                    "%s: worker %d %s; starting it again in %g s", self.name, number, reason, action.delay
                )
        if self.roster.state(number) is WorkerState.FAILED:
            log.error(
                "%s: worker %d %s; it has failed for %d s (maxRetryTimeoutInSec) and is given up: scale the model to "
                "try again",
                *(self.name, number, reason, self.spec.max_retry_timeout),
            )
        if starting:
            self._start_failure = reason
        self._act(actions)
        if self.roster.is_hopeless:
            self._fail_queue(
                WorkerStartError(self.spec.model, self.spec.version, self._start_failure)
                if self._start_failure
                else NoWorkerError(self.spec.model, self.spec.version)
            )
        self._notify()

    def _fail_queue(self, error: SatrapError) -> None:
        for request in self._queue.drain():
            self._fail(request, error)

    def _fail(self, request: Request, error: SatrapError) -> None:
        request.fail(error)
        self._observer.failed(self.spec.model, self.spec.version, request, error)

    # ---- waiting for changes ----

    def _change(self) -> asyncio.Future[None]:
        """Done at the next change of a worker or the queue."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._changed)

    def _notify(self) -> None:
        if self._changed is not None:
            changed, self._changed = self._changed, None
            changed.set_result(None)
