"""The process: ports, health, the first load, and the end."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from satrap import rpc
from satrap.config import EmbeddingServerConfig
from satrap.embedding_server.loading import LoadCancelled, LoadProgress
from satrap.embedding_server.service import EmbeddingService
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.embedding_server.tables import RowDType
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.protos import embedding_pb2, embedding_pb2_grpc

__all__ = ["EmbeddingServerSettings", "run"]

log = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0
"""How long calls in flight may take to end after a stop."""

_SERVICE = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name


@dataclass(frozen=True)
class EmbeddingServerSettings:
    """One shard's server: this is shard `replica_index` of `replica_size`.

    Port 0 picks a free port. `unix_address` (`unix:PATH` or `unix-abstract:NAME`) is listened on besides: the
    cheaper way for processes of this machine.

    Tables lie in `table_directory`, in a folder of this user, `namespace` and shard; members of `table_group` (a name
    or number) may read them. They stay when the server ends, however it ends, unless `purge` is set, and are taken
    over by the next one if they are of the same `checkpoint` and `config_digest`. Without a `checkpoint` whatever is
    there is served, or nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8888
    replica_index: int = 0
    replica_size: int = 1
    checkpoint: Path | None = None
    row_dtype: RowDType = "float32"
    load_threads: int = 2
    rpc_threads: int = 4
    unix_address: str | None = None
    table_directory: Path = Path(EmbeddingServerConfig().table_directory)
    namespace: str = "default"
    table_group: str | None = None
    config_digest: str = ""
    purge: bool = False


def run(
    settings: EmbeddingServerSettings,
    stop: threading.Event,
    on_ready: Callable[[str], None],
    on_progress: Callable[[float, int], None] = lambda fraction, rows: None,
) -> None:
    """Serve until `stop` is set.

    It listens at once, so that Status and health can tell how far the load is; `on_ready` gets the line with the
    address, once, when lookups are answered. `on_progress` gets the loaded fraction (0 to 1) and the rows so far.
    Both are called on the calling thread.

    Raises:
        CheckpointError: the checkpoint is refused.
        UnavailableError: the address is taken.
        TableHeldError: another server has this shard's tables.
        TableFolderError: the table directory cannot be used.
        NoSpaceError: there is no memory for the tables.
    """
    owner = ShardRoute(settings.replica_index, settings.replica_size)
    place = TablePlace(settings.table_directory, settings.namespace, settings.table_group)
    directory = TableDirectory(place, owner)
    try:
        state = ShardState(directory, settings.row_dtype, settings.load_threads, settings.config_digest)
        try:
            _serve(settings, directory, state, stop, on_ready, on_progress)
        finally:
            state.close()
    finally:
        if settings.purge:
            directory.purge()
        else:
            directory.close()


def _serve(
    settings: EmbeddingServerSettings,
    directory: TableDirectory,
    state: ShardState,
    stop: threading.Event,
    on_ready: Callable[[str], None],
    on_progress: Callable[[float, int], None],
) -> None:
    server = rpc.server(settings.rpc_threads)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(EmbeddingService(state, stop), server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    _set_health(checks, health_pb2.HealthCheckResponse.NOT_SERVING)
    port = rpc.listen(server, rpc.address(settings.host, settings.port))
    if settings.unix_address is not None:
        rpc.listen(server, settings.unix_address)
    server.start()
    directory.announce(rpc.address(settings.host, port))
    try:
        _load_first(settings, state, stop, on_progress)
        if not stop.is_set():
            _set_health(checks, health_pb2.HealthCheckResponse.SERVING)
            on_ready(
                f"satrap embedding-server ready on {rpc.address(settings.host, port)}: "
                f"shard {settings.replica_index} of "
                f"{settings.replica_size}, {state.generation().rows:,} rows"
            )
            stop.wait()
    finally:
        checks.enter_graceful_shutdown()
        server.stop(_GRACE_SECONDS).wait()


def _load_first(
    settings: EmbeddingServerSettings,
    state: ShardState,
    stop: threading.Event,
    on_progress: Callable[[float, int], None],
) -> None:
    def progressed(progress: LoadProgress) -> None:
        on_progress(progress.fraction, progress.rows)

    try:
        generation = state.start(settings.checkpoint, progressed, stop)
    except LoadCancelled:
        log.info("stopped while %s was being loaded", settings.checkpoint)
        return
    for warning in generation.warnings:
        log.warning("%s", warning)


def _set_health(checks: health.HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
    for service in ("", _SERVICE):
        checks.set(service, status)
