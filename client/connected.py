"""What both clients are: an address, a channel to it, and how calls are made on it."""

from types import TracebackType
from typing import Any, Self

from satrap import rpc
from satrap.client.call import Metadata, call, metadata_pairs
from satrap.client.retry import Retry
from satrap.tls import Tls

__all__ = ["ConnectedClient"]


class ConnectedClient:
    """A channel with the defaults of its calls. Connects at the first call; usable from any thread."""

    def __init__(
        self, address: str, *, timeout: float, metadata: Metadata | None, retry: Retry, tls: Tls | None
    ) -> None:
        """Prepare the channel; nothing is sent yet. The arguments are those of the clients."""
        self.address = address
        self.timeout = timeout
        self.retry = retry
        self._metadata = dict(metadata or {})
        self._channel = rpc.channel(address, tls=tls)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

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
        return call(
            method,
            request,
            timeout=self.timeout if timeout is None else timeout,
            metadata=metadata_pairs({**self._metadata, **(metadata or {})}),
            retry=self.retry if retry is None else retry,
        )
