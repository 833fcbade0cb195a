"""The commands that run one process: an embedding server, a middleware, a serving frontend."""

import threading
from typing import Annotated

import typer

from satrap.allocator import keep_freed_memory
from satrap.cli import options
from satrap.cli.serving_flags import ServingFlags
from satrap.cli.serving_settings import serving_settings
from satrap.errors import InvalidInputError
from satrap.signals import stop_on_eof, stop_on_signals

__all__ = ["announce", "begin_process", "embedding_server", "middleware", "serving"]


def announce(line: str) -> None:
    """The one line on standard output, which a supervisor or a script waits for."""
    print(line, flush=True)


def begin_process(exit_with_parent: bool) -> threading.Event:
    """What every server process does first; returns what its stop sets."""
    keep_freed_memory()
    stop = threading.Event()
    stop_on_signals(stop)
    if exit_with_parent:
        stop_on_eof(stop)
    return stop


def embedding_server(
    global_config: options.GlobalConfigPath = None,
    embedding_config: options.EmbeddingConfigPath = None,
    replica_index: Annotated[int, typer.Option(min=0, help="Which shard this is, from 0.")] = 0,
    replica_size: Annotated[int, typer.Option(min=1, help="How many shards there are.")] = 1,
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8888,
    checkpoint: options.Checkpoint = None,
    packets: options.Packets = None,
    unix_address: Annotated[
        str | None,
        typer.Option(
            help="Also listen on unix:PATH or unix-abstract:NAME: cheaper for processes of this machine."
        ),
    ] = None,
    table_directory: options.TableDirectory = None,
    purge: options.Purge = False,
    insecure: options.Insecure = False,
    exit_with_parent: options.ExitWithParent = False,
) -> None:
    """Hold one shard of the embeddings and answer lookups.

    The tables stay in memory when the server ends, and the next one takes them over; --purge removes them. With
    --packets it applies a trainer's packets as they are published.

    Example: satrap embedding-server --replica-index 0 --replica-size 2 --port 8888 --checkpoint /data/checkpoint
    --packets /data/packets
    """
    from satrap.cli.progress import LoadProgress
    from satrap.embedding_server.server import EmbeddingServerSettings, run
    from satrap.rpc import check_bind_host

    config = options.read_global_config(global_config)
    tls = config.internal_tls.files
    check_bind_host(host, insecure=insecure, tls=tls)
    if replica_index >= replica_size:
        raise InvalidInputError(
            f"--replica-index {replica_index} is not below --replica-size {replica_size}: shards are numbered from 0"
        )
    if unix_address is not None and not unix_address.startswith(("unix:", "unix-abstract:")):
        raise InvalidInputError(f"--unix-address {unix_address}: begin it with unix: or unix-abstract:")
    features = options.read_embedding_config(embedding_config)
    named = config.common_config.infer_config.embedding_checkpoint
    stop = begin_process(exit_with_parent)
    with LoadProgress(f"shard {replica_index} of {replica_size}") as progress:

        def ready(line: str) -> None:
            progress.close()
            announce(line)

        run(
            EmbeddingServerSettings(
                host=host,
                port=port,
                replica_index=replica_index,
                replica_size=replica_size,
                checkpoint=checkpoint or named or None,
                row_dtype=config.embedding_server.row_dtype,
                load_threads=config.embedding_server.load_threads,
                rpc_threads=config.embedding_server.rpc_threads,
                unix_address=unix_address,
                table_directory=options.table_directory_of(table_directory, config),
                namespace=config.embedding_server.namespace,
                table_group=config.embedding_server.table_group,
                config_digest=features.digest if features is not None else "",
                purge=purge,
                packets=options.packet_directory(packets, config),
                storage=config.embedding_parameter_server_config.storage,
                updates=config.updates,
                metrics_port=config.embedding_server.metrics_port,
                dims=frozenset(slot.dim for slot in features.slots.values())
                if features is not None
                else None,
                tls=tls,
            ),
            stop,
            ready,
            on_progress=progress.update,
        )


def middleware(
    global_config: options.GlobalConfigPath = None,
    embedding_config: options.EmbeddingConfigPath = None,
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8887,
    shards: options.Shards = None,
    insecure: options.Insecure = False,
    exit_with_parent: options.ExitWithParent = False,
) -> None:
    """Turn batches of ids into tensors, for clients that do not look up in their own process.

    Example: satrap middleware --port 8887 --global-config global_config.yaml --embedding-config embedding_config.yml
    """
    from satrap.middleware.server import MiddlewareSettings, run
    from satrap.rpc import check_bind_host

    config = options.read_global_config(global_config)
    tls = config.internal_tls.files
    check_bind_host(host, insecure=insecure, tls=tls)
    run(
        MiddlewareSettings(
            embedding_config=options.require_embedding_config(embedding_config),
            shards=options.shard_addresses(shards, config),
            host=host,
            port=port,
            lookup_timeout=config.middleware.lookup_timeout_seconds,
            rpc_threads=config.middleware.rpc_threads,
            local_lookup=config.middleware.local_lookup,
            orphan_grace_seconds=config.middleware.orphan_grace_seconds,
            tls=tls,
        ),
        begin_process(exit_with_parent),
        announce,
    )


def serving(
    model_store: options.ModelStore = None,
    global_config: options.GlobalConfigPath = None,
    embedding_config: options.EmbeddingConfigPath = None,
    ts_config: options.TsConfig = None,
    models: options.Models = None,
    host: options.ServingHost = None,
    grpc_inference_port: options.GrpcInferencePort = None,
    grpc_management_port: options.GrpcManagementPort = None,
    rest_inference_port: options.RestInferencePort = None,
    rest_management_port: options.RestManagementPort = None,
    metrics_port: options.MetricsPort = None,
    ncs: options.Ncs = False,
    token_auth: options.TokenAuth = None,
    model_api: options.ModelApi = None,
    shards: options.Shards = None,
    insecure: options.Insecure = False,
    exit_with_parent: options.ExitWithParent = False,
) -> None:
    """Serve models from .mar archives over TorchServe's gRPC and REST.

    Example: satrap serving --model-store model_store --models deepctr.mar --embedding-config embedding_config.yml
    """
    from satrap.serving.forks import launched_template

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
        shards=shards,
    )
    settings = serving_settings(flags, ts_config)
    stop = begin_process(exit_with_parent)
    with launched_template() as template:  # it imports torch while this process imports the rest
        from satrap.serving.server import run

        run(settings, stop, announce, template)
