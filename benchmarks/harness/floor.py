"""What no server can be faster than: the dense forward alone, and the gather of rows whose places are known."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from harness.workload import Request, Workload

__all__ = ["Floor", "forward_ms", "gather_ms"]

_REPEATS = 10


@dataclass(frozen=True)
class Floor:
    """The parts that any server of this workload has to pay, ms."""

    echo: float
    """p50 of a bare grpcio server that answers as many bytes."""
    forward: float
    gather: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.echo + self.forward + self.gather


def forward_ms(model: torch.jit.ScriptModule, workload: Workload) -> float:
    """Median time of one forward pass on tensors that are ready, with one torch thread."""
    torch.set_num_threads(1)
    inputs = {
        id(request): ([torch.tensor(request.dense)], [torch.tensor(one) for one in workload.pooled(request)])
        for request in workload.requests
    }

    def forward(request: Request) -> None:
        model(*inputs[id(request)])

    with torch.inference_mode():
        return _median_ms(forward, workload)


def gather_ms(workload: Workload) -> float:
    """Median time of `numpy.take` of one request's rows by number, into memory that is there already."""
    out = np.empty((workload.requests[0].row_numbers.size, workload.shape.dim), np.float32)
    flat = {id(request): request.row_numbers.reshape(-1) for request in workload.requests}

    def gather(request: Request) -> None:
        np.take(workload.rows, flat[id(request)], axis=0, out=out, mode="clip")

    return _median_ms(gather, workload)


def _median_ms(step: Callable[[Request], None], workload: Workload) -> float:
    times = []
    for _ in range(_REPEATS):
        for request in workload.requests:
            start = time.perf_counter()
            step(request)
            times.append(time.perf_counter() - start)
    return median(times[len(workload.requests) :]) * 1e3
