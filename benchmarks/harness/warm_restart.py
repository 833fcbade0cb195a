"""A server is killed and started again: how long until it answers from the tables that the first one left."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from harness import deployment
from harness.files import Files
from harness.measure import WrongAnswerError
from harness.processes import ChildFailedError, Process, free_ports
from satrap.errors import SatrapError
from satrap.middleware.shards import RpcShard
from satrap.trainer import write_persia_checkpoint

__all__ = ["warm_restarts"]

_DIM = 16
_INTERNAL_SHARDS = 8
_PROBES = 1_000
_READY_SECONDS = 300.0
_POLL_SECONDS = 0.001
_ANSWER_SECONDS = 10.0


def warm_restarts(
    root: Path, rows: int, times: int, seed: int, on_progress: Callable[[str], None]
) -> list[float]:
    """Seconds from exec to the first lookup answered, of a server whose predecessor got SIGKILL, so many times.

    Raises:
        WrongAnswerError: the first answer differs from the checkpoint, or the server loaded it again.
        ChildFailedError: a server does not start.
    """
    on_progress(f"writing a checkpoint of {rows:,} rows")
    root.mkdir(parents=True)
    files = Files(root)
    random = np.random.default_rng(seed)
    signs = random.permutation(np.arange(rows, dtype=np.uint64)) + np.uint64(1 << 56)
    values = random.random((rows, _DIM), dtype=np.float32)
    write_persia_checkpoint(
        files.checkpoint, {_DIM: (signs, values)}, num_shards=1, num_internal_shards=_INTERNAL_SHARDS
    )
    files.embedding_config.write_text(
        f"feature_index_prefix_bit: 8\nslots_config:\n  feature_0: {{dim: {_DIM}}}\n"
    )
    deployment.write_global_config(files, {})
    probes = random.integers(0, rows, _PROBES)
    question, wanted = signs[probes].tobytes(), values[probes].tobytes()
    del signs, values

    with deployment.table_directory() as tables:
        on_progress("loading it")
        with _server(files, tables) as (process, port):
            process.wait_for_line("ready on", _READY_SECONDS)
            _first_answer(process, port, question, wanted)
            os.kill(process.pid, signal.SIGKILL)
        seconds = []
        for number in range(times):
            on_progress(f"warm restart {number + 1} of {times}")
            start = time.perf_counter()
            with _server(files, tables) as (process, port):
                _first_answer(process, port, question, wanted)
                seconds.append(time.perf_counter() - start)
                _check_warm(port)
                os.kill(process.pid, signal.SIGKILL)
    return seconds


@contextlib.contextmanager
def _server(files: Files, tables: Path) -> Iterator[tuple[Process, int]]:
    (port,) = free_ports(1)
    satrap = Path(sys.executable).with_name("satrap")
    process = Process(
        "satrap embedding-server",
        [
            *(satrap, "embedding-server", "--exit-with-parent"),
            *("--global-config", files.global_config, "--embedding-config", files.embedding_config),
            *("--checkpoint", files.checkpoint, "--port", str(port), "--table-directory", tables),
        ],
        log=files.root / "embedding-server.log",
    )
    with process:
        yield process, port


def _first_answer(process: Process, port: int, question: bytes, wanted: bytes) -> None:
    """Ask as soon as somebody listens, and again until it answers."""
    deadline = time.monotonic() + _READY_SECONDS
    while not _listens(port):
        process.check_alive()
        _check_time(deadline, "did not listen")
        time.sleep(_POLL_SECONDS)
    shard = RpcShard(0, 1, f"127.0.0.1:{port}", _ANSWER_SECONDS)
    try:
        while True:
            try:
                ((_, rows),) = shard.ask([(_DIM, question)]).result()
                break
            except SatrapError:  # loading, or taking over
                process.check_alive()
                _check_time(deadline, "did not answer")
                time.sleep(_POLL_SECONDS)
    finally:
        shard.close()
    if rows != wanted:
        raise WrongAnswerError("the server answers other rows than the checkpoint has")


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _check_time(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise ChildFailedError(f"the embedding server {what} within {_READY_SECONDS:.0f} s")


def _check_warm(port: int) -> None:
    shard = RpcShard(0, 1, f"127.0.0.1:{port}", _ANSWER_SECONDS)
    try:
        started = shard.status(_ANSWER_SECONDS).started
    finally:
        shard.close()
    if started != "warm":
        raise WrongAnswerError(f"the server did not take the tables over: {started}")
