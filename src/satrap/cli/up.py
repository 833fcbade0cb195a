"""`satrap up`: everything on this machine."""

import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from satrap.cli import options
from satrap.errors import InvalidInputError
from satrap.signals import stop_on_eof, stop_on_signals
from satrap.supervisor import Child, Supervisor

__all__ = ["ready_line", "serving_ports", "shard_count", "up"]

_STOP_MARGIN_SECONDS = 10.0
"""What a child may take beyond its own drain before it is killed."""

SERVING_PORTS = ("grpc-inference", "grpc-management", "rest-inference", "rest-management", "metrics")
"""Serving's ports, in the order of its ready line."""


def shard_count(flag: int | None, servers: Sequence[str]) -> int:
    """How many embedding servers to start: the flag, otherwise as many as the config lists, otherwise one."""
    return flag if flag is not None else max(len(servers), 1)


def ready_line(lines: Sequence[str]) -> str:
    """The supervisor's line from its children's: addresses of serving, models, shards, rows."""
    rows = sum(
        int(found[1].replace(",", "")) for line in lines if (found := re.search(r"([\d,]+) rows$", line))
    )
    shards = sum("embedding-server" in line for line in lines)
    serving = next(
        (line.removeprefix("satrap serving ") for line in lines if line.startswith("satrap serving ")), ""
    )
    return f"satrap up {serving}, {shards} {'shard' if shards == 1 else 'shards'}, {rows:,} rows"


def serving_ports(line: str) -> tuple[int, ...]:
    """The ports of serving's ready line, in its order."""
    return tuple(int(port) for port in re.findall(r":(\d+) \(", line))


def up(
    model_store: options.ModelStore = None,
    global_config: options.GlobalConfigPath = None,
    embedding_config: options.EmbeddingConfigPath = None,
    checkpoint: options.Checkpoint = None,
    packets: options.Packets = None,
    models: options.Models = None,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards", min=1, help="Embedding servers to start; otherwise as many as infer_config lists."
        ),
    ] = None,
    host: options.Host = "127.0.0.1",
    grpc_inference_port: options.GrpcInferencePort = 7070,
    grpc_management_port: options.GrpcManagementPort = 7071,
    rest_inference_port: options.RestInferencePort = 8080,
    rest_management_port: options.RestManagementPort = 8081,
    metrics_port: options.MetricsPort = 8082,
    ncs: options.Ncs = False,
    table_directory: options.TableDirectory = None,
    purge: options.Purge = False,
    insecure: options.Insecure = False,
    exit_with_parent: options.ExitWithParent = False,
) -> None:
    """Run embedding servers and serving on this machine, supervised: what dies is started again.

    With --packets the embedding servers apply a trainer's packets as they are published.

    Example: satrap up --embedding-config embedding_config.yml --checkpoint checkpoint --packets packets
    --model-store models --models all
    """
    from satrap.rpc import check_bind_host

    check_bind_host(host, insecure=insecure)
    config = options.read_global_config(global_config)
    options.require_embedding_config(embedding_config)
    if checkpoint is not None and "://" not in checkpoint and not Path(checkpoint).is_dir():
        raise InvalidInputError(f"--checkpoint {checkpoint}: no such directory")
    count = shard_count(shards, config.common_config.infer_config.servers)
    stop = threading.Event()
    stop_on_signals(stop)
    if exit_with_parent:
        stop_on_eof(stop)
    # Abstract sockets: a shard that is started again has its old address, and nothing is left behind.
    token = os.urandom(8).hex()
    addresses = [f"unix-abstract:satrap-{token}-shard-{index}" for index in range(count)]
    configs = _flags(("--global-config", global_config), ("--embedding-config", embedding_config))
    children = [
        Child(
            f"embedding-server {index}",
            _command(
                "embedding-server",
                *configs,
                *_flags(("--checkpoint", checkpoint), ("--unix-address", addresses[index])),
                *_flags(("--packets", packets), ("--table-directory", table_directory)),
                *(["--purge"] if purge else []),
                *("--replica-index", str(index), "--replica-size", str(count), "--port", "0"),
            ),
        )
        for index in range(count)
    ]

    def serving(*ports: int) -> list[str]:
        flags = (f"--{name}-port" for name in SERVING_PORTS)
        return _command(
            "serving",
            *configs,
            *_flags(("--model-store", model_store), ("--models", models), ("--host", host)),
            *("--shards", ",".join(addresses)),
            *(word for pair in zip(flags, map(str, ports), strict=False) for word in pair),
            *(["--ncs"] if ncs else []),
            *(["--insecure"] if insecure else []),
        )

    frontend = Child(
        "serving",
        serving(
            grpc_inference_port, grpc_management_port, rest_inference_port, rest_management_port, metrics_port
        ),
        command_after=lambda line: serving(*serving_ports(line)),
    )
    supervisor = Supervisor([*children, frontend], stop)
    supervisor.run(
        lambda lines: print(ready_line(lines), flush=True),
        grace_seconds=config.serving.drain_seconds + _STOP_MARGIN_SECONDS,
    )


def _flags(*pairs: tuple[str, str | os.PathLike[str] | None]) -> list[str]:
    return [word for flag, value in pairs if value is not None for word in (flag, os.fspath(value))]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "satrap.cli", *words, "--exit-with-parent"]
