"""Channels, servers and errors, with real sockets."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from satrap import errors, rpc
from satrap.serving.grpc_server.server import GrpcServer

METHOD = "/test.Service/Call"


class Service(grpc.GenericRpcHandler):
    """Calls `body` for each request, whose bytes it gets and whose bytes it answers."""

    def __init__(self, body) -> None:
        self.body = body

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.call)

    def call(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with rpc.ErrorsAsStatus(context):
            return self.body(request)


@pytest.fixture
def serve():
    running: list[grpc.Server] = []

    def start(body, address: str = "127.0.0.1:0") -> str:
        server = rpc.server(threads=2)
        server.add_generic_rpc_handlers((Service(body),))
        port = rpc.listen(server, address)
        server.start()
        running.append(server)
        return address if address.startswith("unix:") else f"127.0.0.1:{port}"

    yield start
    for server in running:
        server.stop(None).wait()


def call(address: str, request: bytes = b"x", timeout: float = 20) -> bytes:
    with rpc.channel(address) as channel:
        return channel.unary_unary(METHOD)(request, timeout=timeout, wait_for_ready=True)


def test_between_our_processes_messages_have_no_limit(serve):
    address = serve(lambda request: request * 2)
    assert len(call(address, bytes(20_000_000))) == 40_000_000


def test_unix_sockets_work(serve, tmp_path: Path):
    assert call(serve(lambda request: request, f"unix:{tmp_path}/s"), b"hello") == b"hello"


def test_a_taken_port_is_an_error_and_not_half_of_the_connections(serve):
    address = serve(lambda request: request)
    with pytest.raises(errors.UnavailableError, match="another process has it"):
        rpc.listen(rpc.server(threads=1), address)


def test_errors_travel_as_their_status_and_sentence(serve):
    def refuse(_: bytes) -> bytes:
        raise errors.UnknownFeatureError("the embedding config has no such slot", feature="age")

    with pytest.raises(grpc.RpcError) as caught:
        call(serve(refuse))
    translated = rpc.error_from_rpc(caught.value)
    assert isinstance(translated, errors.InvalidInputError)
    assert str(translated) == "bad batch: feature 'age': the embedding config has no such slot"


def test_a_server_that_is_not_there_is_unavailable():
    server = rpc.server(threads=1)
    port = rpc.listen(server, "127.0.0.1:0")
    server.stop(None).wait()
    with rpc.channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD)(b"", timeout=20)
    assert isinstance(rpc.error_from_rpc(caught.value), errors.UnavailableError)


def test_a_deadline_is_a_deadline_error(serve):
    release = threading.Event()
    address = serve(lambda request: request if release.wait(30) else b"")
    with pytest.raises(grpc.RpcError) as caught:
        call(address, timeout=0.2)
    release.set()
    assert isinstance(rpc.error_from_rpc(caught.value), errors.DeadlineError)


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_every_status_has_a_class(status):
    class Failed(grpc.RpcError):
        def code(self):
            return status

        def details(self):
            return "the sentence"

    translated = rpc.error_from_rpc(Failed())
    assert isinstance(translated, errors.SatrapError)
    assert "the sentence" in str(translated)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_loopback_needs_no_word(host):
    rpc.check_bind_host(host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.example.org"])
def test_other_addresses_need_insecure(host):
    with pytest.raises(errors.InvalidInputError, match="--insecure"):
        rpc.check_bind_host(host, insecure=False)
    rpc.check_bind_host(host, insecure=True)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("localhost", "localhost:80"),
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
    ],
)
def test_address_of_a_host(host, address):
    assert rpc.address(host, 80) == address


def test_a_client_that_is_gone_before_grpcio_knows_it_is_a_cancelled_call(monkeypatch):
    """grpcio logs any other end of a method, with a traceback."""
    closed: list[bool] = []
    given: dict[str, list[grpc.aio.ServerInterceptor]] = {}

    async def parts(request: object, context: object) -> AsyncIterator[bytes]:
        try:
            yield b"part"
        finally:
            closed.append(True)

    class Gone:
        async def write(self, response: bytes) -> None:
            raise grpc.aio.InternalError

    async def run() -> None:
        async def handler(details: None) -> grpc.RpcMethodHandler:
            return grpc.unary_stream_rpc_method_handler(parts)

        rpc.aio_server(max_receive=1, max_send=1)
        method = await given["interceptors"][-1].intercept_service(handler, None)
        with pytest.raises(asyncio.CancelledError):
            await method.unary_stream(b"", Gone())
        assert closed == [True]

    monkeypatch.setattr(grpc.aio, "server", lambda **options: given.update(options))
    asyncio.run(run())


def test_a_connection_is_closed_at_its_age_and_calls_have_the_grace_to_end():
    """Without the two options the call would wait for its answer for ever."""

    async def run() -> grpc.StatusCode:
        async def never(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await asyncio.Event().wait()

        server = rpc.aio_server(
            max_receive=100, max_send=100, max_connection_age_ms=50, max_connection_age_grace_ms=50
        )
        handlers = {"Call": grpc.unary_unary_rpc_method_handler(never)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
        port = rpc.listen(server, "127.0.0.1:0")
        await server.start()
        try:
            async with rpc.aio_channel(f"127.0.0.1:{port}") as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(METHOD)(b"x", timeout=30)
                return caught.value.code()
        finally:
            await server.stop(None)

    assert asyncio.run(run()) is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_is_slow_to_greet_is_not_taken_for_a_dead_one():
    async def run() -> bytes:
        async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return request

        with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel connects; nobody greets
            async with rpc.aio_channel(f"127.0.0.1:{listening.getsockname()[1]}") as channel:
                answer = asyncio.ensure_future(channel.unary_unary(METHOD)(b"x", timeout=30))
                await asyncio.sleep(0.5)
                server = GrpcServer(listening, max_receive=100, max_send=100)
                handlers = {"Call": grpc.unary_unary_rpc_method_handler(echo)}
                server.add_registered_method_handlers("test.Service", handlers)
                await server.start()
                try:
                    return await answer
                finally:
                    await server.stop(None)

    assert asyncio.run(run()) == b"x"
