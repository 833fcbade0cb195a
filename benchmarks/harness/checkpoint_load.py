"""Loads of a checkpoint by the server's own code, each in a new process, next to a plain read of the same files.

The plain read is the floor: as many bytes, by as many threads as the fastest load has, into a buffer that is used again
and again; nobody looks at them.
"""

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.embedding_server.tables import RowDType
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.trainer import write_persia_checkpoint

__all__ = ["Case", "LoadResults", "LoadRun", "measure_loads", "touch_memory", "write_checkpoint"]

_READERS = 2
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """One way to load."""

    row_dtype: RowDType
    threads: int


@dataclass(frozen=True)
class LoadRun:
    """One load, in a process of its own."""

    load_seconds: float
    """From the path to a table that is served: listing, sizing, allocation, decoding, validation."""
    read_seconds: float
    """The plain read, just before."""
    cpu_seconds: float
    """Of the load, all threads together."""
    rows: int
    table_bytes: int
    """Everything counted: headers, ordinals, directory, slack."""
    huge_pages: bool
    peak_rss_bytes: int
    """Of the process, shared memory included."""
    others_share: float
    """Of the CPU time used on this machine during the load, what this process did not use."""


@dataclass
class LoadResults:
    """`runs` are in the order measured."""

    rows: int
    dim: int
    files: int
    file_bytes: int
    runs: dict[Case, list[LoadRun]] = field(default_factory=dict)

    def median(self, case: Case, value: Callable[[LoadRun], float]) -> float:
        """The median over the runs."""
        return median(value(run) for run in self.runs[case])


def write_checkpoint(path: Path, rows: int, dim: int, files: int, seed: int) -> None:
    """Write random rows of random signs as PERSIA would after a run of a stateless optimizer."""
    random = np.random.default_rng(seed)
    signs = np.unique(random.integers(0, 2**64, rows + rows // 1000 + 1000, dtype=np.uint64))
    random.shuffle(signs)
    values = random.standard_normal((rows, dim), dtype=np.float32)
    write_persia_checkpoint(path, {dim: (signs[:rows], values)}, num_shards=1, num_internal_shards=files)


def measure_loads(
    checkpoint: Path,
    cases: Sequence[Case],
    runs: int,
    table_parent: Path,
    results: LoadResults,
    on_progress: Callable[[str], None],
) -> None:
    """Measure every case in each of `runs` rounds, after one that is not counted.

    Tables are made in a temporary folder of `table_parent`, a file system in memory.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for number in range(runs + 1):
            for case in cases:
                on_progress(f"round {number} of {runs}: {case.row_dtype}, {case.threads} threads")
                pool.submit(touch_memory, 2 * results.file_bytes).result()
                run = pool.submit(_load, checkpoint, case, table_parent).result()
                if number:
                    results.runs.setdefault(case, []).append(run)


def touch_memory(size: int) -> None:
    """Leave behind free memory that was in use: what a virtual machine never used, its host has to find first."""
    np.ones(size // 8)


def _load(checkpoint: Path, case: Case, table_parent: Path) -> LoadRun:
    read_seconds = _plain_read(sorted(checkpoint.glob("s*/*.emb")))
    with tempfile.TemporaryDirectory(dir=table_parent, prefix="satrap-benchmark-") as folder:
        directory = TableDirectory(TablePlace(Path(folder)), ShardRoute())
        state = ShardState(directory, case.row_dtype, case.threads)
        try:
            machine, own, begin = _machine_cpu(), time.process_time(), time.perf_counter()
            generation = state.load(checkpoint, lambda progress: None, threading.Event())
            seconds = time.perf_counter() - begin
            own, machine = time.process_time() - own, _machine_cpu() - machine
            tables = generation.tables.values()
            return LoadRun(
                load_seconds=seconds,
                read_seconds=read_seconds,
                rows=generation.rows,
                table_bytes=sum(table.bytes for table in tables),
                huge_pages=all(table.huge_pages for table in tables),
                cpu_seconds=own,
                peak_rss_bytes=_peak_rss(),
                others_share=max(0.0, 1 - own / machine) if machine > 0 else 0.0,
            )
        finally:
            state.close()
            directory.close()


def _plain_read(files: Sequence[Path]) -> float:
    """Seconds for one read of the files from first byte to last."""
    local = threading.local()

    def read(path: Path) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(_BUFFER_BYTES)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while os.readv(descriptor, [local.buffer]):
                pass
        finally:
            os.close(descriptor)

    best = float("inf")
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in range(3):  # the first brings threads and buffers
            begin = time.perf_counter()
            list(pool.map(read, files))
            best = min(best, time.perf_counter() - begin)
    return best


def _peak_rss() -> int:
    # Not from getrusage: what it says of a new process begins with the size of the process that started it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError("/proc/self/status has no VmHWM")


def _machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
