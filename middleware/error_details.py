"""Errors that keep their type and facts on the way from a middleware server to its client.

A call ends with a status and a sentence; beside them, trailing metadata carries the error's class and facts as
JSON. A server that says nothing there (a proxy, a connection that broke) was not our middleware speaking.
"""

import json
from collections.abc import Iterable
from typing import Any

from satrap import errors
from satrap.errors import BatchError, SatrapError, ShardMismatchError, ShardUnavailableError

__all__ = ["error_of", "from_metadata", "to_metadata"]

_KEY = "satrap-error-bin"

_BATCH_ERRORS = {
    kind.__name__: kind
    for kind in (
        errors.BatchDecodeError,
        errors.UnsupportedBatchError,
        errors.UnknownFeatureError,
        BatchError,
    )
}


def to_metadata(error: SatrapError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that tells a client what `error` is."""
    facts: dict[str, Any] = {}
    if isinstance(error, BatchError):
        facts = {"reason": error.reason, "feature": error.feature, "offset": error.offset}
    elif isinstance(error, ShardUnavailableError):
        facts = {
            "replica_index": error.replica_index,
            "replica_size": error.replica_size,
            "address": error.address,
            "reason": error.reason,
        }
    elif isinstance(error, ShardMismatchError):
        facts = {"expected": error.expected, "actual": error.actual, "address": error.address}
    return ((_KEY, json.dumps({"type": type(error).__name__, **facts}).encode()),)


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, Any] | None:
    """What a server said of its error, or None if it was not a middleware that spoke."""
    for key, value in metadata or ():
        if key == _KEY:
            said = json.loads(value)
            return said if isinstance(said, dict) else None
    return None


def error_of(said: dict[str, Any], fallback: SatrapError) -> SatrapError:
    """The error that was raised in the server; `fallback` for those that travel as status and sentence only."""
    kind = said.pop("type", "")
    if kind in _BATCH_ERRORS:
        return _BATCH_ERRORS[kind](**said)
    if kind == "ShardUnavailableError":
        return ShardUnavailableError(**said)
    if kind == "ShardMismatchError":
        return ShardMismatchError(tuple(said["expected"]), tuple(said["actual"]), said["address"])
    return fallback
