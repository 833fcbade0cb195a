"""A trainer and an embedding server that follows it, each a process: how soon rows are visible, what lookups notice."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import deployment
from harness.files import Files
from harness.measure import WrongAnswerError
from harness.processes import ChildFailedError, Process, cpu_seconds
from harness.update_lookups import LookupProcess, Served, Way, Window, look_up
from harness.update_publisher import Publisher, trainer
from harness.update_rows import DIM, FEATURE, Stream, rows_of, version_of
from satrap._core.table import TableReader
from satrap.config import load_embedding_config
from satrap.formats.manifest import parse_manifest, parse_manifest_name
from satrap.middleware.shards import RpcShard
from satrap.protos import embedding_pb2 as pb
from satrap.trainer.signs import feature_signs

__all__ = ["CheckpointRound", "Flow", "FlowPlan", "Storm", "WAYS", "Visible", "flow"]

WAYS: tuple[Way, ...] = ("attached", "rpc")

_READY_SECONDS = 300.0
_TIMEOUT = 30.0
_BLOCK = 4 << 20
_CATCH_UP_SECONDS = 120.0
_ASK = 8_192
_GLOBAL_CONFIG = """\
models: {}
trainer: {incremental_flush_seconds: 3600, waiting_packets: 64}
embedding_parameter_server_config: {incremental_buffer_size: 100000000}
"""


@dataclass(frozen=True)
class FlowPlan:
    """How much is measured."""

    stream: Stream
    visible_packets: int
    visible_every: float
    """Seconds between packets, of which each is visible before the next one."""
    window_seconds: float
    windows: int
    storm_rows: float
    """Rows a second."""
    lookups: float
    """A second."""
    batch: int
    """Ids of a lookup."""
    catch_ups: int
    catch_up_packets: int
    dumps: int

    @property
    def storm_every(self) -> float:
        """Seconds between packets of a storm."""
        return self.stream.packet_rows / self.storm_rows

    @property
    def storm_packets(self) -> int:
        """Of a window."""
        return max(1, round(self.window_seconds / self.storm_every))


@dataclass(frozen=True)
class CheckpointRound:
    """One checkpoint, and a plain write of as many bytes into the same folder, one after the other."""

    bytes: int
    rows: int
    dump_seconds: float
    plain_seconds: float
    rss_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Visible:
    """From the publication of each packet to its last row, ms, and how many packets there were."""

    milliseconds: list[float]
    packets: int
    rows: int


@dataclass(frozen=True)
class WindowFigures:
    """A window summed up."""

    kind: str
    way: Way
    p50_ms: float
    p99_ms: float
    p999_ms: float
    service_p99_ms: float
    late_share: float
    lookups: int
    checked_rows: int
    server_cpu: float
    publisher_cpu: float
    client_cpu: float
    """Cores used."""
    published_rows: float
    """A second."""


@dataclass
class Storm:
    """Windows in the order measured, and what became of all packets."""

    windows: list[WindowFigures] = field(default_factory=list)
    visible_ms: list[float] = field(default_factory=list)
    packets: int = 0
    applied_packets: int = 0
    rows_checked: int = 0

    def ratios(self, way: Way, kind: str, under: str) -> list[float]:
        """p99 of one kind of window over another's, of the same round."""
        of = {
            name: [one.p99_ms for one in self.windows if (one.kind, one.way) == (name, way)]
            for name in (kind, under)
        }
        return [over / below for over, below in zip(of[kind], of[under], strict=True)]


