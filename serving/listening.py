"""Where a serving process listens: five addresses, TorchServe's ports or Unix sockets."""

from dataclasses import dataclass, field, replace

from satrap import rpc

__all__ = ["Address", "Listening"]


@dataclass(frozen=True)
class Address:
    """Host and port of one API; port 0 picks a free one. With `tls` it is served by TLS only.

    A REST API may have a Unix socket's path in their place. The ages, in milliseconds, are for gRPC: a connection is
    closed at the one, and its calls have the other to end; None: no limit.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int | None = None
    socket_path: str = ""

    def __str__(self) -> str:
        """`host:port`, with brackets around an IPv6 address, or `unix:path`."""
        return f"unix:{self.socket_path}" if self.socket_path else rpc.address(self.host, self.port)

    @property
    def place(self) -> tuple[str, int] | None:
        """What APIs that share an address have in common; None: nobody shares a port that the kernel picks."""
        if self.socket_path:
            return self.socket_path, 0
        return (self.host, self.port) if self.port else None

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return bool(self.socket_path) or rpc.is_loopback(self.host)


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The addresses of all APIs; None: that API is not served."""

    grpc_inference: Address = field(default_factory=lambda: Address(port=7070))
    grpc_management: Address = field(default_factory=lambda: Address(port=7071))
    rest_inference: Address | None = field(default_factory=lambda: Address(port=8080))
    rest_management: Address | None = field(default_factory=lambda: Address(port=8081))
    metrics: Address | None = field(default_factory=lambda: Address(port=8082))

    def with_tls(self, tls: bool) -> "Listening":
        """The same addresses, all of them by TLS or none."""
        return Listening(
            grpc_inference=replace(self.grpc_inference, tls=tls),
            grpc_management=replace(self.grpc_management, tls=tls),
            rest_inference=self.rest_inference and replace(self.rest_inference, tls=tls),
            rest_management=self.rest_management and replace(self.rest_management, tls=tls),
            metrics=self.metrics and replace(self.metrics, tls=tls),
        )
