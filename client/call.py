"""One RPC with a deadline and retries: the seam where gRPC's errors become satrap's."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from satrap.client.retry import NO_RETRY, Retry
from satrap.rpc import error_from_rpc

__all__ = ["Metadata", "call", "metadata_pairs"]

Metadata = Mapping[str, str]
"""Headers of a call. gRPC takes lower-case names only."""


def metadata_pairs(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """The form in which gRPC takes headers, names in lower case."""
    return tuple((name.lower(), value) for name, value in metadata.items())


def call(
    rpc: Callable[..., Any],
    request: Any,
    *,
    timeout: float,
    metadata: tuple[tuple[str, str], ...] = (),
    retry: Retry = NO_RETRY,
) -> Any:
    """Make a unary call and return its response.

    Args:
        rpc: A method of a stub.
        request: Its message.
        timeout: Seconds for all attempts and pauses together.
        metadata: Headers.
        retry: Which failures are tried again. Give `NO_RETRY` where a second run would do harm.

    Raises:
        SatrapError: the class that fits the server's status, see `satrap.rpc.error_from_rpc`.
    """
    deadline = time.monotonic() + timeout
    attempt = 1
    while True:
        try:
            return rpc(request, timeout=max(deadline - time.monotonic(), 0.0), metadata=metadata)
        except grpc.RpcError as failure:
            error = error_from_rpc(failure)
            pause = retry.pause(error, attempt, deadline - time.monotonic())
            if pause is None:
                raise error from failure
        time.sleep(pause)
        attempt += 1
