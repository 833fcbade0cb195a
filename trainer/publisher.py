"""Publishes packets in their order, in a thread of its own, and tries again what storage refused.

    put(job) ──▶ [job, job, ...] ──▶ run() ──▶ published
                  at most `limit`      ╰─ StorageError: wait, run() again; nothing is dropped

Training goes on meanwhile; when `limit` jobs wait, whoever puts the next one waits.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from satrap.errors import ConflictError, NoSpaceError, SatrapError, StorageError

__all__ = ["Job", "Publisher", "retry_delay"]

log = logging.getLogger(__name__)

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0


class Job(Protocol):
    """Something to publish. `run` may be called again after it raised StorageError or NoSpaceError."""

    @property
    def sequence(self) -> int:
        """What is published once it has run."""

    def run(self) -> None:
        """Publish it."""


def retry_delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, up to ten seconds."""
    return float(min(_FIRST_DELAY * 2 ** min(failures - 1, 30), _LONGEST_DELAY))


class Publisher:
    """The queue and its thread. Every public method may be called by any thread.

    `lock` guards the queue and whatever its owner needs guarded together with it; `due(now)` is called under it by the
    thread, may `put_next` a job, and returns when it wants to be called again (by `time.monotonic`; None: when told).
    """

    def __init__(
        self, url: str, limit: int, retry_seconds: float, due: Callable[[float], float | None]
    ) -> None:
        self.lock = threading.Condition()
        self._url, self._limit, self._retry_seconds = url, limit, retry_seconds
        self._due = due
        self._jobs: deque[Job] = deque()
        self._published = 0
        self._failure: SatrapError | None = None
        self._failing_since = 0.0
        self._failures = 0
        self._hurry = False
        self._fatal: BaseException | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Jobs that are not published yet."""
        return len(self._jobs)

    @property
    def published(self) -> int:
        """The sequence of the last job that ran; 0 before the first."""
        return self._published

    def start(self) -> None:
        """Start the thread, once."""
        with self.lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="satrap-publisher", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Let the thread call `due`."""
        with self.lock:
            self.lock.notify_all()

    def wait_for_room(self) -> None:
        """Return when a job may be put. The caller holds `lock`, which is let go meanwhile.

        Raises:
            SatrapError: as `check`, when it has been failing for so long.
        """
        self._wait_until(lambda: len(self._jobs) < self._limit)

    @property
    def has_room(self) -> bool:
        """Whether a job may be put. The caller holds `lock`."""
        return len(self._jobs) < self._limit and self._fatal is None

    def put(self, job: Job) -> None:
        """Queue a job behind all others. The caller holds `lock`."""
        self._jobs.append(job)
        self.lock.notify_all()

    def wait_for(self, sequence: int) -> None:
        """Return when a job of that sequence, or of a greater one, is published, or nothing is left to publish.

        Raises:
            SatrapError: as `check`, when it has been failing for so long.
        """
        with self.lock:
            self._wait_until(lambda: not self._jobs or self._published >= sequence)

    def wait_until_published(self, sequence: int) -> None:
        """Return when that sequence is published, however long the storage fails meanwhile.

        Raises:
            SatrapError: publishing is over.
        """
        with self.lock:
            while self._jobs and self._published < sequence and not self._stopping:
                if self._fatal is not None:
                    raise self._fatal
                self.lock.wait()
            if self._fatal is not None and self._published < sequence:
                raise self._fatal
            if self._stopping and self._jobs:
                raise ConflictError(f"{self._url}: closed before sequence {sequence} was published")

    def check(self) -> None:
        """Raise if publishing is over, or has been failing for longer than `retry_seconds`.

        Raises:
            SatrapError: what `Job.run` raised, and what to do. StorageError: it is still being tried again.
        """
        if self._fatal is not None:
            raise self._fatal
        if self._failure is None:
            return
        seconds = time.monotonic() - self._failing_since
        if seconds >= self._retry_seconds:
            raise StorageError(
                self._url,
                f"sequence {self._jobs[0].sequence} could not be published for {seconds:.0f} s ({self._failure}). "
                f"Nothing is lost: {len(self._jobs)} {'waits' if len(self._jobs) == 1 else 'wait'} in memory, what was "
                "committed is kept, and it is tried again. Make the storage work, then go on committing",
            ) from self._failure

    def wait_for_change(self, timeout: float | None = None) -> None:
        """Wait until something changes, or for `timeout` seconds. The caller holds `lock`, which is let go meanwhile.

        Raises:
            SatrapError: as `check`.
        """
        self.check()
        if self._failure is not None:
            patience = max(0.0, self._failing_since + self._retry_seconds - time.monotonic())
            timeout = patience if timeout is None else min(timeout, patience)
        self.lock.wait(timeout)

    def stop(self) -> None:
        """End the thread when the job that runs is done; what waits stays unpublished."""
        with self.lock:
            self._stopping = True
            self.lock.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for something that publishing brings about. While it fails, a try of now decides, not one of before."""
        failures = self._failures
        while True:
            if self._fatal is not None:
                raise self._fatal
            if reached():
                return
            if self._failures > failures:
                self.wait_for_change()
                continue
            if self._failure is not None:
                self._hurry = True
                self.lock.notify_all()
            self.lock.wait()

    def _run(self) -> None:
        while True:
            with self.lock:
                job = self._next()
            if job is None or not self._publish(job):
                return
            with self.lock:
                self._jobs.popleft()
                self._published = job.sequence
                self._failure = None
                self.lock.notify_all()

    def _next(self) -> Job | None:
        """The next job; None when the thread is to end. The caller holds `lock`."""
        while not self._stopping:
            try:
                then = self._due(time.monotonic())
            except BaseException as error:
                self._end(error)
                return None
            if self._jobs:
                return self._jobs[0]
            self.lock.wait(None if then is None else max(0.0, then - time.monotonic()))
        return None

    def _publish(self, job: Job) -> bool:
        """Run a job until it succeeds; False when the thread is to end instead."""
        failures = 0
        while True:
            try:
                job.run()
            except (StorageError, NoSpaceError) as error:
                failures += 1
                if not self._failed(job, error, failures):
                    return False
            except BaseException as error:
                with self.lock:
                    self._end(error)
                return False
            else:
                return True

    def _failed(self, job: Job, error: SatrapError, failures: int) -> bool:
        """Note a failure and wait; False when the thread is to end instead."""
        with self.lock:
            if self._failure is None:
                self._failing_since = time.monotonic()
                log.warning("publishing sequence %d failed, trying again: %s", job.sequence, error)
            self._failure = error
            self._failures += 1
            self._hurry = False
            self.lock.notify_all()
            until = time.monotonic() + retry_delay(failures)
            while not (self._stopping or self._hurry) and (left := until - time.monotonic()) > 0:
                self.lock.wait(left)
            return not self._stopping

    def _end(self, error: BaseException) -> None:
        """Publish nothing any more. The caller holds `lock`."""
        log.error("publishing has ended: %s", error)
        self._fatal = error
        self.lock.notify_all()
