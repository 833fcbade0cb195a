"""satrap and TorchServe with the same models and the same bytes, and the floor below both."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness import deployment, files
from harness.clients import ClientProcess, Job
from harness.dense import probabilities, save_model
from harness.files import Files
from harness.floor import Floor, forward_ms, gather_ms
from harness.measure import Plan, Row, Side, WrongAnswerError, measure_row
from harness.predict import PredictCaller, parse_answer, prediction_request
from harness.processes import Process
from harness.stages import measure_stages
from harness.workload import Request, Shape, Workload
from peers import torchserve

__all__ = [
    "ARROW",
    "COMPARISONS",
    "FEW",
    "MANY",
    "OURS",
    "PEER",
    "Comparison",
    "Results",
    "compare_servers",
]

OURS, PEER, ECHO = "satrap", "TorchServe", "echo"
ARROW = "satrap, the same as Arrow"
"""PERSIA's bytes have an id as 19, Arrow's as 8; only satrap reads both."""
FEW, MANY = 1, 8
"""Client threads: latency is measured with the first, throughput with the second."""

_SHARDS = 2
_TOLERANCE = 5e-4
"""Of a probability. PERSIA's lookup answers float16, the peer's handler sums in float32."""
_BENCHMARKS = Path(__file__).resolve().parent.parent
_OUR_HANDLER = _BENCHMARKS / "handlers" / "flat_handler.py"
_PEER_HANDLERS = _BENCHMARKS / "peers" / "torchserve_handlers"


@dataclass(frozen=True)
class Comparison:
    """One row: a model that both servers serve under this name."""

    name: str
    title: str
    workers: int = 1
    persia_bytes: bool = False
    peer_table: str = "SearchTable"
    """A class of `peers/torchserve_handlers/numpy_table.py`."""

    def inputs(self, request: Request) -> dict[str, bytes]:
        """What the client sends."""
        return {"batch": request.persia()} if self.persia_bytes else request.flat()


COMPARISONS = (
    Comparison("flat_1", "flat arrays, 1 worker"),
    Comparison("flat_2", "flat arrays, 2 workers", workers=2),
    Comparison("persia_1", "PERSIA bytes, 1 worker", persia_bytes=True),
    Comparison("persia_2", "PERSIA bytes, 2 workers", workers=2, persia_bytes=True),
    Comparison(
        "bucket_1", "flat arrays, 1 worker, the peer's lookup tuned by hand", peer_table="BucketTable"
    ),
)
"""The first is the headline."""


@dataclass(frozen=True)
class Results:
    """What was measured; the first row is the headline.

    `stages[side]`: ms by step of the headline's handler; empty if that is not a handler of the benchmark's own.
    """

    rows: list[Row]
    floor: Floor
    stages: Mapping[str, Mapping[str, float]]
    greatest_difference: Mapping[str, float]
    """Of any probability from what the model says, by side."""


def compare_servers(
    root: Path,
    shape: Shape,
    seed: int,
    plan: Plan,
    comparisons: Sequence[Comparison],
    peer_environment: Path | None,
    on_progress: Callable[[str], None],
) -> Results:
    """Write everything under `root`, start the servers, compare answers, measure, stop the servers.

    Without `peer_environment` TorchServe is left out.

    Raises:
        WrongAnswerError: a server answers something else than the model.
        ChildFailedError: a server does not start, or ends.
    """
    on_progress("making the table, the requests and the model")
    root.mkdir()
    run = Files(root)
    workload = Workload(shape, seed)
    model = _write(run, workload, comparisons, seed)
    with ExitStack() as stack:
        client = stack.enter_context(ClientProcess())
        on_progress("starting the servers")
        servers = _start(run, comparisons, peer_environment, stack)
        on_progress("comparing answers")
        sides = {one.name: _sides(one, workload, servers) for one in comparisons}
        differences: dict[str, float] = {}
        for side in (side for some in sides.values() for side in some):
            differences[side.name] = max(
                differences.get(side.name, 0.0), _check(client, side, workload, model)
            )
        headline = sides[comparisons[0].name]
        echo, address = stack.enter_context(deployment.echo_server(run, _answer_bytes(client, headline[0])))
        headline.append(Side(ECHO, [echo], PredictCaller, address, headline[0].payloads))
        rows = [
            measure_row(one.title, sides[one.name], (FEW, MANY), plan, client, on_progress)
            for one in comparisons
        ]
    on_progress("measuring the floor and the handlers' steps")
    floor = Floor(
        echo=rows[0].median(ECHO, FEW, lambda cycle: cycle.p50_ms),
        forward=forward_ms(model, workload),
        gather=gather_ms(workload),
    )
    headline_stages = (
        {} if comparisons[0].persia_bytes else _stages(run, workload, comparisons[0], list(servers))
    )
    return Results(rows, floor, headline_stages, differences)


def _write(
    run: Files, workload: Workload, comparisons: Sequence[Comparison], seed: int
) -> torch.jit.ScriptModule:
    files.write_embeddings(run, workload)
    files.write_peer_table(run, workload)
    model = save_model(workload.shape, seed, run.model)
    deployment.write_global_config(run, {one.name: one.workers for one in comparisons})
    for one in comparisons:
        extra = files.write_handler_files(run, workload, one.name, one.peer_table)
        if one.persia_bytes:
            files.archive_without_code(run.store, one.name, run.model)
        else:
            files.archive_with_handler(run.store, one.name, run.model, _OUR_HANDLER, extra)
        peer_extra = [_PEER_HANDLERS / "numpy_table.py", *extra]
        files.archive_with_handler(run.peer_store, one.name, run.model, _peer_handler(one), peer_extra)
    return model


def _peer_handler(comparison: Comparison) -> Path:
    return _PEER_HANDLERS / ("persia_handler.py" if comparison.persia_bytes else "flat_handler.py")


def _start(
    run: Files, comparisons: Sequence[Comparison], peer_environment: Path | None, stack: ExitStack
) -> dict[str, tuple[Process, str]]:
    """Process and address of each server, by its name."""
    servers = {OURS: stack.enter_context(deployment.satrap_up(run, _SHARDS))}
    if peer_environment is not None:
        workers = {one.name: one.workers for one in comparisons}
        peer = torchserve.TorchServe(peer_environment, run.peer_store, workers, run.root / "torchserve")
        servers[PEER] = stack.enter_context(peer), peer.address
        peer.wait_until_ready(list(workers))
    return servers


def _sides(
    comparison: Comparison, workload: Workload, servers: Mapping[str, tuple[Process, str]]
) -> list[Side]:
    payloads = [prediction_request(comparison.name, comparison.inputs(one)) for one in workload.requests]
    sides = [
        Side(name, [process], PredictCaller, address, payloads)
        for name, (process, address) in servers.items()
    ]
    if comparison.persia_bytes:
        process, address = servers[OURS]
        arrow = [prediction_request(comparison.name, {"batch": one.arrow()}) for one in workload.requests]
        sides.insert(1, Side(ARROW, [process], PredictCaller, address, arrow))
    return sides


def _check(client: ClientProcess, side: Side, workload: Workload, model: torch.jit.ScriptModule) -> float:
    """The greatest difference of a side's answers from the model's."""
    answers = client.answers(Job(side.connect, side.address, side.payloads))
    greatest = 0.0
    for request, answer in zip(workload.requests, answers, strict=True):
        expected = probabilities(model, request.dense, workload.pooled(request))
        greatest = max(greatest, float(np.abs(parse_answer(answer) - expected).max()))
    if greatest > _TOLERANCE:
        raise WrongAnswerError(f"{side.name} answers up to {greatest:.2g} beside what the model says")
    return greatest


def _answer_bytes(client: ClientProcess, side: Side) -> int:
    return len(client.answers(Job(side.connect, side.address, side.payloads[:1]))[0])


def _stages(
    run: Files, workload: Workload, headline: Comparison, servers: Sequence[str]
) -> dict[str, Mapping[str, float]]:
    payloads = run.root / "payloads"
    payloads.mkdir()
    for number, request in enumerate(workload.requests):
        message = prediction_request(headline.name, headline.inputs(request))
        (payloads / f"{number:03}").write_bytes(message)
    directory = run.handler_directory(headline.name)
    stages: dict[str, Mapping[str, float]] = {}
    with deployment.embedding_servers(run, _SHARDS) as (_, shards):
        environ = {
            **os.environ,
            "SATRAP_SHARDS": ",".join(shards),
            "PERSIA_GLOBAL_CONFIG": str(run.global_config),
            "PERSIA_EMBEDDING_CONFIG": str(run.embedding_config),
        }
        stages[OURS] = measure_stages(_OUR_HANDLER, directory, payloads, environ)
    if PEER in servers:
        stages[PEER] = measure_stages(_peer_handler(headline), directory, payloads, os.environ)
    return stages
