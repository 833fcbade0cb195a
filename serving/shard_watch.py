"""Asks the embedding servers how far they are, while somebody waits for them.

A thin shell around `sparse_gate`. It belongs to the frontend's event loop and never holds it: requests go on while an
answer is awaited, and nothing is asked while no version waits.
"""

import asyncio
from collections.abc import Callable, Sequence

import grpc
import grpc.aio

from satrap import rpc
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.serving.sparse_gate import ShardProgress, progress_of, unreachable
from satrap.tls import Tls

__all__ = ["ShardWatch"]

_POLL_SECONDS = 0.1
_STATUS_SECONDS = 1.0


class ShardWatch:
    """The embedding servers in order. Nothing connects before the first question."""

    def __init__(
        self,
        addresses: Sequence[str],
        on_progress: Callable[[Sequence[ShardProgress]], bool],
        tls: Tls | None = None,
    ) -> None:
        """Take the addresses, and whom to tell while watching; that returns whether to go on.

        `tls`: what is shown to servers at a host and a port, and whom to believe.
        """
        self._addresses, self._on_progress, self._tls = tuple(addresses), on_progress, tls
        self._channels: list[grpc.aio.Channel] = []
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        """Whether there is any server to ask."""
        return bool(self._addresses)

    def watch(self) -> None:
        """Ask about ten times a second from now on, until nobody waits."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def ask(self) -> list[ShardProgress]:
        """What every server says now, within a second."""
        if not self._channels:
            self._channels = [rpc.aio_channel(address, tls=self._tls) for address in self._addresses]
        return await asyncio.gather(*(self._ask(index) for index in range(len(self._addresses))))

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close(None)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            if not self._on_progress(await self.ask()):
                return
            await asyncio.sleep(begun + _POLL_SECONDS - loop.time())

    async def _ask(self, index: int) -> ShardProgress:
        address = self._addresses[index]
        stub = pb_grpc.EmbeddingServiceStub(self._channels[index])
        try:
            status: pb.StatusResponse = await stub.Status(pb.StatusRequest(), timeout=_STATUS_SECONDS)
        except grpc.aio.AioRpcError as error:
            return unreachable(index, address, error.code(), error.details() or "")
        return progress_of(index, len(self._addresses), address, status)
