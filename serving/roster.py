"""How many workers a version should have, how each is doing, and what to do about it.

No processes and no clock here: the shell (`satrap.serving.worker_pool`) reports what happened to a worker and does
what it is told (`Start`, `Stop`). The life of a worker:

    STARTING ──loaded──▶ READY ──retire──▶ UNLOADING ──ended──▶ (gone)
        │                  │
        └──────ended───────┴──▶ WAITING ──Start after its delay──▶ STARTING
                           └──▶ FAILED, when it has failed for too long

A worker that ends unasked is started again after 0, 1, 1, 2, 3, 5, 8, 13, 21, 21, ... seconds; one that has
answered a request since it was started begins at 0 again. One that has not loaded for `patience` seconds since it
ended first is given up; the next `scale` has another in its place.
"""

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BACKOFF_SECONDS", "Roster", "Start", "Stop", "WorkerState", "WorkerStatus"]

BACKOFF_SECONDS = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)


class WorkerState(enum.StrEnum):
    """Where a worker is in its life."""

    STARTING = "STARTING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    WAITING = "WAITING"
    FAILED = "FAILED"


@dataclass(slots=True)
class WorkerStatus:
    """One worker, by its number; the number stays when its process is replaced."""

    number: int
    state: WorkerState = WorkerState.STARTING
    failures: int = 0
    failing_since: float | None = None
    start_failed: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process for worker `number`, `delay` seconds from now."""

    number: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """End worker `number`: `at_once` if it was not READY yet, otherwise when it has finished what it does."""

    number: int
    at_once: bool


class Roster:
    """The workers of one version. Not thread-safe: it belongs to the frontend's loop."""

    def __init__(self, numbers: Iterator[int], patience: float = math.inf) -> None:
        """Start with none; each new worker gets the next of `numbers`. `patience` is in seconds."""
        self.minimum = self.maximum = 0
        self._patience = patience
        self.start_failure = ""
        """Why a worker could not load its handler, the last one that could not."""
        self._workers: dict[int, WorkerStatus] = {}
        self._numbers = numbers

    def workers(self) -> list[WorkerStatus]:
        """All workers that are not gone, in the order of their numbers."""
        return list(self._workers.values())

    def state(self, number: int) -> WorkerState | None:
        """The state of that worker; None when it is gone."""
        status = self._workers.get(number)
        return status.state if status else None

    def count(self, state: WorkerState) -> int:
        """How many workers are in that state."""
        return sum(w.state is state for w in self._workers.values())

    @property
    def is_short(self) -> bool:
        """Fewer than `minimum` workers are ready."""
        return self.count(WorkerState.READY) < self.minimum

    @property
    def is_settled(self) -> bool:
        """The minimum is ready, and those that were told to end are gone."""
        return not self.is_short and not self.count(WorkerState.UNLOADING)

    def why_short(self) -> str:
        """Why it is not to be expected that the minimum will soon be ready; empty: it is, or is to be expected."""
        if not self.is_short:
            return ""
        return self.start_failure or ("a worker was given up" if self.count(WorkerState.FAILED) else "")

    @property
    def is_hopeless(self) -> bool:
        """Every worker failed to load when it was last started, or there is none: nobody will answer soon."""
        return all(
            w.start_failed or w.state is WorkerState.FAILED
            for w in self._workers.values()
            if w.state is not WorkerState.UNLOADING
        )

    def scale(self, minimum: int, maximum: int) -> list[Start | Stop]:
        """Start workers up to `minimum`, stop those above `maximum`, the least useful first; forget the given up."""
        self.minimum, self.maximum = minimum, maximum
        for failed in [w.number for w in self._workers.values() if w.state is WorkerState.FAILED]:
            del self._workers[failed]
        wanted = [w for w in self._workers.values() if w.state is not WorkerState.UNLOADING]
        actions: list[Start | Stop] = []
        for _ in range(minimum - len(wanted)):
            status = WorkerStatus(next(self._numbers))
            self._workers[status.number] = status
            actions.append(Start(status.number))
        usefulness = {WorkerState.WAITING: 0, WorkerState.STARTING: 1, WorkerState.READY: 2}
        wanted.sort(key=lambda w: (usefulness[w.state], -w.number))
        for status in wanted[: max(0, len(wanted) - maximum)]:
            actions.append(Stop(status.number, at_once=status.state is not WorkerState.READY))
            if status.state is WorkerState.WAITING:
                del self._workers[status.number]
            else:
                status.state = WorkerState.UNLOADING
        return actions

    def starting(self, number: int) -> bool:
        """A `Start` is being carried out; False when that worker is not wanted any more."""
        status = self._workers.get(number)
        if status is None or status.state not in (WorkerState.STARTING, WorkerState.WAITING):
            return False
        status.state = WorkerState.STARTING
        return True

    def loaded(self, number: int) -> None:
        """The worker's process is ready to answer."""
        status = self._workers[number]
        status.failing_since = None
        status.start_failed = False
        if status.state is WorkerState.STARTING:
            status.state = WorkerState.READY

    def answered(self, number: int) -> None:
        """The worker answered a batch."""
        self._workers[number].failures = 0

    def ended(self, number: int, now: float, reason: str = "") -> list[Start | Stop]:
        """The worker's process is gone, asked or not, for that reason."""
        status = self._workers[number]
        if status.state is WorkerState.UNLOADING:
            del self._workers[number]
            return []
        delay = BACKOFF_SECONDS[min(status.failures, len(BACKOFF_SECONDS) - 1)]
        status.failures += 1
        status.start_failed = status.state is WorkerState.STARTING
        if status.start_failed:
            self.start_failure = reason
        if status.failing_since is None:
            status.failing_since = now
        if self._is_given_up(status, now):
            status.state = WorkerState.FAILED
            return []
        status.state = WorkerState.WAITING
        return [Start(number, delay)]

    def is_healthy(self, now: float) -> bool:
        """At least `minimum` workers are not failing for longer than `patience` seconds (TorchServe's rule)."""
        failing = sum(self._is_given_up(w, now) for w in self._workers.values())
        return len(self._workers) - failing >= self.minimum

    def _is_given_up(self, status: WorkerStatus, now: float) -> bool:
        return status.failing_since is not None and now - status.failing_since >= self._patience
