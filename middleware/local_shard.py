"""A shard on this machine: asked over its row socket, with gRPC behind it for all that goes wrong.

A lookup over the row socket (native/include/satrap/row_socket.h) costs a fraction of one by gRPC. Its name is the
server's instance id, which its Status tells; whoever can connect to it is on the same machine and has the server
that it meant. Nobody waits for that: questions go by gRPC until it is known and whenever the socket fails, so
errors, too, are those of gRPC.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence

from satrap._core.row_socket import RowConnection, RowSocketError
from satrap.middleware.shards import Answer, Group, Rows, RpcShard, Shard

__all__ = ["LocalShard"]

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 0.5
_LOOK_SECONDS = 1.0
"""Between two questions for the instance id, while there is no connection."""
_ELSEWHERE_SECONDS = 30.0
"""The same, after a server turned out not to be on this machine."""


class LocalShard:
    """Asks over the row socket where there is one, otherwise `fallback`.

    Any thread may ask. The state is a few single assignments and a deque, which need no lock: two threads that
    both find no connection open two, and both are used from then on.
    """

    def __init__(self, shard: RpcShard, fallback: Shard, timeout: float) -> None:
        """`timeout`, in seconds, is for each lookup. Nothing connects before the first one."""
        self.replica_index, self.address = shard.replica_index, shard.address
        self._shard, self._fallback, self._timeout = shard, fallback, timeout
        self._instance = b""
        self._look_again_at = -math.inf
        self._idle: deque[RowConnection] = deque()
        self._closed = False

    def ask(self, groups: Sequence[Group]) -> Answer:
        """Send a question; `result()` waits for its answer."""
        connection = self._connection()
        if connection is None:
            return self._fallback.ask(groups)
        deadline = time.monotonic() + self._timeout
        try:
            connection.send(groups, self._timeout)
        except RowSocketError as error:
            self._lost(error)
            return self._fallback.ask(groups)
        return _LocalAnswer(self, connection, groups, deadline)

    def close(self) -> None:
        """Close the connections and the fallback; questions in flight fail."""
        self._closed = True
        self._drop_idle()
        self._fallback.close()

    def received(self, connection: RowConnection, groups: Sequence[Group], deadline: float) -> list[Rows]:
        """The answer that `connection` waits for; by gRPC if it fails before the deadline."""
        try:
            rows, _, _ = connection.receive(max(deadline - time.monotonic(), 0.0))
        except RowSocketError as error:
            self._lost(error)
            if time.monotonic() >= deadline:
                raise self._shard.unavailable(f"no answer within {self._timeout:g} s") from error
            return self._fallback.ask(groups).result()
        self._idle.append(connection)
        if self._closed:
            self._drop_idle()
        return rows

    def _connection(self) -> RowConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            if not self._instance:
                self._look()
                return None
        try:
            return RowConnection(
                self._instance, self.replica_index, self._shard.replica_size, _CONNECT_SECONDS
            )
        except RowSocketError as error:
            log.info("shard %d at %s is asked by gRPC: %s", self.replica_index, self.address, error)
            self._instance = b""
            self._look_again_at = time.monotonic() + _ELSEWHERE_SECONDS
            return None

    def _look(self) -> None:
        """Ask for the instance id, without waiting, now and then."""
        now = time.monotonic()
        if now >= self._look_again_at and not self._closed:
            self._look_again_at = now + _LOOK_SECONDS
            self._shard.find_instance(self._found)

    def _found(self, instance: bytes) -> None:
        self._instance = instance

    def _lost(self, error: RowSocketError) -> None:
        """The server ended, loads, or was started again under another id: look for it again, a little later."""
        log.info("shard %d at %s: %s; asking by gRPC", self.replica_index, self.address, error)
        self._instance = b""
        self._look_again_at = time.monotonic() + _LOOK_SECONDS
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


class _LocalAnswer:
    """A question in flight on a connection."""

    __slots__ = ("_connection", "_deadline", "_groups", "_shard")

    def __init__(
        self, shard: LocalShard, connection: RowConnection, groups: Sequence[Group], deadline: float
    ) -> None:
        self._shard, self._connection, self._groups, self._deadline = shard, connection, groups, deadline

    def result(self) -> list[Rows]:
        """Wait for the rows. Raises `SatrapError`."""
        return self._shard.received(self._connection, self._groups, self._deadline)
