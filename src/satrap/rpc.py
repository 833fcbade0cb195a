"""The one place that makes gRPC channels and servers, and that turns gRPC's errors into satrap's.

Between our own processes messages have no size limit, there is no HTTP proxy, a lost connection is tried
again after 0.1 to 1 s (gRPC's default takes up to two minutes), an attempt to connect may take a second, so that a busy
server is not taken for a dead one, and keepalive finds a dead peer within 20 s.
No server shares its port (`so_reuseport` off): a second one on the same port is an error, not half of the
connections.
"""

import asyncio
import contextlib
import inspect
import ipaddress
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent import futures
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from grpc.experimental import ChannelOptions

from satrap import errors
from satrap.tls import Tls

__all__ = [
    "AioContext",
    "AioInterceptor",
    "ErrorsAsStatus",
    "Handler",
    "address",
    "aio_channel",
    "aio_server",
    "call_of",
    "channel",
    "channel_credentials",
    "check_bind_host",
    "error_from_rpc",
    "is_loopback",
    "listen",
    "server",
    "server_credentials",
]

if TYPE_CHECKING:  # generic in the stubs only
    AioInterceptor = grpc.aio.ServerInterceptor[Any, Any]
    AioContext = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    AioInterceptor = grpc.aio.ServerInterceptor
    AioContext = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler

_UNLIMITED = -1
_KEEPALIVE_MS = 10_000

Options = list[tuple[str, int | str]]


def _keepalive() -> Options:
    return [("grpc.keepalive_time_ms", _KEEPALIVE_MS), ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS)]


def _server_options(max_receive: int, max_send: int) -> Options:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_receive),
        ("grpc.max_send_message_length", max_send),
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
        ("grpc.keepalive_permit_without_calls", 1),
        *_keepalive(),
    ]


def _channel_options(limit: int) -> Options:
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),  # how long an attempt may take, whatever its name says
        ("grpc.max_reconnect_backoff_ms", 800),  # gRPC adds up to 20 % at random: within a second
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        *_keepalive(),
    ]


def channel(
    address: str, *, limit: int = _UNLIMITED, threadless_streams: bool = False, tls: Tls | None = None
) -> grpc.Channel:
    """A channel to `host:port` or `unix:path`; nothing connects before the first call.

    `limit` is the greatest message in bytes, both ways; -1 means none. With `threadless_streams` a call that streams
    its answers is worked by the thread that reads them, without one of gRPC's between. `tls` counts for a host and
    a port only: a socket of this machine has no wire.

    Raises:
        InvalidInputError: a file of `tls` cannot be read.
    """
    options: Options = [
        *_channel_options(limit),
        *([(ChannelOptions.SingleThreadedUnaryStream, 1)] if threadless_streams else []),
    ]
    if tls is None or _is_local_socket(address):
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, channel_credentials(tls), options=options)


def aio_channel(address: str, *, limit: int = _UNLIMITED, tls: Tls | None = None) -> grpc.aio.Channel:
    """The same for the running event loop."""
    options = _channel_options(limit)
    if tls is None or _is_local_socket(address):
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


def _is_local_socket(address: str) -> bool:
    return address.startswith(("unix:", "unix-abstract:"))


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """What a client shows and believes. Raises InvalidInputError if a file cannot be read."""
    pair = tls.key_pair()
    shown = (pair.private_key or None, pair.certificate) if pair is not None else (None, None)
    return grpc.ssl_channel_credentials(tls.authority_bytes(), *shown)


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """What a server shows and asks for.

    Raises:
        InvalidInputError: a file cannot be read, is no PEM and no keystore, or key and certificate do not go together.
    """
    tls.check()  # gRPC would say no more than that it cannot listen
    pair = tls.key_pair()
    return grpc.ssl_server_credentials(
        [(pair.private_key, pair.certificate) if pair is not None else (b"", b"")],
        root_certificates=tls.authority_bytes(),
        require_client_auth=bool(tls.authority),
    )


def server(threads: int) -> grpc.Server:
    """A threaded server without ports, for our own services: no message limit. The caller adds and starts."""
    return grpc.server(
        futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rpc"),
        options=_server_options(_UNLIMITED, _UNLIMITED),
    )


def aio_server(
    *,
    max_receive: int,
    max_send: int,
    interceptors: Sequence[AioInterceptor] = (),
    max_connection_age_ms: int | None = None,
    max_connection_age_grace_ms: int | None = None,
) -> grpc.aio.Server:
    """An asyncio server without ports, with limits in bytes. The caller adds and starts.

    A connection is told to go at the age, so that a balancer may spread its client's next one, and its calls have the
    grace to end; None: no limit. Methods that stream their answers as generators are closed within their call.
    """
    options = _server_options(max_receive, max_send)
    if max_connection_age_ms is not None:
        options.append(("grpc.max_connection_age_ms", max_connection_age_ms))
    if max_connection_age_grace_ms is not None:
        options.append(("grpc.max_connection_age_grace_ms", max_connection_age_grace_ms))
    return grpc.aio.server(options=options, interceptors=[*interceptors, _ClosesStreams()])


