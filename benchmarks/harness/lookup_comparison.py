"""`satrap middleware` with one embedding server, called as PERSIA's worker is: batches of ids in, tensors out."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from harness import deployment, files
from harness.clients import ClientProcess, Job
from harness.files import Files
from harness.lookups import LookupCaller
from harness.measure import Plan, Row, Side, WrongAnswerError, measure_row
from harness.predict import PredictCaller, prediction_request
from harness.workload import Shape, Workload

__all__ = ["CLIENTS", "OURS", "compare_lookups"]

CLIENTS = (1, 2, 4)
OURS, ECHO = "satrap middleware", "echo"

_RELATIVE, _ABSOLUTE = 1e-3, 2e-3
"""float16 of a sum whose order is not given."""


def compare_lookups(
    root: Path, shape: Shape, seed: int, plan: Plan, on_progress: Callable[[str], None]
) -> Row:
    """Write a checkpoint under `root`, start both servers, compare answers with the table, measure, stop.

    Raises:
        WrongAnswerError: an answer differs from the table's sums.
        ChildFailedError: a server does not start, or ends.
    """
    on_progress(f"making a table of {shape.rows:,} rows")
    root.mkdir()
    run = Files(root)
    workload = Workload(shape, seed)
    files.write_embeddings(run, workload)
    deployment.write_global_config(run, {})
    payloads = [request.persia(dense=False) for request in workload.requests]
    with ExitStack() as stack:
        client = stack.enter_context(ClientProcess())
        on_progress("starting an embedding server and the middleware")
        shards, addresses = stack.enter_context(deployment.embedding_servers(run, 1))
        middleware, address = stack.enter_context(deployment.middleware(run, addresses))
        ours = Side(OURS, [middleware, *shards], LookupCaller, address, payloads)
        answers = client.answers(Job(ours.connect, ours.address, ours.payloads))
        for request, answer in zip(workload.requests, answers, strict=True):
            expected = np.concatenate(workload.pooled(request)).reshape(-1)
            if not np.allclose(np.frombuffer(answer, np.float16), expected, _RELATIVE, _ABSOLUTE):
                raise WrongAnswerError(f"{OURS} answers other sums than the table has")
        echo, echo_address = stack.enter_context(deployment.echo_server(run, len(answers[0])))
        requests = [prediction_request("echo", {"batch": payload}) for payload in payloads]
        sides = [ours, Side(ECHO, [echo], PredictCaller, echo_address, requests)]
        ids = f"{shape.samples} x {shape.features} x {shape.ids_per_sample} ids"
        return measure_row(
            f"Lookups: {ids}, {shape.rows:,} rows, 1 shard", sides, CLIENTS, plan, client, on_progress
        )
