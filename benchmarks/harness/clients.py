"""Clients in a process of their own: threads in a closed loop, each with a connection of its own."""

import resource
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import psutil
from numpy.typing import NDArray

__all__ = ["Caller", "ClientProcess", "Job", "Series"]

_WARM_UP_CALLS = 5
_GRACE_SECONDS = 60.0


class Caller(Protocol):
    """One client's connection, used by one thread."""

    def prepare(self, payload: bytes) -> object:
        """What `call` takes, made before the clock runs."""
        ...

    def call(self, prepared: object) -> bytes:
        """Call once and return the answer; raises what the server answers if that is an error."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Connect(Protocol):
    """Opens a connection: a class or function at the top of a module, because it crosses to a process."""

    def __call__(self, address: str) -> Caller:
        """Open a connection of its own to `host:port`."""
        ...


@dataclass(frozen=True)
class Job:
    """Call the server at `address` with the payloads in turn, from `threads` threads, for `seconds`."""

    connect: Connect
    address: str
    payloads: Sequence[bytes]
    threads: int = 1
    seconds: float = 1.0
    max_calls: int = 20_000
    """Of one thread."""


@dataclass(frozen=True)
class Series:
    """What a job measured."""

    latencies_ms: NDArray[np.float64]
    """Of every call, in no order."""
    seconds: float
    client_cpu_seconds: float
    machine_cpu_seconds: float
    """Of every process on this machine while the job ran."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, percent: float) -> float:
        """Latency in ms that `percent` of the calls did not exceed."""
        return float(np.percentile(self.latencies_ms, percent))


class ClientProcess:
    """The process that clients run in. A context manager."""

    def __enter__(self) -> Self:
        """Start it; it imports only what clients need."""
        self._pool = ProcessPoolExecutor(
            max_workers=1, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, after the job it is at."""
        self._pool.shutdown(cancel_futures=True)

    def run(self, job: Job) -> Series:
        """Run a job and wait for it. An answer that is an error ends it and is raised here."""
        return self._pool.submit(_run, job).result(timeout=job.seconds + _GRACE_SECONDS)

    def answers(self, job: Job) -> list[bytes]:
        """The answer to every payload, once each, untimed."""
        return self._pool.submit(_answers, job).result(timeout=_GRACE_SECONDS)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answers(job: Job) -> list[bytes]:
    caller = job.connect(job.address)
    try:
        return [caller.call(caller.prepare(payload)) for payload in job.payloads]
    finally:
        caller.close()


def _run(job: Job) -> Series:
    callers = [job.connect(job.address) for _ in range(job.threads)]
    try:
        prepared = [callers[0].prepare(payload) for payload in job.payloads]
        threads = [_Loop(job, caller, prepared, first) for first, caller in enumerate(callers)]
        for thread in threads:
            thread.warm_up()
        cpu, machine, start = _own_cpu(), _machine_cpu(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        own, everything = _own_cpu() - cpu, _machine_cpu() - machine
    finally:
        for caller in callers:
            caller.close()
    for thread in threads:
        if thread.error is not None:
            raise RuntimeError(f"a call to {job.address} failed: {thread.error}")
    latencies = np.concatenate([np.asarray(thread.latencies) for thread in threads]) * 1e3
    return Series(latencies, elapsed, own, everything)


class _Loop(threading.Thread):
    """One client. Threads start at different payloads, so that they do not ask for the same at once."""

    def __init__(self, job: Job, caller: Caller, prepared: Sequence[object], first: int) -> None:
        super().__init__(name=f"client-{first}")
        offset = first * len(prepared) // job.threads
        self._job, self._caller = job, caller
        self._prepared = [*prepared[offset:], *prepared[:offset]]
        self.latencies: list[float] = []
        self.error: Exception | None = None

    def warm_up(self) -> None:
        for prepared in self._prepared[:_WARM_UP_CALLS]:
            self._caller.call(prepared)

    def run(self) -> None:
        clock, call, latencies = time.perf_counter, self._caller.call, self.latencies
        after = clock()
        deadline = after + self._job.seconds
        try:
            while after < deadline and len(latencies) < self._job.max_calls:
                for prepared in self._prepared:
                    before = clock()
                    call(prepared)
                    after = clock()
                    latencies.append(after - before)
                    if after >= deadline:
                        break
        except Exception as error:  # whatever it is, the job reports it
            self.error = error


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
