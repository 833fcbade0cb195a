"""What all clients are: an address, and how calls to it are made unless they say otherwise."""

from types import TracebackType
from typing import Any, Self

from satrap import rpc
from satrap.client.call import Call, Metadata, call, metadata_pairs
from satrap.client.retry import Retry
from satrap.tls import Tls

__all__ = ["Client", "ConnectedClient"]


class Client:
    """A server's address and the defaults of calls to it."""

    def __init__(self, address: str, *, timeout: float, metadata: Metadata | None, retry: Retry) -> None:
        """Keep the arguments, which are those of the clients."""
        self.address, self.timeout, self.retry = address, timeout, retry
        self._metadata = dict(metadata or {})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    def _how(
        self, timeout: float | None = None, metadata: Metadata | None = None, retry: Retry | None = None
    ) -> Call:
        """How a call is made; what is None is the client's own, and headers are beside the client's."""
        return Call(
            self.timeout if timeout is None else timeout,
            metadata_pairs({**self._metadata, **(metadata or {})}),
            self.retry if retry is None else retry,
        )


class ConnectedClient(Client):
    """A client with a channel. Connects at the first call; usable from any thread."""

    def __init__(
        self, address: str, *, timeout: float, metadata: Metadata | None, retry: Retry, tls: Tls | None
    ) -> None:
        """Prepare the channel; nothing is sent yet. The arguments are those of the clients."""
        super().__init__(address, timeout=timeout, metadata=metadata, retry=retry)
        self._channel = rpc.channel(address, tls=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that are under way fail."""
        self._channel.close()

    def _call(
        self,
        method: Any,
        request: Any,
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Any:
        """Call a method of a stub; what is None is the client's own. Raises `SatrapError`."""
        return call(method, request, self._how(timeout, metadata, retry))
