"""Lookups at times of their own, whatever the ones before took; and what they see of packets that are applied."""

import gc
import multiprocessing
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from harness.measure import WrongAnswerError
from harness.processes import ChildFailedError
from harness.update_rows import DIM, is_row_of, version_of
from satrap._core.table import TableReader
from satrap.middleware.shards import RpcShard

__all__ = ["LookupProcess", "Served", "Way", "Window", "look_up"]

Way = Literal["attached", "rpc"]
Ids = NDArray[np.uint64]

_TIMEOUT = 30.0
_CHECK_EVERY = 8
_SPIN_SECONDS = 0.0002
_LATE_SECONDS = 0.001
_WARM_UP = 20
_LANES: dict[Way, int] = {"attached": 1, "rpc": 4}
"""Lookups in flight at most. A worker reads an attached table by itself; a server is asked by several."""


@dataclass(frozen=True)
class Served:
    """How a shard is reached: its address, and the folder, id and owner of its tables."""

    address: str
    folder: str
    instance_id: bytes
    uid: int


@dataclass(frozen=True)
class Window:
    """What one window of lookups measured."""

    latencies_ms: NDArray[np.float64]
    """From the moment at which a lookup was due."""
    service_ms: NDArray[np.float64]
    """From the moment at which it was sent."""
    late_share: float
    """Of lookups that were sent later than due by more than a millisecond."""
    cpu_seconds: float
    checked_rows: int
    newest: int
    """The newest version seen."""

    def percentile(self, percent: float) -> float:
        """Latency in ms."""
        return float(np.percentile(self.latencies_ms, percent))


def look_up(served: Served, way: Way) -> Callable[[bytes], bytes]:
    """A function from packed signs to packed rows of DIM float32. It keeps its connection, or the tables, open."""
    if way == "rpc":
        shard = RpcShard(0, 1, served.address, _TIMEOUT)

        def ask(signs: bytes) -> bytes:
            ((_, rows),) = shard.ask([(DIM, signs)]).result()
            return rows

        return ask
    reader = TableReader(served.folder, served.instance_id, served.uid)

    def read(signs: bytes) -> bytes:
        [(_, rows)], _, _ = reader.lookup([(DIM, signs)])
        return rows

    return read


@dataclass(frozen=True)
class _Job:
    way: Way
    rate: float
    seconds: float
    seed: int


class LookupProcess:
    """A process that looks up. A context manager."""

    def __init__(self, served: Served, signs: NDArray[np.uint64], batch: int) -> None:
        """`signs` are those of the ids 0, 1, ...; of these, `batch` are looked up at a time."""
        context = multiprocessing.get_context("spawn")
        self._own, self._other = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._other, served, signs, batch), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._other.close()  # so that its end is noticed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def begin(self, way: Way, rate: float, seconds: float, seed: int) -> None:
        """Start a window of `rate` lookups a second."""
        self._own.send(_Job(way, rate, seconds, seed))

    def result(self) -> Window:
        """Of the window that was started.

        Raises:
            WrongAnswerError: an answer was wrong, or none; it says how.
            ChildFailedError: the process ended.
        """
        try:
            found = self._own.recv()
        except EOFError:
            raise ChildFailedError("the process that looks up ended") from None
        if isinstance(found, str):
            raise WrongAnswerError(found)
        assert isinstance(found, Window)
        return found