class _ClosesStreams(AioInterceptor):
    """Closes the generator of a method that streams its answers before its call is over, however that ends.

    grpcio drops a generator whose client is gone, and the event loop closes it some time later. What it holds is held
    until then, and its `finally` meets a context whose call is destroyed: `context.peer()` is a segmentation fault.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The call's handler, or one that writes what its generator yields."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        if handler.request_streaming:
            method, of_kind = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        else:
            method, of_kind = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        if not inspect.isasyncgenfunction(method):
            return handler
        return of_kind(_written(method), handler.request_deserializer, handler.response_serializer)


def _written(
    method: Callable[[object, AioContext], AsyncGenerator[object, None]],
) -> Callable[[object, AioContext], Awaitable[None]]:
    async def write(request: object, context: AioContext) -> None:
        async with contextlib.aclosing(method(request, context)) as responses:
            async for response in responses:
                try:
                    await context.write(response)
                except grpc.aio.InternalError as error:
                    # The client is gone, which grpcio is about to notice; as an error it would be one in the log.
                    raise asyncio.CancelledError from error

    return write


def check_bind_host(host: str, *, insecure: bool, tls: Tls | None = None) -> None:
    """Refuse an address that others can reach unless its callers show certificates, or the user said so.

    Raises:
        InvalidInputError: `host` is not a loopback address, and there is neither `tls` nor `insecure`; or a file of
            `tls` cannot be used.
    """
    if tls is not None:
        tls.check()
    elif not insecure and not is_loopback(host):
        raise errors.InvalidInputError(
            f"refusing to listen on {host}: anybody who reaches it could use it, and read what is sent. Use a loopback "
            "address (127.0.0.1), name certificates in internal_tls of global_config.yaml (docs/security.md), or pass "
            "--insecure if the network is yours"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address; False for a name, which may lead anywhere."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def listen(server: grpc.Server | grpc.aio.Server, where: str, tls: Tls | None = None) -> int:
    """Make `server` listen on `where`, `host:port` (port 0: the kernel picks one) or `unix:path`; returns the port.

    With `tls` a host and port is served by TLS only.

    Raises:
        UnavailableError: the address cannot be had.
        InvalidInputError: a file of `tls` cannot be used.
    """
    credentials = None if tls is None or _is_local_socket(where) else server_credentials(tls)
    try:
        return (
            server.add_insecure_port(where)
            if credentials is None
            else server.add_secure_port(where, credentials)
        )
    except RuntimeError as error:
        raise errors.UnavailableError(
            f"cannot listen on {where}: another process has it, or it is no address of this machine; stop that "
            "process, or choose another --port or --host"
        ) from error


class ErrorsAsStatus:
    """Ends a call with the status and the sentence of a `SatrapError` that its body raises.

    For the handlers of a threaded server: `with ErrorsAsStatus(context): ...`. Other exceptions are mistakes of ours
    and pass; grpc logs them and answers UNKNOWN.
    """

    __slots__ = ("_context",)

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, errors.SatrapError):
            self._context.abort(error.grpc_status, str(error))


_BY_STATUS: Mapping[grpc.StatusCode, type[errors.SatrapError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInputError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ABORTED: errors.ConflictError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.CANCELLED: errors.UnavailableError,  # a server that stops cancels what it had not begun
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
}


# TorchServe's details end in a Java class, `message\nsome.package.Class` or `message\nClass.()`. Its inference API
# says INTERNAL whatever happened: then the class tells more than the status.
_JAVA_CLASS = re.compile(r"\n(?:\w+\.)*(\w+(?:Exception|Error))(?:\.\(\))?\s*\Z")
_BY_JAVA_CLASS: Mapping[str, type[errors.SatrapError]] = {
    "BadRequestException": errors.InvalidInputError,
    "ConflictStatusException": errors.ConflictError,
    "ModelNotFoundException": errors.NotFoundError,
    "ModelVersionNotFoundException": errors.NotFoundError,
    "ServiceUnavailableException": errors.UnavailableError,
}


def call_of(error: grpc.RpcError) -> grpc.Call:
    """The call that raised `error`: grpc raises one object that is both, which its stubs cannot say."""
    return cast(grpc.Call, error)


def error_from_rpc(error: grpc.RpcError) -> errors.SatrapError:
    """Translate what a call raised; every status has a class, `RemoteError` where there is no closer one.

    The sentence is the server's, without the Java class that TorchServe puts behind it.
    """
    call: Any = error  # grpc raises objects that are RpcError and Call, which its stubs cannot say
    status = call.code() if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    details = (call.details() if hasattr(call, "details") else None) or str(error)
    kind = _BY_STATUS.get(status)
    if java := _JAVA_CLASS.search(details):
        details = details[: java.start()]
        if status is grpc.StatusCode.INTERNAL:
            kind = _BY_JAVA_CLASS.get(java[1])
    return kind(details) if kind is not None else errors.RemoteError(status, details)
