"""Lookups at one shard of this machine: by gRPC, with the table attached, and in a table of this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import deployment, files
from harness.files import Files
from harness.measure import WrongAnswerError
from harness.spread import Latencies
from harness.workload import Request, Shape, Workload
from satrap._core.table import Table
from satrap.config import load_embedding_config
from satrap.middleware import Middleware
from satrap.middleware.shards import RpcShard

__all__ = ["AttachedAndRpc", "HPS_SHAPE", "InProcessAndRpc", "attached_and_rpc", "in_process_and_rpc"]

HPS_SHAPE = Shape(samples=2_000, features=1, ids_per_sample=1, rows=630_000, zipf_exponent=1.2)
"""What the profiler of HugeCTR's HPS asks for: 2,000 keys of a table of 630,000 rows."""

_TIMEOUT = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class InProcessAndRpc:
    """The same keys, looked up in a table of this process and at a server over loopback."""

    in_process: Latencies
    rpc: Latencies


@dataclass(frozen=True)
class AttachedAndRpc:
    """A request's whole lookup in a worker (decode, plan, rows, sums), both ways, s: one for each call of a round."""

    attached: list[list[float]]
    rpc: list[list[float]]


def in_process_and_rpc(root: Path, shape: Shape, seed: int, calls: int) -> InProcessAndRpc:
    """Ask a table and a server that hold the same rows for the same keys, so many times.

    Raises:
        WrongAnswerError: an answer differs from the rows.
        ChildFailedError: the server does not start.
    """
    run, workload = _deployed(root, shape, seed)
    signs = [_signs(workload, request) for request in workload.requests]
    table = Table(shape.dim, "float32", shape.rows)
    table.upsert(workload.signs, workload.rows)
    out = np.empty((signs[0].size, shape.dim), np.float32)
    in_process = []
    for call in range(calls):
        keys = signs[call % len(signs)]
        start = time.perf_counter()
        table.lookup(keys, out)
        in_process.append(time.perf_counter() - start)
    _compare(out, workload, (calls - 1) % len(signs), "the table")
    with deployment.embedding_servers(run, 1) as (_, [address]):
        shard = RpcShard(0, 1, address, _TIMEOUT)
        questions = [[(shape.dim, keys.tobytes())] for keys in signs]
        by_rpc = []
        for call in range(calls):
            start = time.perf_counter()
            ((_, rows),) = shard.ask(questions[call % len(questions)]).result()
            by_rpc.append(time.perf_counter() - start)
        answer = np.frombuffer(rows, np.float32).reshape(-1, shape.dim)
        _compare(answer, workload, (calls - 1) % len(signs), "the server")
        shard.close()
    return InProcessAndRpc(Latencies.of_seconds(in_process), Latencies.of_seconds(by_rpc))


def attached_and_rpc(
    root: Path, shape: Shape, seed: int, rounds: int, on_progress: Callable[[str], None]
) -> AttachedAndRpc:
    """Look up the same batches both ways, in turn; each round is every batch once each way.

    Raises:
        WrongAnswerError: an answer differs from the rows' sums.
        ChildFailedError: the server does not start, or its table is not attached.
    """
    on_progress(f"loading a server with {shape.rows:,} rows")
    run, workload = _deployed(root, shape, seed)
    payloads = [request.persia(dense=False) for request in workload.requests]
    config = load_embedding_config(run.embedding_config, on_progress)
    with deployment.embedding_servers(run, 1) as (_, addresses):
        ways = {
            local: Middleware(config, addresses, local=local, source=run.embedding_config)
            for local in (True, False)
        }
        times: dict[bool, list[list[float]]] = {True: [], False: []}
        try:
            for local, middleware in ways.items():
                middleware.wait_ready(_TIMEOUT)
                _wait_until(middleware, "attached" if local else "rpc")
                for request, payload in zip(workload.requests, payloads, strict=True):
                    sums = [embedding.values for embedding in middleware.lookup(payload)]
                    for got, wanted in zip(sums, workload.pooled(request), strict=True):
                        if not np.allclose(got, wanted, 1e-3, 2e-3):  # float16 of sums in any order
                            raise WrongAnswerError("the middleware answers other sums than the table has")
            for number in range(rounds):
                on_progress(f"attached and by gRPC: round {number + 1} of {rounds}")
                for local in (True, False) if number % 2 else (False, True):
                    times[local].append([_seconds(ways[local], payload) for payload in payloads])
        finally:
            for middleware in ways.values():
                middleware.close()
    return AttachedAndRpc(attached=times[True], rpc=times[False])


def _deployed(root: Path, shape: Shape, seed: int) -> tuple[Files, Workload]:
    root.mkdir(parents=True)
    run, workload = Files(root), Workload(shape, seed)
    files.write_embeddings(run, workload)
    deployment.write_global_config(run, {})
    return run, workload


def _signs(workload: Workload, request: Request) -> np.typing.NDArray[np.uint64]:
    return np.ascontiguousarray(workload.signs[request.row_numbers.reshape(-1)])


def _compare(got: np.typing.NDArray[np.float32], workload: Workload, request: int, who: str) -> None:
    wanted = workload.rows[workload.requests[request].row_numbers.reshape(-1)]
    if not np.array_equal(got, wanted):
        raise WrongAnswerError(f"{who} answers other rows than were written")


def _seconds(middleware: Middleware, payload: bytes) -> float:
    start = time.perf_counter()
    middleware.lookup(payload)
    return time.perf_counter() - start


def _wait_until(middleware: Middleware, way: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not (state := middleware.states()[0]).way.startswith(way):
        if time.monotonic() > deadline:
            raise WrongAnswerError(f"the shard is looked up in '{state.way}', not '{way}'")
        time.sleep(_POLL_SECONDS)
