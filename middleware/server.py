"""`satrap middleware`: the middleware as a process of its own."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import satrap
from satrap import rpc
from satrap.batch import Bytes
from satrap.config import EmbeddingConfig
from satrap.errors import SatrapError
from satrap.middleware.assemble import Embedding, SumEmbedding
from satrap.middleware.error_details import to_metadata
from satrap.middleware.library import Middleware
from satrap.middleware.wire import batch_of_request, metadata_of_marks
from satrap.protos import middleware_pb2 as pb
from satrap.tls import Tls

__all__ = ["MiddlewareService", "MiddlewareSettings", "run"]

_GRACE_SECONDS = 5.0
"""How long calls in flight may take to end after a stop."""

_SERVICE = pb.DESCRIPTOR.services_by_name["MiddlewareService"].full_name


@dataclass(frozen=True)
class MiddlewareSettings:
    """One middleware server: `shards` are the embedding servers' addresses in order, port 0 picks a free port.

    `tls`: what it shows its clients and the embedding servers, and whom it believes.
    """

    embedding_config: EmbeddingConfig
    shards: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8887
    lookup_timeout: float = 5.0
    rpc_threads: int = 4
    local_lookup: bool = True
    orphan_grace_seconds: float = 5.0
    source: Path | str = "embedding config"
    tls: Tls | None = None


class MiddlewareService:
    """Answers lookups with a `Middleware`. Any thread may call."""

    def __init__(self, middleware: Middleware) -> None:
        """The caller closes the middleware."""
        self._middleware = middleware

    def add_to(self, server: grpc.Server) -> None:
        """Register the service's methods."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Lookup": grpc.unary_unary_rpc_method_handler(
                self.lookup,
                request_deserializer=batch_of_request,
                response_serializer=pb.LookupResponse.SerializeToString,
            ),
            "Status": grpc.unary_unary_rpc_method_handler(
                self.status,
                request_deserializer=pb.StatusRequest.FromString,
                response_serializer=pb.StatusResponse.SerializeToString,
            ),
        }
        server.add_registered_method_handlers(_SERVICE, methods)  # type: ignore[attr-defined]  # newer than the stubs

    def lookup(self, batch: Bytes, context: grpc.ServicerContext) -> pb.LookupResponse:
        """Tensors of a batch."""
        try:
            embeddings = self._middleware.lookup(batch)
        except SatrapError as error:
            context.set_trailing_metadata(to_metadata(error))
            context.abort(error.grpc_status, str(error))
        metadata = metadata_of_marks(is_stale=embeddings.is_stale, staleness_ms=embeddings.staleness_ms)
        if metadata:
            context.set_trailing_metadata(tuple(metadata))
        return pb.LookupResponse(features=[_message(embedding) for embedding in embeddings])

    def status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        """Whether every shard is ready, and what each says."""
        with rpc.ErrorsAsStatus(context):
            states = self._middleware.states()
            return pb.StatusResponse(
                ready=all(state.ready for state in states),
                shards=[
                    pb.ShardStatus(
                        replica_index=state.replica_index,
                        address=state.address,
                        ready=state.ready,
                        message=state.message,
                        way=state.way,
                        attached=pb.LookupTotals(**state.attached._asdict()),
                    )
                    for state in states
                ],
                version=satrap.__version__,
            )
        raise AssertionError("abort() raised")


def run(settings: MiddlewareSettings, stop: threading.Event, on_ready: Callable[[str], None]) -> None:
    """Serve until `stop` is set. Shards may come later: lookups that need one say so until it is there.

    Raises:
        ConfigError: the embedding config cannot be used.
        InvalidInputError: there are no shards.
        UnavailableError: the address is taken.
    """
    middleware = Middleware(
        settings.embedding_config,
        settings.shards,
        lookup_timeout=settings.lookup_timeout,
        coalesce=True,
        local=settings.local_lookup,
        orphan_grace_seconds=settings.orphan_grace_seconds,
        source=settings.source,
        tls=settings.tls,
    )
    server = rpc.server(settings.rpc_threads)
    MiddlewareService(middleware).add_to(server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = rpc.listen(server, rpc.address(settings.host, settings.port), settings.tls)
    with middleware:
        server.start()
        try:
            for service in ("", _SERVICE):
                checks.set(service, health_pb2.HealthCheckResponse.SERVING)
            shards = f"{len(settings.shards)} shard{'s' if len(settings.shards) != 1 else ''}"
            on_ready(f"satrap middleware ready on {rpc.address(settings.host, port)}: {shards}")
            stop.wait()
        finally:
            checks.enter_graceful_shutdown()
            server.stop(_GRACE_SECONDS).wait()


def _message(embedding: Embedding) -> pb.FeatureEmbedding:
    if isinstance(embedding, SumEmbedding):
        return pb.FeatureEmbedding(
            name=embedding.name, dim=embedding.dim, sum=pb.SumEmbedding(values=embedding.values.tobytes())
        )
    return pb.FeatureEmbedding(
        name=embedding.name,
        dim=embedding.dim,
        raw=pb.RawEmbedding(
            values=embedding.values.tobytes(),
            index=embedding.index.tobytes(),
            sample_id_num=embedding.sample_id_num.tobytes(),
            sample_fixed_size=embedding.sample_fixed_size,
        ),
    )
