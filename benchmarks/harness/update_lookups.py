"""Lookups at times of their own, whatever the ones before took; and what they see of packets that are applied."""

import gc
import multiprocessing
import resource
import signal
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
    ways: dict[Way, Callable[[bytes], bytes]] = {}
    seen = np.zeros(len(signs), np.int64)
    while True:
        job: _Job = jobs.recv()
        try:
            if job.way not in ways:
                ways[job.way] = look_up(served, job.way)
            jobs.send(_window(ways[job.way], signs, seen, batch, job))
        except Exception as error:  # whatever it is, the parent says it
            jobs.send(f"{type(error).__name__}: {error}")


def _window(
    look: Callable[[bytes], bytes], signs: NDArray[np.uint64], seen: NDArray[np.int64], batch: int, job: _Job
) -> Window:
    random = np.random.default_rng(job.seed)
    count = int(job.rate * job.seconds)
    due = np.sort(random.uniform(0, job.seconds, count))
    ids = [_draw(random, len(signs), batch) for _ in range(min(count, 200))]
    questions = [signs[one].tobytes() for one in ids]
    for question in questions[:20]:
        look(question)
    latencies, service = np.empty(count), np.empty(count)
    late = checked = newest = 0
    gc.collect()
    gc.disable()
    cpu = _cpu()
    start = time.perf_counter()
    for number in range(count):
        at = start + due[number]
        wait = at - time.perf_counter()
        if wait > _SPIN_SECONDS:
            time.sleep(wait - _SPIN_SECONDS)
        while (sent := time.perf_counter()) < at:
            pass
        rows = look(questions[number % len(questions)])
        done = time.perf_counter()
        latencies[number], service[number] = done - at, done - sent
        late += sent - at > 0.001
        if number % _CHECK_EVERY == 0:
            newest = max(newest, _check(ids[number % len(questions)], rows, seen))
            checked += batch
    spent = _cpu() - cpu
    gc.enable()
    return Window(latencies * 1e3, service * 1e3, late / count, spent, checked, newest)


def _draw(random: np.random.Generator, known: int, batch: int) -> Ids:
    """Half of few, as of many users on few items; half of any."""
    hot = random.integers(0, min(2_000, known), batch // 2)
    return np.concatenate([hot, random.integers(0, known, batch - len(hot))]).astype(np.uint64)


def _check(ids: Ids, packed: bytes, seen: NDArray[np.int64]) -> int:
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
    np.maximum.at(seen, at, versions)
    return int(versions.max())


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
