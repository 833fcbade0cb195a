"""The worker processes of one version: started, scaled, started again when they end, and stopped.

A thin shell: `roster` decides what happens to workers; here are the clock, the timers and the processes. What they
answer is passed on to who dispatches to them.
"""

import asyncio
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from satrap.errors import NoWorkerError, SatrapError, UnavailableError, WorkerStartError
from satrap.serving.changed import Changed
from satrap.serving.devices import device_of
from satrap.serving.forks import Template
from satrap.serving.observation import Observation
from satrap.serving.request import Prediction, Request
from satrap.serving.roster import Roster, Start, Stop, WorkerState
from satrap.serving.version_spec import VersionSpec
from satrap.serving.worker.assignment import Assignment
from satrap.serving.worker_process import WorkerProcess

__all__ = ["PoolEvents", "WorkerPool"]

log = logging.getLogger("satrap.serving")


class PoolEvents(Protocol):
    """Who dispatches batches to the pool's idle workers."""

    def worker_ready(self, number: int, seconds: float) -> None:
        """A worker has loaded its handler, so long after its process was asked for; it may be idle."""

    def batch_answered(
        self,
        number: int,
        batch: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """A worker has answered a batch, whose requests know it already; it may be idle."""

    def batch_lost(self, batch: Sequence[Request]) -> None:
        """The worker that had it is gone; an empty batch is none."""

    def pool_hopeless(self, error: SatrapError) -> None:
        """No worker will answer soon, and why."""


class WorkerPool:
    """The workers of one version. Part of it is `WorkerEvents`, by which its processes tell how they are.

    Attributes:
        roster: how each worker is.
        idle: those that wait for a batch, for the dispatcher to take from the left.
    """

    def __init__(
        self,
        spec: VersionSpec,
        assignment: Assignment,
        template: Template,
        numbers: Iterator[int],
        events: PoolEvents,
    ) -> None:
        """Start nothing. `numbers` names workers."""
        self.roster = Roster(numbers, spec.max_retry_timeout)
        self.idle: deque[WorkerProcess] = deque()
        self._spec, self._assignment, self._template, self._events = spec, assignment, template, events
        self._processes: dict[int, WorkerProcess] = {}
        self._restarts: dict[int, asyncio.TimerHandle] = {}
        self._launches: set[asyncio.Task[None]] = set()
        self._changed = Changed()

    def process(self, number: int) -> WorkerProcess | None:
        """The process of that worker, if it has one at the moment."""
        return self._processes.get(number)

    def is_healthy(self) -> bool:
        """Enough workers are not failing, as TorchServe's Ping counts them."""
        return self.roster.is_healthy(time.monotonic())

    def scale(self, minimum: int, maximum: int) -> None:
        """Have at least `minimum` and at most `maximum` workers; what is busy finishes first."""
        self._act(self.roster.scale(minimum, maximum))
        self._changed.notify()

    async def wait_started(self) -> None:
        """Wait until the minimum of workers is ready, and those that were told to end are gone.

        Raises:
            WorkerStartError: one could not load its handler, and why.
        """
        self.roster.start_failure = ""
        while not self.roster.is_settled:
            if reason := self.roster.why_short():
                raise WorkerStartError(self._spec.model, self._spec.version, reason)
            await self._changed.wait()

    async def close(self) -> None:
        """End all workers and wait until they are gone; what they still run is lost."""
        self.scale(0, 0)
        for process in self._processes.values():
            if not process.is_ending:
                process.kill("was stopped")
        while self._processes or self._launches:
            await self._changed.wait()

    # ---- events of workers ----

    def worker_loaded(self, worker: WorkerProcess) -> None:
        """Part of `WorkerEvents`."""
        self.roster.loaded(worker.number)
        log.info("%s: worker %d is ready (pid %s)", self._spec.name, worker.number, worker.pid)
        self._free(worker)
        self._events.worker_ready(worker.number, time.time() - worker.started_at)
        self._changed.notify()

    def worker_answered(
        self,
        worker: WorkerProcess,
        batch: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """Part of `WorkerEvents`."""
        self.roster.answered(worker.number)
        self._free(worker)
        self._events.batch_answered(worker.number, batch, predictions, observations)

    def worker_ended(self, worker: WorkerProcess, batch: Sequence[Request], reason: str) -> None:
        """Part of `WorkerEvents`."""
        if worker in self.idle:
            self.idle.remove(worker)
        del self._processes[worker.number]
        self._events.batch_lost(batch)
        self._ended(worker.number, reason)

    def _free(self, worker: WorkerProcess) -> None:
        if self.roster.state(worker.number) is WorkerState.UNLOADING:
            worker.stop()
        else:
            self.idle.append(worker)

    def _ended(self, number: int, reason: str) -> None:
        name, roster = self._spec.name, self.roster
        actions = roster.ended(number, time.monotonic(), reason)
        for action in actions:
            if isinstance(action, Start):
                log.error("%s: worker %d %s; starting it again in %g s", name, number, reason, action.delay)
        if roster.state(number) is WorkerState.FAILED:
            log.error(
                "%s: worker %d %s; it has failed for %d s (maxRetryTimeoutInSec) and is given up: scale the model to "
                "try again",
                *(name, number, reason, self._spec.max_retry_timeout),
            )
        self._act(actions)
        if roster.is_hopeless:
            model, version = self._spec.model, self._spec.version
            self._events.pool_hopeless(
                WorkerStartError(model, version, roster.start_failure)
                if roster.start_failure
                else NoWorkerError(model, version)
            )
        self._changed.notify()

    # ---- what the roster decided ----

    def _act(self, actions: Sequence[Start | Stop]) -> None:
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
        process = self._processes[number] = WorkerProcess(number, self._assignment_of(number), self)
        task = asyncio.get_running_loop().create_task(self._launch(process))
        self._launches.add(task)
        task.add_done_callback(self._launched)

    async def _launch(self, process: WorkerProcess) -> None:
        try:
            await process.launch(self._template, self._spec.startup_timeout)
        except (UnavailableError, OSError) as error:
            del self._processes[process.number]
            self._ended(process.number, str(error))

    def _launched(self, task: asyncio.Task[None]) -> None:
        self._launches.discard(task)
        self._changed.notify()

    def _assignment_of(self, number: int) -> Assignment:
        if not self._spec.devices:
            return self._assignment
        return dataclasses.replace(self._assignment, gpu=device_of(self._spec.devices, number))

    def _stop(self, number: int, *, at_once: bool) -> None:
        if number in self._restarts:
            self._restarts.pop(number).cancel()
        process = self._processes.get(number)
        if process is None:
            return
        if process in self.idle:
            self.idle.remove(process)
            process.stop()
        elif at_once:
            process.kill("was stopped")
