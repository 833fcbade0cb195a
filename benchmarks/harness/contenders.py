"""satrap's serving and TorchServe, each started on a model store, and managed by the same gRPC calls."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from harness.processes import Process
from peers import torchserve
from satrap.protos import management_pb2, management_pb2_grpc

__all__ = ["OURS", "PEER", "Management", "Running", "Start", "satrap_serving", "torchserve_starter"]

OURS, PEER = "satrap", "TorchServe"
_READY_SECONDS = 120.0
_CALL_SECONDS = 120.0


class Management:
    """TorchServe's management API. A context manager."""

    def __init__(self, address: str) -> None:
        """Only remembers; `__enter__` opens."""
        self._address = address

    def __enter__(self) -> Self:
        """Open the channel."""
        self._channel = grpc.insecure_channel(self._address)
        self._stub = management_pb2_grpc.ManagementAPIsServiceStub(self._channel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self._channel.close()

    def register(self, archive: str, *, batch_size: int = 1, max_batch_delay: int = 0) -> None:
        """Register an archive with one worker, and wait until it is ready."""
        self._stub.RegisterModel(
            management_pb2.RegisterModelRequest(
                url=archive,
                initial_workers=1,
                synchronous=True,
                batch_size=batch_size,
                max_batch_delay=max_batch_delay,
            ),
            timeout=_CALL_SECONDS,
        )

    def set_default(self, model: str, version: str) -> None:
        """Make a version the default."""
        request = management_pb2.SetDefaultRequest(model_name=model, model_version=version)
        self._stub.SetDefault(request, timeout=_CALL_SECONDS)

    def unregister(self, model: str, version: str) -> None:
        """Take a version out."""
        request = management_pb2.UnregisterModelRequest(model_name=model, model_version=version)
        self._stub.UnregisterModel(request, timeout=_CALL_SECONDS)


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    process: Process
    inference: str
    management: str


Start = Callable[[Path, Path, Mapping[str, str]], AbstractContextManager[Running]]
"""Starts a server: on a model store, in a directory of its own, with archives (by model) that get one worker each."""


@contextmanager
def satrap_serving(store: Path, directory: Path, models: Mapping[str, str]) -> Iterator[Running]:
    """`satrap serving` on ports that the kernel picks."""
    directory.mkdir(parents=True)
    ports = ("grpc-inference", "grpc-management", "rest-inference", "rest-management", "metrics")
    flags = [word for port in ports for word in (f"--{port}-port", "0")]
    named = ",".join(f"{name}={archive}" for name, archive in models.items())
    with Process(
        "satrap serving",
        [
            *(Path(sys.executable).with_name("satrap"), "serving", "--exit-with-parent", "--ncs"),
            *("--model-store", store, *flags, *(("--models", named) if named else ())),
        ],
        log=directory / "log",
    ) as process:
        line = process.wait_for_line("ready on", _READY_SECONDS)
        places = {name: address for address, name in re.findall(r"(\S+:\d+) \(([^)]+)\)", line)}
        yield Running(process, places["inference"], places["management"])


def torchserve_starter(environment: Path) -> Start:
    """TorchServe of that virtual environment, tuned as in `peers.torchserve`."""

    @contextmanager
    def start(store: Path, directory: Path, models: Mapping[str, str]) -> Iterator[Running]:
        settings = {"enable_model_api": "true"}
        if models:
            settings["load_models"] = ",".join(f"{name}={archive}" for name, archive in models.items())
            settings["default_workers_per_model"] = "1"
        server = torchserve.TorchServe(environment, store, {}, directory, settings=settings)
        with server:
            server.wait_until_listening()
            yield Running(server, server.address, server.management_address)

    return start
