"""satrap's processes, started as a user starts them, on ports that the kernel picks."""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.files import Files
from harness.processes import Process

__all__ = ["address_of", "echo_server", "embedding_servers", "middleware", "satrap_up", "write_global_config"]

_READY_SECONDS = 120.0
_PORTS = ("grpc-inference", "grpc-management", "rest-inference", "rest-management", "metrics")


def write_global_config(files: Files, workers: Mapping[str, int]) -> None:
    """Say how many workers each model has."""
    models = "".join(f"  {name}: {{workers: {count}}}\n" for name, count in workers.items())
    files.global_config.write_text(f"models:\n{models}" if models else "models: {}\n")


def address_of(ready_line: str) -> str:
    """The first address that a ready line names."""
    found = re.search(r"ready on (\S+?:\d+)", ready_line)
    if found is None:
        raise ValueError(f"no address in {ready_line!r}")
    return found[1]


@contextmanager
def table_directory() -> Iterator[Path]:
    """A table directory of its own in shared memory, removed at the end: no run meets another's tables."""
    with tempfile.TemporaryDirectory(prefix="satrap-bench-", dir="/dev/shm") as folder:
        yield Path(folder)


@contextmanager
def satrap_up(files: Files, shards: int) -> Iterator[tuple[Process, str]]:
    """All of satrap on this machine: the process and the address of `Predictions`."""
    with (
        table_directory() as tables,
        _satrap(
            files,
            "up",
            *("--checkpoint", files.checkpoint, "--shards", str(shards)),
            *("--model-store", files.store, "--models", "all"),
            *(word for port in _PORTS for word in (f"--{port}-port", "0")),
            *("--table-directory", tables),
        ) as process,
    ):
        yield process, address_of(process.wait_for_line("ready on", _READY_SECONDS))


@contextmanager
def embedding_servers(files: Files, shards: int) -> Iterator[tuple[list[Process], list[str]]]:
    """The embedding servers alone: processes, and their addresses in order."""
    with ExitStack() as stack:
        tables = stack.enter_context(table_directory())
        processes = [
            stack.enter_context(
                _satrap(
                    files,
                    "embedding-server",
                    *("--checkpoint", files.checkpoint, "--port", "0"),
                    *("--replica-index", str(index), "--replica-size", str(shards)),
                    *("--table-directory", tables),
                    name=f"embedding-server-{index}",
                )
            )
            for index in range(shards)
        ]
        yield processes, [address_of(one.wait_for_line("ready on", _READY_SECONDS)) for one in processes]


@contextmanager
def middleware(files: Files, shards: Sequence[str]) -> Iterator[tuple[Process, str]]:
    """`satrap middleware` over embedding servers: the process and its address."""
    with _satrap(files, "middleware", "--shards", ",".join(shards), "--port", "0") as process:
        yield process, address_of(process.wait_for_line("ready on", _READY_SECONDS))


@contextmanager
def echo_server(files: Files, answer_bytes: int) -> Iterator[tuple[Process, str]]:
    """A bare grpcio server that answers every `Predictions` with as many bytes: process and address."""
    script = Path(__file__).with_name("predict.py")
    with Process(
        "echo server", [sys.executable, script, str(answer_bytes)], log=files.root / "echo.log"
    ) as process:
        yield process, address_of(process.wait_for_line("ready on", _READY_SECONDS))


def _satrap(files: Files, command: str, *flags: str | Path, name: str = "") -> Process:
    return Process(
        f"satrap {command}",
        [
            *(Path(sys.executable).with_name("satrap"), command, "--exit-with-parent"),
            *("--global-config", files.global_config, "--embedding-config", files.embedding_config),
            *flags,
        ],
        log=files.root / f"{name or command}.log",
    )
