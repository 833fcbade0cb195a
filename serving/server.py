"""Runs a serving process: the event loop, its ports, the template, and the order of starting and stopping."""

import asyncio
import dataclasses
import functools
import gc
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import uvloop

from satrap import __version__, rpc
from satrap.errors import InvalidInputError, UnavailableError
from satrap.protos import inference_pb2_grpc, management_pb2_grpc
from satrap.serving.exposure import serving_tls
from satrap.serving.forks import Launched, Template
from satrap.serving.grpc_server.server import GrpcServer
from satrap.serving.inference_api import SERVICE, InferenceApi
from satrap.serving.listening import Address
from satrap.serving.management_api import ManagementApi
from satrap.serving.metrics.calls import CallLog
from satrap.serving.metrics.current import definitions_of, keep_current
from satrap.serving.metrics.server_metrics import ServerMetrics
from satrap.serving.model_service import ModelService
from satrap.serving.prediction_message import parse_request
from satrap.serving.request_ids import request_ids
from satrap.serving.rest.apis import rest_apis
from satrap.serving.rest.listener import Listener, bind
from satrap.serving.rest.unix_socket import UnixSocket
from satrap.serving.service_builder import build_model_service
from satrap.serving.settings import ServingSettings
from satrap.serving.startup import register_startup_models
from satrap.serving.token_interceptor import TokenInterceptor
from satrap.serving.tokens import Api, TokenAuthorization

__all__ = ["ServingSettings", "run"]

log = logging.getLogger("satrap.serving")

_BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel's own limit holds as well."""

_MESSAGE_BYTES = 64
"""More than a message has around its prediction: the limit is the prediction's, which workers check."""


def run(
    settings: ServingSettings,
    stop: threading.Event,
    on_ready: Callable[[str], None],
    launched: Launched | None = None,
) -> None:
    """Serve until `stop` is set, then drain and return. `on_ready` gets the ready line once.

    `launched` is a template that was started early, while the modules behind this one were imported; its owner ends it.

    Raises:
        InvalidInputError: a port cannot be had, or there is no such model store.
        SatrapError: a startup model that was named cannot be served.
    """
    store = settings.model_store
    if store is not None and not store.is_dir():
        raise InvalidInputError(f"the model store {store} is not a directory: make it, or name another")
    uvloop.run(_serve(settings, stop, on_ready, Template(launched)))


async def _serve(
    settings: ServingSettings, stop: threading.Event, on_ready: Callable[[str], None], template: Template
) -> None:
    definitions = definitions_of(settings.config)
    metrics = ServerMetrics(
        hostname=socket.gethostname(),
        mode=settings.config.metrics_mode,
        definitions=definitions,
        live=lambda: service.catalog.live_versions(),
    )
    service = build_model_service(settings, template, metrics, definitions.handlers)
    tokens = _tokens(settings)
    apis = _Apis(settings, metrics)
    stopped = asyncio.create_task(_until_set(stop))
    watched = asyncio.create_task(keep_current(metrics, settings.config))
    try:
        apis.add_grpc(service, tokens)
        apis.add_rest(service, tokens)
        if tokens is not None:  # the ports are ours: no other server's key file is overwritten
            tokens.open()
        if not await _start(settings, service, apis, stopped):
            return
        gc.freeze()  # what is there now stays: no collection needs to look at it while requests wait
        models = service.catalog.model_count()
        places = ", ".join(f"{address} ({name})" for name, address in apis.places)
        on_ready(f"satrap serving ready on {places}: {models} model{'' if models == 1 else 's'}")
        await stopped
        log.info("draining for at most %d s", settings.config.drain_seconds)
    finally:
        stopped.cancel()
        watched.cancel()
        await apis.stop()
        await service.close()
        await template.close()
        if tokens is not None:
            tokens.close()