def _serve(jobs: Connection, served: Served, signs: NDArray[np.uint64], batch: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    lanes: dict[Way, list[_Lane]] = {}
    while True:
        job: _Job = jobs.recv()
        try:
            if job.way not in lanes:
                lanes[job.way] = [
                    _Lane(look_up(served, job.way), signs, batch) for _ in range(_LANES[job.way])
                ]
            jobs.send(_window(lanes[job.way], job))
        except Exception as error:  # whatever it is, the parent says it
            jobs.send(f"{type(error).__name__}: {error}")


class _Lane:
    """One thread's lookups: of those of a window, every so many-th one."""

    def __init__(self, look: Callable[[bytes], bytes], signs: NDArray[np.uint64], batch: int) -> None:
        self._look, self._signs, self._batch = look, signs, batch
        self._seen = np.zeros(len(signs), np.int32)
        self.checked = self.newest = 0
        self.latencies: list[float] = []
        self.service: list[float] = []
        self.error: Exception | None = None

    def prepare(self, random: np.random.Generator, count: int) -> None:
        """Draw the ids, and look some of them up, untimed."""
        self.latencies, self.service, self.checked, self.newest = [], [], 0, 0
        self._ids = [_draw(random, len(self._signs), self._batch) for _ in range(max(1, min(count, 200)))]
        self._questions = [self._signs[one].tobytes() for one in self._ids]
        for question in self._questions[:_WARM_UP]:
            self._look(question)

    def run(self, due: NDArray[np.float64], alone: bool) -> None:
        """Look up at these times, by `time.perf_counter`. Alone, it spins for the last moment before each."""
        try:
            clock = time.perf_counter
            early = _SPIN_SECONDS if alone else 0.0
            for number, at in enumerate(due.tolist()):
                wait = at - clock()
                if wait > early:
                    time.sleep(wait - early)
                while (sent := clock()) < at:
                    pass
                turn = number % len(self._questions)
                rows = self._look(self._questions[turn])
                done = clock()
                self.latencies.append(done - at)
                self.service.append(done - sent)
                if number % _CHECK_EVERY == 0:
                    self.newest = max(self.newest, _check(self._ids[turn], rows, self._seen))
                    self.checked += self._batch
        except Exception as error:  # whatever it is, the window raises it
            self.error = error


def _window(lanes: list[_Lane], job: _Job) -> Window:
    random = np.random.default_rng(job.seed)
    due = np.sort(random.uniform(0, job.seconds, int(job.rate * job.seconds)))
    for lane in lanes:
        lane.prepare(random, len(due) // len(lanes))
    gc.collect()
    gc.disable()
    cpu = _cpu()
    start = time.perf_counter()
    threads = [
        threading.Thread(target=lane.run, args=(start + due[first :: len(lanes)], len(lanes) == 1))
        for first, lane in enumerate(lanes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = _cpu() - cpu
    gc.enable()
    for lane in lanes:
        if lane.error is not None:
            raise lane.error
    latencies = np.concatenate([np.asarray(lane.latencies) for lane in lanes])
    service = np.concatenate([np.asarray(lane.service) for lane in lanes])
    return Window(
        latencies_ms=latencies * 1e3,
        service_ms=service * 1e3,
        late_share=float((latencies - service > _LATE_SECONDS).mean()),
        cpu_seconds=spent,
        checked_rows=sum(lane.checked for lane in lanes),
        newest=max(lane.newest for lane in lanes),
    )


def _draw(random: np.random.Generator, known: int, batch: int) -> Ids:
    """Half of few, as of many users on few items; half of any."""
    hot = random.integers(0, min(2_000, known), batch // 2)
    return np.concatenate([hot, random.integers(0, known, batch - len(hot))]).astype(np.uint64)


def _check(ids: Ids, packed: bytes, seen: NDArray[np.int32]) -> int:
    """Every row is whole, and none is older than it was seen before. Returns the newest version."""
    rows = np.frombuffer(packed, np.float32).reshape(-1, DIM)
    if not is_row_of(ids, rows).all():
        bad = int(np.argmin(is_row_of(ids, rows)))
        raise ValueError(f"id {ids[bad]} is answered with a row that it never had: {rows[bad].tolist()}")
    versions = version_of(rows)
    at = ids.astype(np.int64)
    if (versions < seen[at]).any():
        bad = int(np.argmax(versions < seen[at]))
        raise ValueError(
            f"id {ids[bad]} is answered with packet {versions[bad]} after packet {seen[at[bad]]} was seen"
        )
    np.maximum.at(seen, at, versions.astype(np.int32))
    return int(versions.max())


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