class Flow:
    """Both processes, and the measurements. Made by `flow`; each method may be called once, in this order."""

    def __init__(
        self, root: Path, plan: FlowPlan, publisher: Publisher, on_progress: Callable[[str], None]
    ) -> None:
        self._root, self._plan, self._publisher, self._on_progress = root, plan, publisher, on_progress
        self._packets = root / "packets"
        config = load_embedding_config(root / "embedding_config.yml", on_progress)
        self._signs = feature_signs(config, on_progress)[FEATURE].signs
        self._checkpoint = root / "checkpoint"
        self._published = 0
        self._server: Process
        self._served: Served

    # ---- checkpoints ----

    def checkpoints(self) -> list[CheckpointRound]:
        """Write a checkpoint of all rows some times, each beside a plain write."""
        self._on_progress(f"training {self._plan.stream.rows:,} rows")
        rows = self._publisher.order(do="fill")["rows"]
        rounds = []
        for number in range(self._plan.dumps):
            self._on_progress(f"checkpoint {number + 1} of {self._plan.dumps}")
            shutil.rmtree(self._checkpoint, ignore_errors=True)
            os.sync()
            dumped = self._publisher.order(do="dump", to=str(self._checkpoint))
            size = sum(file.stat().st_size for file in self._checkpoint.iterdir())
            os.sync()
            plain = _plain_write(self._root / "plain", size)
            rounds.append(
                CheckpointRound(
                    size, rows, dumped["seconds"], plain, dumped["rss_bytes"], dumped["peak_bytes"]
                )
            )
        return rounds

    # ---- the server ----

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """An embedding server that follows the packets, with the last checkpoint."""
        self._on_progress("starting the embedding server")
        with deployment.table_directory() as tables:
            process = Process(
                "satrap embedding-server",
                [
                    *(Path(sys.executable).with_name("satrap"), "embedding-server", "--exit-with-parent"),
                    *("--global-config", self._root / "global_config.yaml"),
                    *("--embedding-config", self._root / "embedding_config.yml"),
                    *("--checkpoint", self._checkpoint, "--packets", self._packets),
                    *("--port", "0", "--table-directory", tables),
                ],
                log=self._root / "embedding-server.log",
            )
            with process:
                address = deployment.address_of(process.wait_for_line("ready on", _READY_SECONDS))
                status = _status(address)
                self._server = process
                self._served = Served(address, status.table_path, status.instance_id, status.server_uid)
                with contextlib.closing(
                    TableReader(status.table_path, status.instance_id, status.server_uid)
                ) as reader:
                    self._reader = reader
                    self._base = reader.applied[0]
                    yield

    def visible(self) -> Visible:
        """Packets one by one, none before the one before is visible."""
        plan = self._plan
        self._on_progress(f"published to visible: {plan.visible_packets} packets")
        with _Arrivals(self._reader) as arrivals:
            self._publish(plan.visible_packets, plan.visible_every)
            self._wait_until_applied()
        latencies = self._latencies(arrivals, plan.visible_packets)
        self._check_rows()
        return Visible(latencies, plan.visible_packets, plan.stream.packet_rows)

    def catch_ups(self) -> list[float]:
        """Rows a second of a server that finds packets waiting: it is stopped while they are published."""
        plan, rates = self._plan, []
        for number in range(plan.catch_ups):
            self._on_progress(f"catching up: {number + 1} of {plan.catch_ups}")
            os.kill(self._server.pid, signal.SIGSTOP)
            try:
                self._publish(plan.catch_up_packets, 0.0)
                with _Arrivals(self._reader) as arrivals:
                    start = time.time_ns()
                    os.kill(self._server.pid, signal.SIGCONT)
                    self._wait_until_applied()
            finally:
                os.kill(self._server.pid, signal.SIGCONT)
            last = max(arrivals.at.values())
            rates.append(plan.catch_up_packets * plan.stream.packet_rows / (last - start) * 1e9)
        return rates

    def storm(self) -> Storm:
        """Quiet windows, windows in which packets go to a directory that nobody follows, and windows in which they
        are applied, in turn; lookups go on at the same times in all of them.

        Raises:
            WrongAnswerError: a row was lost, or is of another packet than the last one that has it; or a packet was
                applied more or less often than once.
        """
        plan, storm = self._plan, Storm()
        before = self._applied_packets()
        published = self._published
        known = self._signs(plan.stream.first_ids())
        decoy = str(self._root / "decoy")
        with LookupProcess(self._served, known, plan.batch) as client:
            for way in WAYS:  # connections, and the client's own caches
                client.begin(way, plan.lookups, min(1.0, plan.window_seconds), 0)
                client.result()
            for number in range(plan.windows):
                for way in WAYS:
                    kinds = ("quiet", "published only", "storm")
                    for kind in kinds[number % 3 :] + kinds[: number % 3]:
                        self._on_progress(f"storm: window {number + 1} of {plan.windows}, {way}, {kind}")
                        storm.windows.append(self._window(storm, client, way, kind, number, decoy))
                        self._wait_until_applied()
        self._on_progress("storm: comparing every row")
        storm.rows_checked = self._check_rows()
        storm.packets = self._published - published
        storm.applied_packets = self._applied_packets() - before
        if storm.packets != storm.applied_packets:
            raise WrongAnswerError(
                f"{storm.packets} packets were published and {storm.applied_packets} applied: each counts once"
            )
        return storm

    def _window(
        self, storm: Storm, client: LookupProcess, way: Way, kind: str, number: int, decoy: str
    ) -> WindowFigures:
        plan = self._plan
        self._publisher.order(do="prepare", count=plan.storm_packets)
        server = cpu_seconds([self._server])
        with _Arrivals(self._reader, 0.002) as arrivals:
            client.begin(way, plan.lookups, plan.window_seconds, number)
            done: dict[str, Any] = {"cpu_seconds": 0.0, "packets": [], "seconds": plan.window_seconds}
            if kind == "storm":
                done = self._publish(plan.storm_packets, plan.storm_every)
            elif kind == "published only":
                done = self._publisher.order(
                    do="publish", count=plan.storm_packets, every=plan.storm_every, decoy=decoy
                )
            window: Window = client.result()
            server = cpu_seconds([self._server]) - server
            self._wait_until_applied()
        if kind == "storm":
            storm.visible_ms += self._latencies(arrivals, plan.storm_packets)
        rows = len(done["packets"]) * plan.stream.packet_rows
        return WindowFigures(
            kind=kind,
            way=way,
            p50_ms=window.percentile(50),
            p99_ms=window.percentile(99),
            p999_ms=window.percentile(99.9),
            service_p99_ms=float(np.percentile(window.service_ms, 99)),
            late_share=window.late_share,
            lookups=len(window.latencies_ms),
            checked_rows=window.checked_rows,
            server_cpu=server / plan.window_seconds,
            publisher_cpu=done["cpu_seconds"] / plan.window_seconds,
            client_cpu=window.cpu_seconds / plan.window_seconds,
            published_rows=rows / max(done["seconds"], plan.window_seconds),
        )

    # ---- what they share ----

    def _publish(self, count: int, every: float) -> dict[str, Any]:
        done = self._publisher.order(do="publish", count=count, every=every)
        self._published += count
        return done

    def _wait_until_applied(self) -> None:
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while (applied := self._reader.applied[0]) < self._base + self._published:
            self._server.check_alive()
            if time.monotonic() > deadline:
                raise ChildFailedError(
                    f"the embedding server is at packet {applied} of {self._base + self._published} after "
                    f"{_CATCH_UP_SECONDS:.0f} s; it says {_status(self._served.address).updates}"
                )
            time.sleep(0.002)

    def _latencies(self, arrivals: "_Arrivals", packets: int) -> list[float]:
        """ms from the time in each of the last manifests to the moment at which the watermark was there."""
        published = {}
        for file in self._packets.iterdir():
            name = parse_manifest_name(file.name)
            if name is not None and name[0] > self._base + self._published - packets:
                published[name[0]] = parse_manifest(str(file), file.read_bytes()).published_ns
        if len(published) != packets:
            raise WrongAnswerError(
                f"{packets} packets were published and {len(published)} manifests are there"
            )
        return [(arrivals.moment(sequence) - moment) / 1e6 for sequence, moment in sorted(published.items())]

    def _applied_packets(self) -> int:
        return int(_status(self._served.address).updates.applied_packets)

    def _check_rows(self) -> int:
        """Compare every row there is with the last packet that has it; returns how many there are."""
        ids, versions = self._plan.stream.last_versions(self._published)
        look = look_up(self._served, "attached")
        for begin in range(0, len(ids), _ASK):
            part, wanted = ids[begin : begin + _ASK], versions[begin : begin + _ASK]
            rows = np.frombuffer(look(self._signs(part).tobytes()), np.float32).reshape(-1, DIM)
            if not np.array_equal(rows, rows_of(part, wanted)):
                raise WrongAnswerError(_difference(part, rows, wanted))
        return len(ids)


