"""The row socket of a server: lookups of this machine's processes, answered by native threads."""

import logging
import os

from satrap._core.row_socket import RowServer, RowSocketError
from satrap.embedding_server.tables import Generation, RowDType, Totals
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = ["RowSocket"]

log = logging.getLogger(__name__)

_ID_BYTES = 16


class RowSocket:
    """Answers from the generation that was published last; see native/include/satrap/row_socket.h.

    Where the socket cannot be had there is none: `instance_id` is empty, and everybody asks by gRPC.
    """

    def __init__(self, owner: ShardRoute, row_dtype: RowDType) -> None:
        """Choose an instance id; nothing starts."""
        self.instance_id = os.urandom(_ID_BYTES)
        self._server = RowServer(self.instance_id, owner.replica_index, owner.replica_size, row_dtype)

    @property
    def totals(self) -> Totals:
        """What was asked here since start."""
        return Totals(*self._server.counters)

    def start(self) -> None:
        """Listen. Until something is published, requests are refused."""
        try:
            self._server.start()
        except RowSocketError as error:
            log.warning("%s; this machine's processes look up by gRPC", error)
            self.instance_id = b""

    def publish(self, generation: Generation) -> None:
        """Answer from `generation` from the next request on."""
        self._server.publish(list(generation.tables.values()))

    def stop(self) -> None:
        """Close every connection and wait for the threads."""
        self._server.stop()
