"""How fast one thread makes rows of packets: read, verify, judge, upsert."""

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.checkpoint_load import touch_memory
from harness.measure import WrongAnswerError
from harness.update_rows import DIM, rows_of
from satrap._core import rows as row_kernels
from satrap._core.table import Table
from satrap.formats.manifest import Manifest
from satrap.formats.packet import PacketContent, publish_packet, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import Storage, open_storage

__all__ = ["KINDS", "ApplyRates", "measure_apply"]

KINDS = ("existing rows", "new rows, with room", "new rows, growing")
"""Rows that are there; rows that are not, in a table that has room for them, and in one that was full."""

STEPS = ("read and verify", "judge", "upsert")


@dataclass
class ApplyRates:
    """Of each kind and round: rows a second in all, and seconds of each step."""

    rows: int
    packet_rows: int
    packets: int
    rates: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    steps: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    file_bytes: int = 0


def measure_apply(
    rows: int, packet_rows: int, packets: int, rounds: int, seed: int, on_progress: Callable[[str], None]
) -> ApplyRates:
    """Apply packets to tables of `rows` rows. The packets' files are in memory, as just after they were written.

    Raises:
        WrongAnswerError: the table has another row than the packets say.
    """
    results = ApplyRates(rows, packet_rows, packets)
    for number in range(rounds):
        for kind in KINDS:
            on_progress(f"apply: round {number + 1} of {rounds}, {kind}")
            with tempfile.TemporaryDirectory(prefix="satrap-bench-", dir="/dev/shm") as folder:
                _round(results, kind, Path(folder), seed + number)
    return results


def _round(results: ApplyRates, kind: str, folder: Path, seed: int) -> None:
    random = np.random.default_rng((seed, KINDS.index(kind)))
    known = random.integers(0, 2**64 - 1, results.rows, np.uint64)
    room = results.packets * results.packet_rows if kind == KINDS[1] else 0
    table = Table(DIM, "float32", results.rows + room)
    for begin in range(0, len(known), 1 << 18):
        part = known[begin : begin + (1 << 18)]
        table.upsert(part, rows_of(part, 0))
    storage = open_storage(folder)
    manifests = []
    for number in range(1, results.packets + 1):
        if kind == KINDS[0]:
            signs = known[random.integers(0, len(known), results.packet_rows)]
        else:
            signs = random.integers(0, 2**64 - 1, results.packet_rows, np.uint64)
        manifests.append(_publish(storage, number, signs))
    results.file_bytes = manifests[0].files[0].bytes
    gc.collect()
    touch_memory(2 * table.bytes)
    steps = dict.fromkeys(STEPS, 0.0)
    start = time.perf_counter()
    for manifest in manifests:
        _apply(storage, manifest, table, steps)
    seconds = time.perf_counter() - start
    results.rates[kind].append(results.packets * results.packet_rows / seconds)
    results.steps[kind].append(steps)
    _check(table, signs, results.packets)


def _publish(storage: Storage, number: int, signs: NDArray[np.uint64]) -> Manifest:
    return publish_packet(
        storage,
        stream="bench",
        writer="bench",
        sequence=number,
        previous=number - 1,
        parts=[PacketContent(DIM, signs, rows_of(signs, number))],
    )


def _apply(storage: Storage, manifest: Manifest, table: Table, steps: dict[str, float]) -> None:
    before = time.perf_counter()
    parts: Sequence[tuple[int, NDArray[np.uint64], NDArray[np.float32] | None]] = read_shard(
        storage, manifest, ShardRoute(0, 1)
    )
    read = time.perf_counter()
    for _, signs, rows in parts:
        misrouted, bad, _ = row_kernels.inspect(signs, rows, 0, 1)
        if misrouted or bad >= 0:
            raise WrongAnswerError("a packet of the benchmark's own is refused")
    judged = time.perf_counter()
    for _, signs, rows in parts:
        if rows is not None:
            table.upsert(signs, rows, manifest.sequence)
    written = time.perf_counter()
    for step, seconds in zip(STEPS, (read - before, judged - read, written - judged), strict=True):
        steps[step] += seconds


def _check(table: Table, signs: NDArray[np.uint64], last: int) -> None:
    out = np.empty((len(signs), DIM), np.float32)
    if table.lookup(signs, out) or not np.array_equal(out, rows_of(signs, last)):
        raise WrongAnswerError("the table has other rows than the last packet")
