"""Runs a serving process: the event loop, the two ports, the template, and the order of starting and stopping."""

import asyncio
import dataclasses
import gc
import logging
import threading
from collections.abc import Callable

import grpc.aio
import uvloop

from satrap import rpc
from satrap.errors import InvalidInputError, SatrapError
from satrap.protos import inference_pb2_grpc, management_pb2_grpc
from satrap.serving.archive.store import startup_archives
from satrap.serving.forks import Template
from satrap.serving.inference_api import InferenceApi
from satrap.serving.listening import Address
from satrap.serving.management_api import ManagementApi
from satrap.serving.model_service import ModelService
from satrap.serving.settings import ServingSettings
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
    servers: list[grpc.aio.Server] = []
    stopped = asyncio.create_task(_until_set(stop))
    try:
        listening = settings.listening
        inference, inference_at = _server(settings, listening.grpc_inference)
        management, management_at = _server(settings, listening.grpc_management)
        servers = [inference, management]
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(InferenceApi(service), inference)
        management_pb2_grpc.add_ManagementAPIsServiceServicer_to_server(ManagementApi(service), management)
        if not await _start(settings, service, stopped):
            return
        for server in servers:
            await server.start()
        gc.freeze()  # what is there now stays: no collection needs to look at it while requests wait
        models = service.model_count()
        on_ready(
            f"satrap serving ready on {inference_at} (inference), {management_at} (management): "
            f"{models} model{'' if models == 1 else 's'}"
        )
        await stopped
        log.info("draining for at most %d s", settings.config.drain_seconds)
    finally:
        stopped.cancel()
        await asyncio.gather(*(server.stop(settings.config.drain_seconds) for server in servers))
        await service.close()
        await template.close()


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


def _server(settings: ServingSettings, where: Address) -> tuple[grpc.aio.Server, Address]:
    server = rpc.aio_server(
        max_receive=settings.config.max_request_bytes,
        max_send=settings.config.max_response_bytes + _MESSAGE_BYTES,
    )
    try:
        return server, dataclasses.replace(where, port=server.add_insecure_port(str(where)))
    except RuntimeError as error:
        raise InvalidInputError(
            f"cannot listen on {where} (is another server running there?): {error}"
        ) from error


async def _register_startup_models(settings: ServingSettings, service: ModelService) -> None:
    """One after the other; an archive that was named must work, of `all` those that do are served."""
    everything = (settings.startup_models or "").strip().lower() == "all"
    for name, url in startup_archives(settings.startup_models, service.store):
        parameters = RegisterParameters(url=url, model_name=name or None, synchronous=True)
        try:
            await service.register(parameters, at_startup=True)
        except SatrapError as error:
            if not everything:
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
