"""Where a serving process listens: five addresses, TorchServe's ports."""

from dataclasses import dataclass, field, replace

from satrap import rpc

__all__ = ["Address", "Listening"]


@dataclass(frozen=True)
class Address:
    """Host and port of one API; port 0 picks a free one. With `tls` it is served by TLS only.

    The ages, in milliseconds, are for gRPC: a connection is closed at the one, and its calls have the other to end;
    None: no limit.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int | None = None

    def __str__(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return rpc.address(self.host, self.port)


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