@contextlib.contextmanager
def flow(root: Path, plan: FlowPlan, on_progress: Callable[[str], None]) -> Iterator[Flow]:
    """The configs and the trainer's process, in the folder `root`."""
    root.mkdir(parents=True)
    files = Files(root)
    (root / "global_config.yaml").write_text(_GLOBAL_CONFIG)
    (root / "embedding_config.yml").write_text(
        f"feature_index_prefix_bit: 8\nslots_config:\n  {FEATURE}: {{dim: {DIM}}}\n"
    )
    packets = files.root / "packets"
    packets.mkdir()
    on_progress("starting the trainer")
    with trainer(
        root / "global_config.yaml", root / "embedding_config.yml", packets, plan.stream, root / "trainer.log"
    ) as publisher:
        yield Flow(root, plan, publisher, on_progress)


class _Arrivals:
    """A thread that notes when the watermark reached what."""

    def __init__(self, reader: TableReader, every: float = 0.0001) -> None:
        self.at: dict[int, int] = {}
        self._reader, self._every = reader, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "_Arrivals":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def moment(self, sequence: int) -> int:
        """When it was seen to be reached, nanoseconds since the epoch."""
        return min(moment for applied, moment in self.at.items() if applied >= sequence)

    def _watch(self) -> None:
        seen = -1
        while True:
            ending = self._done.is_set()  # before the last look
            applied = self._reader.applied[0]
            if applied != seen:
                self.at[applied] = time.time_ns()
                seen = applied
            if ending:
                return
            time.sleep(self._every)


def _status(address: str) -> pb.StatusResponse:
    shard = RpcShard(0, 1, address, _TIMEOUT)
    try:
        return shard.status(_TIMEOUT)
    finally:
        shard.close()


def _plain_write(path: Path, size: int) -> float:
    """Seconds to write a file of that size and to have it on the disk."""
    block = memoryview(np.random.default_rng(0).bytes(_BLOCK))
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        left = size
        while left > 0:
            left -= file.write(block[: min(left, _BLOCK)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def _difference(ids: Sequence[int] | NDArray[np.uint64], rows: Any, wanted: NDArray[np.int64]) -> str:
    versions = version_of(rows)
    same = (rows == rows_of(np.asarray(ids, np.uint64), wanted)).all(axis=1)
    bad = int(np.argmin(same))
    return f"id {ids[bad]} has a row of packet {versions[bad]}, and packet {wanted[bad]} was its last"
