"""One RPC with a deadline and retries: the seam where gRPC's errors become satrap's.

`Attempts` decides, without a clock; `call` and `call_async` are its two shells.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from satrap.client.retry import NO_RETRY, Retry
from satrap.errors import RemoteError
from satrap.rpc import error_from_rpc

__all__ = ["Attempts", "Call", "Metadata", "call", "call_async", "closing_is_an_error", "metadata_pairs"]

Metadata = Mapping[str, str]
"""Headers of a call. gRPC takes lower-case names only."""


def metadata_pairs(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """The form in which gRPC takes headers, names in lower case."""
    return tuple((name.lower(), value) for name, value in metadata.items())


@dataclass(frozen=True, slots=True)
class Call:
    """How a call is made.

    Attributes:
        timeout: seconds for all attempts and pauses together.
        metadata: headers.
        retry: which failures are tried again. `NO_RETRY` where a second run would do harm.
    """

    timeout: float
    metadata: tuple[tuple[str, str], ...] = ()
    retry: Retry = NO_RETRY


class Attempts:
    """The attempts of one unary call; `now` is the monotonic clock's, in seconds."""

    def __init__(self, how: Call, now: float) -> None:
        """The first one begins."""
        self._retry, self._deadline = how.retry, now + how.timeout
        self._attempt = 1

    def seconds_left(self, now: float) -> float:
        """What the attempt that begins now may take."""
        return max(self._deadline - now, 0.0)

    def failed(self, failure: grpc.RpcError, now: float) -> float:
        """The seconds to wait before the next attempt.

        Raises:
            SatrapError: there is none. The class that fits the server's status, see `satrap.rpc.error_from_rpc`.
        """
        error = error_from_rpc(failure)
        pause = self._retry.pause(error, self._attempt, self._deadline - now)
        if pause is None:
            raise error from failure
        self._attempt += 1
        return pause


def call(method: Callable[..., Any], request: Any, how: Call) -> Any:
    """Call a unary method of a stub and return its response.

    Raises:
        SatrapError: see `Attempts.failed`.
    """
    attempts = Attempts(how, time.monotonic())
    while True:
        try:
            timeout = attempts.seconds_left(time.monotonic())
            return method(request, timeout=timeout, metadata=how.metadata)
        except grpc.RpcError as failure:
            pause = attempts.failed(failure, time.monotonic())
        time.sleep(pause)


@contextmanager
def closing_is_an_error() -> Iterator[None]:
    """grpc.aio raises `CancelledError` for calls whose channel is closed, though nobody has cancelled their task.

    Raises:
        RemoteError: that is what has happened in the block; it is what the other client raises.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RemoteError(grpc.StatusCode.CANCELLED, "the client was closed while it waited") from None


async def call_async(method: Callable[..., Awaitable[Any]], request: Any, how: Call) -> Any:
    """The same on asyncio.

    Raises:
        SatrapError: see `Attempts.failed`.
        RemoteError: the channel was closed.
    """
    attempts = Attempts(how, time.monotonic())
    while True:
        try:
            timeout = attempts.seconds_left(time.monotonic())
            with closing_is_an_error():
                return await method(request, timeout=timeout, metadata=how.metadata)
        except grpc.RpcError as failure:
            pause = attempts.failed(failure, time.monotonic())
        await asyncio.sleep(pause)
