"""Every call of every API, counted by its HTTP status as TorchServe counts REST, and logged on demand."""

import logging
from collections.abc import Callable

from satrap.serving.refusal import STATUS, Refusal
from satrap.serving.rest.asgi import Scope

__all__ = ["CANCELLED", "INTERNAL_ERROR", "CallLog"]

log = logging.getLogger("satrap.serving.access")

CANCELLED = 499
"""The status of a call whose client went away."""
INTERNAL_ERROR = 500
"""The status of a call that ended in an error that nobody foresaw."""


class CallLog:
    """Told about every call when it has ended, or was refused. Belongs to the frontend's loop."""

    def __init__(
        self,
        count: Callable[[int], None],
        *,
        lines: bool,
        count_refused: Callable[[str, Refusal], None] | None = None,
    ) -> None:
        """`count` takes the status, `count_refused` `rest` or `grpc` and the reason.

        With `lines` every call is a line of TorchServe's access log.
        """
        self._count, self._count_refused = count, count_refused
        self._lines = lines

    def grpc(self, method: str, peer: str, status: int, seconds: float) -> None:
        """A gRPC call: its `package.Service/Method`, gRPC's name of the peer, and what its status is over REST.

        The line has gRPC's codes as TorchServe's has: 0 for one that succeeded.
        """
        self._count(status)
        if self._lines:
            place = peer.partition(":")[2] if peer.startswith(("ipv4:", "ipv6:")) else peer
            code = 0 if status < 400 else status
            log.info('/%s "gRPC %s HTTP/2.0" %d %d', place, method, code, round(seconds * 1e3))

    def grpc_refused(self, method: str, peer: str, reason: Refusal) -> None:
        """A gRPC call that no API got."""
        self.refused("grpc", reason)
        self.grpc(method, peer, STATUS[reason], 0.0)

    def refused(self, api: str, reason: Refusal) -> None:
        """A call by `rest` or `grpc` is refused for that reason; its status is told apart from it."""
        if self._count_refused is not None:
            self._count_refused(api, reason)

    def rest_refused(self, scope: Scope, reason: Refusal) -> None:
        """What came over REST and was no whole request; what is known of it is in the scope."""
        self.refused("rest", reason)
        self.rest(scope, STATUS[reason], 0.0)

    def rest(self, scope: Scope, status: int, seconds: float) -> None:
        """A REST call, by its ASGI scope; without a path there, its request line is not known."""
        self._count(status)
        if self._lines:
            client = scope.get("client")
            place = f"{client[0]}:{client[1]}" if client else "unix:"  # as gRPC names such a peer
            log.info('/%s "%s" %d %d', place, _request_line(scope), status, round(seconds * 1e3))


def _request_line(scope: Scope) -> str:
    if "path" not in scope:
        return "-"
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string") or b""
    target = (path + b"?" + query if query else path).decode("latin-1")
    return f"{scope['method']} {_printable(target)} HTTP/{scope['http_version']}"


def _printable(target: str) -> str:
    """Nothing of a request may begin a line of its own in the log."""
    return "".join(letter if " " < letter < "\x7f" else f"%{ord(letter):02X}" for letter in target)
