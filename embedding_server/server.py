"""The process: ports, health, the first load, and the end."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from satrap import rpc
from satrap.config import EmbeddingServerConfig, UpdatesConfig
from satrap.embedding_server.checkpoint_folder import CheckpointFolder
from satrap.embedding_server.checkpoint_watch import CheckpointWatch
from satrap.embedding_server.loading import LoadCancelled, LoadProgress
from satrap.embedding_server.service import EmbeddingService
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import QUARANTINE_FOLDER, TableDirectory, TablePlace
from satrap.embedding_server.tables import RowDType
from satrap.embedding_server.target import Target
from satrap.embedding_server.updates.follower import Follower
from satrap.embedding_server.updates.following import Following
from satrap.embedding_server.updates.quarantine import Quarantine
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.metrics import MetricsServer
from satrap.protos import embedding_pb2, embedding_pb2_grpc
from satrap.storage import StorageKind, open_storage
from satrap.tls import Tls

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
    over by the next one if they are of the same `checkpoint` and `config_digest`. `checkpoint` is a path or a URL, of
    one or of a folder of them: of a folder the newest is loaded, and newer ones while it serves. Without a `checkpoint`
    whatever is there is served, or nothing.

    `packets` is the directory, a path or a URL, whose packets are applied while it serves, by the rules of `updates`;
    empty: none. `storage` says what a path without a scheme means. `dims` are those of the embedding config, None if it
    is not known.

    Metrics are told at `metrics_port` (0 picks a free one), counted up by the replica index; None: not at all.

    With `tls` its ports are for those who show a certificate of that authority.
    """

    host: str = "127.0.0.1"
    port: int = 8888
    replica_index: int = 0
    replica_size: int = 1
    checkpoint: str | Path | None = None
    row_dtype: RowDType = "float32"
    load_threads: int = 2
    rpc_threads: int = 4
    unix_address: str | None = None
    table_directory: Path = Path(EmbeddingServerConfig().table_directory)
    namespace: str = "default"
    table_group: str | None = None
    config_digest: str = ""
    purge: bool = False
    packets: str = ""
    storage: StorageKind = "local"
    updates: UpdatesConfig = field(default_factory=UpdatesConfig)
    dims: frozenset[int] | None = None
    metrics_port: int | None = None
    tls: Tls | None = None


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
        CheckpointError, UpdateError: the checkpoint is refused.
        StorageError: it cannot be read.
        UnavailableError: the address is taken.
        TableHeldError: another server has this shard's tables.
        TableFolderError: the table directory cannot be used.
        NoSpaceError: there is no memory for the tables.
    """
    owner = ShardRoute(settings.replica_index, settings.replica_size)
    place = TablePlace(settings.table_directory, settings.namespace, settings.table_group)
    directory = TableDirectory(place, owner)
    try:
        state = ShardState(
            directory,
            settings.row_dtype,
            settings.load_threads,
            settings.config_digest,
            settings.updates.persia_replay_margin_seconds,
            settings.updates.checkpoint_switch,
        )
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
    checks = health.HealthServicer()
    follower = _follower(settings, directory, state, checks)
    watch = _checkpoint_watch(settings, state, follower)
    service = EmbeddingService(state, stop, follower)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    _set_health(checks, health_pb2.HealthCheckResponse.NOT_SERVING)
    port = rpc.listen(server, rpc.address(settings.host, settings.port), settings.tls)
    if settings.unix_address is not None:
        rpc.listen(server, settings.unix_address)
    metrics = _metrics(settings, service)
    server.start()
    directory.announce(rpc.address(settings.host, port))
    try:
        _load_first(settings, state, stop, on_progress, follower)
        if follower is not None and not stop.is_set():
            follower.start()
            follower.wait_until_settled(stop)
        elif not stop.is_set():
            _set_health(checks, health_pb2.HealthCheckResponse.SERVING)
        if not stop.is_set():
            on_ready(
                f"satrap embedding-server ready on {rpc.address(settings.host, port)}: "
                f"shard {settings.replica_index} of "
                f"{settings.replica_size}, {state.generation().rows:,} rows"
            )
            if watch is not None:
                watch.start()
            stop.wait()
    finally:
        if watch is not None:
            watch.cancel()  # the follower's thread may wait for a load
        if follower is not None:
            follower.stop()  # a load that is catching up ends with it
        if watch is not None:
            watch.stop()
        checks.enter_graceful_shutdown()
        server.stop(_GRACE_SECONDS).wait()
        if metrics is not None:
            metrics.close()


def _metrics(settings: EmbeddingServerSettings, service: EmbeddingService) -> MetricsServer | None:
    """What tells the metrics, already listening.

    Raises:
        UnavailableError: the address is taken.
    """
    if settings.metrics_port is None:
        return None
    port = settings.metrics_port and settings.metrics_port + settings.replica_index
    metrics = MetricsServer(settings.host, port, service.status, settings.namespace, settings.tls)
    scheme = "http" if settings.tls is None else "https"
    log.info("metrics at %s://%s/metrics", scheme, rpc.address(settings.host, metrics.start()))
    return metrics


def _follower(
    settings: EmbeddingServerSettings,
    directory: TableDirectory,
    state: ShardState,
    checks: health.HealthServicer,
) -> Follower | None:
    """What follows the packets, not started yet; health is what it says."""
    if not settings.packets:
        return None

    def ready(is_ready: bool) -> None:
        answers = health_pb2.HealthCheckResponse
        _set_health(checks, answers.SERVING if is_ready else answers.NOT_SERVING)

    return Follower(
        state,
        Following(
            open_storage(settings.packets, settings.storage),
            settings.updates,
            settings.config_digest,
            settings.dims,
        ),
        Quarantine(directory.folder / QUARANTINE_FOLDER),
        on_ready=ready,
    )


def _checkpoint_watch(
    settings: EmbeddingServerSettings, state: ShardState, follower: Follower | None
) -> CheckpointWatch | None:
    """What loads newer checkpoints, and older ones that a hold needs; not started yet. None if none is named."""
    if settings.checkpoint is None:
        return None
    folder = CheckpointFolder(settings.checkpoint, state.checkpoints)
    if follower is None:
        poll_seconds = settings.updates.poll_seconds
        return None if folder.single else CheckpointWatch(folder, state, poll_seconds=poll_seconds)
    state.holds = lambda: follower.holds
    watch = CheckpointWatch(
        folder,
        state,
        poll_seconds=settings.updates.poll_seconds,
        catch_up=follower.catch_up,
        on_change=follower.wake,
    )
    follower.checkpoints = watch
    return watch


def _load_first(
    settings: EmbeddingServerSettings,
    state: ShardState,
    stop: threading.Event,
    on_progress: Callable[[float, int], None],
    follower: Follower | None,
) -> None:
    def progressed(progress: LoadProgress) -> None:
        on_progress(progress.fraction, progress.rows)

    def catch_up(target: Target) -> None:
        # Tables that were served already go on being served at once; those just loaded wait for what came since.
        if follower is not None and state.snapshot.started:
            follower.catch_up_if_possible(target, stop.is_set)

    try:
        if follower is not None:
            follower.read_holds()
        generation = state.start(settings.checkpoint, progressed, stop, catch_up)
    except LoadCancelled:
        log.info("stopped while %s was being loaded", settings.checkpoint)
        return
    for warning in generation.warnings:
        log.warning("%s", warning)


def _set_health(checks: health.HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
    for service in ("", _SERVICE):
        checks.set(service, status)
