"""`satrap up`: everything on this machine."""

import dataclasses
import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from satrap.cli import options
from satrap.cli.serving_flags import ServingFlags
from satrap.cli.serving_settings import serving_settings
from satrap.errors import InvalidInputError
from satrap.signals import stop_on_eof, stop_on_signals
from satrap.supervisor import Child, Supervisor

__all__ = ["ready_line", "serving_ports", "shard_count", "up"]

_STOP_MARGIN_SECONDS = 10.0
"""What a child may take beyond its own drain before it is killed."""


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


def serving_ports(line: str) -> dict[str, int]:
    """The ports of serving's ready line by the names of their APIs; a Unix socket has none."""
    found = re.findall(r"(\S+):(\d+) \(([^)]+)\)", line)
    return {name: int(port) for host, port, name in found if not host.startswith("unix:")}


def up(
    model_store: options.ModelStore = None,
    global_config: options.GlobalConfigPath = None,
    embedding_config: options.EmbeddingConfigPath = None,
    checkpoint: options.Checkpoint = None,
    packets: options.Packets = None,
    ts_config: options.TsConfig = None,
    models: options.Models = None,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards", min=1, help="Embedding servers to start; otherwise as many as infer_config lists."
        ),
    ] = None,
    host: options.ServingHost = None,
    grpc_inference_port: options.GrpcInferencePort = None,
    grpc_management_port: options.GrpcManagementPort = None,
    rest_inference_port: options.RestInferencePort = None,
    rest_management_port: options.RestManagementPort = None,
    metrics_port: options.MetricsPort = None,
    ncs: options.Ncs = False,
    token_auth: options.TokenAuth = None,
    model_api: options.ModelApi = None,
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
    flags = ServingFlags(
        model_store=model_store,
        models=models,
        host=host,
        grpc_inference_port=grpc_inference_port,
        grpc_management_port=grpc_management_port,
        rest_inference_port=rest_inference_port,
        rest_management_port=rest_management_port,
        metrics_port=metrics_port,
        ncs=ncs,
        token_auth=token_auth,
        model_api=model_api,
        insecure=insecure,
        global_config=global_config,
        embedding_config=embedding_config,
    )
    serving_settings(flags, ts_config)  # what cannot be served is said before anything starts
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

    flags = dataclasses.replace(flags, shards=",".join(addresses))
    frontend = Child(
        "serving",
        _serving(flags, ts_config),
        command_after=lambda line: _serving(flags.with_ports(serving_ports(line)), ts_config),
    )
    supervisor = Supervisor([*children, frontend], stop)
    supervisor.run(
        lambda lines: print(ready_line(lines), flush=True),
        grace_seconds=config.serving.drain_seconds + _STOP_MARGIN_SECONDS,
    )


def _serving(flags: ServingFlags, ts_config: Path | None) -> list[str]:
    return _command("serving", *_flags(("--ts-config", ts_config)), *flags.words())


def _flags(*pairs: tuple[str, str | os.PathLike[str] | None]) -> list[str]:
    return [word for flag, value in pairs if value is not None for word in (flag, os.fspath(value))]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "satrap.cli", *words, "--exit-with-parent"]