class _Apis:
    """The servers of all APIs: their ports are taken first, and accept when the startup models are registered."""

    def __init__(self, settings: ServingSettings, metrics: ServerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._calls = CallLog(
            metrics.count_call, lines=settings.config.access_log, count_refused=metrics.count_refused
        )
        self._tls = serving_tls(settings.config.tls)
        self._grpc: list[grpc.aio.Server | GrpcServer] = []
        self._rest: list[Listener] = []
        self.places: list[tuple[str, Address]] = []
        """Names and addresses for the ready line."""

    def add_grpc(self, service: ModelService, tokens: TokenAuthorization | None) -> None:
        listening = self._settings.listening
        inference = self._inference_server(listening.grpc_inference, tokens)
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(
            InferenceApi(service, self._calls), inference
        )
        if isinstance(inference, GrpcServer):
            for method in ("Predictions", "StreamPredictions", "StreamPredictions2"):
                inference.parse_by(f"/{SERVICE}{method}", parse_request)
        management = self._server(listening.grpc_management, "management", tokens)
        management_pb2_grpc.add_ManagementAPIsServiceServicer_to_server(
            ManagementApi(service, self._calls), management
        )

    def add_rest(self, service: ModelService, tokens: TokenAuthorization | None) -> None:
        apis = rest_apis(
            self._settings,
            service,
            request_ids(),
            tokens=tokens,
            render=self._metrics.render,
            answered=self._calls.rest,
            refused=functools.partial(self._calls.refused, "rest"),
            version=__version__,
        )
        for api in apis:
            bound, where = _bound(api.address)
            tls = self._tls.server_context() if self._tls is not None and where.tls else None
            drain_seconds = self._settings.config.drain_seconds
            self._rest.append(Listener(api.app, bound, drain_seconds, tls, self._calls.rest_refused))
            self.places += [(name, where) for name in api.names]

    async def start(self) -> None:
        for server in self._grpc:
            await server.start()
        for listener in self._rest:
            await listener.start()

    async def stop(self) -> None:
        """Take nothing new, finish what has come in, and close all ports."""
        await asyncio.gather(
            *(server.stop(self._settings.config.drain_seconds) for server in self._grpc),
            *(listener.stop() for listener in self._rest),
        )

    def _inference_server(
        self, where: Address, tokens: TokenAuthorization | None
    ) -> grpc.aio.Server | GrpcServer:
        """Our own server, where it can do what is asked for: half of a prediction's time is grpc.aio's."""
        config = self._settings.config
        if config.grpc_server == "grpcio" or where.tls or where.max_connection_age_ms is not None:
            return self._server(where, "inference", tokens)
        listening = bind(where)
        listening.listen(_BACKLOG)
        server = GrpcServer(
            listening,
            max_receive=config.max_request_bytes,
            max_send=config.max_response_bytes + _MESSAGE_BYTES,
            admit=functools.partial(tokens.check, "inference") if tokens is not None else None,
            on_refused=self._calls.grpc_refused,
        )
        self._grpc.append(server)
        self.places.append(("inference", dataclasses.replace(where, port=listening.getsockname()[1])))
        return server

    def _server(self, where: Address, api: Api, tokens: TokenAuthorization | None) -> grpc.aio.Server:
        config = self._settings.config
        server = rpc.aio_server(
            max_receive=config.max_request_bytes,
            max_send=config.max_response_bytes + _MESSAGE_BYTES,
            interceptors=[TokenInterceptor(tokens, api, self._calls)] if tokens is not None else [],
            max_connection_age_ms=where.max_connection_age_ms,
            max_connection_age_grace_ms=where.max_connection_age_grace_ms,
        )
        self._grpc.append(server)
        try:
            port = rpc.listen(server, str(where), self._tls if where.tls else None)
        except UnavailableError as error:
            raise InvalidInputError(str(error)) from error
        self.places.append((api, dataclasses.replace(where, port=port)))
        return server


def _bound(address: Address) -> tuple[socket.socket | UnixSocket, Address]:
    """What a REST address is served on, and the address with its port."""
    if address.socket_path:
        path = UnixSocket(address.socket_path)
        path.check()
        return path, address
    bound = bind(address)
    return bound, dataclasses.replace(address, port=bound.getsockname()[1])


def _tokens(settings: ServingSettings) -> TokenAuthorization | None:
    if not settings.token_authorization and not settings.tokens_offered:
        return None
    config = settings.config.token
    return TokenAuthorization(
        Path(config.key_file), config.expiration_minutes, is_required=settings.token_authorization
    )


async def _start(
    settings: ServingSettings, service: ModelService, apis: _Apis, stopped: asyncio.Task[None]
) -> bool:
    """Open the service, register the startup models, and accept calls; False if serving was stopped meanwhile."""

    async def start() -> None:
        await service.open()
        if settings.answers_while_loading:
            await register_startup_models(settings, service, apis.start)
        else:
            await register_startup_models(settings, service)
            await apis.start()

    started = asyncio.create_task(start())
    await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if started.done():
        await started
        return True
    started.cancel()
    await asyncio.wait({started})
    return False


async def _until_set(stop: threading.Event) -> None:
    """Wait for an event of the threading world; its thread is a daemon, so an early end does not hang."""
    loop = asyncio.get_running_loop()
    is_set: asyncio.Future[None] = loop.create_future()

    def wait() -> None:
        stop.wait()
        if not loop.is_closed():
            loop.call_soon_threadsafe(is_set.cancel)

    threading.Thread(target=wait, name="stop", daemon=True).start()
    await asyncio.wait([is_set])
