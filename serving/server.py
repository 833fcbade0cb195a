"""Runs a serving process: the event loop, its ports, the template, and the order of starting and stopping."""

import asyncio
import dataclasses
import gc
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc.aio
import uvloop
from prometheus_client import CollectorRegistry, generate_latest

from satrap import __version__, rpc
from satrap.errors import InvalidInputError, SatrapError, UnavailableError
from satrap.protos import inference_pb2_grpc, management_pb2_grpc
from satrap.serving.archive.store import startup_archives
from satrap.serving.exposure import serving_tls, uvicorn_tls
from satrap.serving.forks import Template
from satrap.serving.inference_api import InferenceApi
from satrap.serving.listening import Address
from satrap.serving.management_api import ManagementApi
from satrap.serving.model_service import ModelService
from satrap.serving.request_ids import request_ids
from satrap.serving.rest.apis import rest_apis
from satrap.serving.rest.listener import Listener, bind
from satrap.serving.settings import ServingSettings
from satrap.serving.token_interceptor import TokenInterceptor
from satrap.serving.tokens import Api, TokenAuthorization
from satrap.serving.version_spec import RegisterParameters

__all__ = ["ServingSettings", "run"]

log = logging.getLogger("satrap.serving")

_MESSAGE_BYTES = 64
"""More than a message has around its prediction: the limit is the prediction's, which workers check."""


def run(settings: ServingSettings, stop: threading.Event, on_ready: Callable[[str], None]) -> None:
    """Serve until `stop` is set, then drain and return. `on_ready` gets the ready line once.

    Raises:
        InvalidInputError: a port cannot be had, or there is no such model store.
        SatrapError: a startup model that was named cannot be served.
    """
    store = settings.model_store
    if store is not None and not store.is_dir():
        raise InvalidInputError(f"the model store {store} is not a directory: make it, or name another")
    uvloop.run(_serve(settings, stop, on_ready))


async def _serve(settings: ServingSettings, stop: threading.Event, on_ready: Callable[[str], None]) -> None:
    template = Template()
    service = ModelService(settings, template)
    tokens = _tokens(settings)
    apis = _Apis(settings)
    stopped = asyncio.create_task(_until_set(stop))
    try:
        apis.add_grpc(service, tokens)
        apis.add_rest(service, tokens)
        if tokens is not None:  # the ports are ours: no other server's key file is overwritten
            tokens.open()
        if not await _start(settings, service, stopped):
            return
        await apis.start()
        gc.freeze()  # what is there now stays: no collection needs to look at it while requests wait
        models = service.model_count()
        places = ", ".join(f"{address} ({name})" for name, address in apis.places)
        on_ready(f"satrap serving ready on {places}: {models} model{'' if models == 1 else 's'}")
        await stopped
        log.info("draining for at most %d s", settings.config.drain_seconds)
    finally:
        stopped.cancel()
        await apis.stop()
        await service.close()
        await template.close()
        if tokens is not None:
            tokens.close()


class _Apis:
    """The servers of all APIs: their ports are taken first, and accept when the startup models are ready."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._tls = serving_tls(settings.config.tls)
        self._grpc: list[grpc.aio.Server] = []
        self._rest: list[Listener] = []
        self.places: list[tuple[str, Address]] = []
        """Names and addresses for the ready line."""

    def add_grpc(self, service: ModelService, tokens: TokenAuthorization | None) -> None:
        listening = self._settings.listening
        inference = self._server(listening.grpc_inference, "inference", tokens)
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(InferenceApi(service), inference)
        management = self._server(listening.grpc_management, "management", tokens)
        management_pb2_grpc.add_ManagementAPIsServiceServicer_to_server(ManagementApi(service), management)

    def add_rest(self, service: ModelService, tokens: TokenAuthorization | None) -> None:
        registry = CollectorRegistry()

        def render(names: Sequence[str]) -> bytes:
            return generate_latest(registry.restricted_registry(names) if names else registry)

        for api in rest_apis(
            self._settings, service, request_ids(), tokens=tokens, render=render, version=__version__
        ):
            bound = bind(api.address)
            where = dataclasses.replace(api.address, port=bound.getsockname()[1])
            tls = uvicorn_tls(self._tls if where.tls else None)
            self._rest.append(Listener(api.app, bound, self._settings.config.drain_seconds, tls))
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

    def _server(self, where: Address, api: Api, tokens: TokenAuthorization | None) -> grpc.aio.Server:
        config = self._settings.config
        server = rpc.aio_server(
            max_receive=config.max_request_bytes,
            max_send=config.max_response_bytes + _MESSAGE_BYTES,
            interceptors=[TokenInterceptor(tokens, api)] if tokens is not None else [],
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


def _tokens(settings: ServingSettings) -> TokenAuthorization | None:
    if not settings.token_authorization:
        return None
    config = settings.config.token
    return TokenAuthorization(Path(config.key_file), config.expiration_minutes)


async def _start(settings: ServingSettings, service: ModelService, stopped: asyncio.Task[None]) -> bool:
    """Open the service and register the startup models; False if serving was stopped meanwhile."""

    async def start() -> None:
        await service.open()
        await _register_startup_models(settings, service)

    started = asyncio.create_task(start())
    await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if started.done():
        await started
        return True
    started.cancel()
    await asyncio.wait({started})
    return False


async def _register_startup_models(settings: ServingSettings, service: ModelService) -> None:
    """One after the other; an archive that was named must work if so configured, of `all` those that do are served."""
    everything = (settings.startup_models or "").strip().lower() == "all"
    required = settings.strict_startup and not everything
    for name, url in startup_archives(settings.startup_models, service.store):
        parameters = RegisterParameters(url=url, model_name=name or None, synchronous=True)
        try:
            await service.register(parameters, at_startup=True)
        except SatrapError as error:
            if required:
                raise
            log.error("%s in the model store is not served: %s", url, error)


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
