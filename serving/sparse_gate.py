"""How far the embedding servers are, for dense versions that need a sequence: what their answers mean. Decisions alone.

No sockets and no clock: `shard_watch` asks, the registry lets versions answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from satrap.protos import embedding_pb2 as pb

__all__ = ["ShardProgress", "describe", "everywhere", "progress_of", "unreachable"]


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """The last sequence that a shard has applied to what it serves; None: not known, and why not."""

    index: int
    address: str
    sequence: int | None
    reason: str = ""


def progress_of(index: int, size: int, address: str, status: pb.StatusResponse) -> ShardProgress:
    """What the server at an address says of itself; it should be shard `index` of `size`."""

    def unknown(reason: str) -> ShardProgress:
        return ShardProgress(index, address, None, reason)

    if (status.replica_index, status.replica_size) != (index, size):
        return unknown(f"it is shard {status.replica_index} of {status.replica_size}, not {index} of {size}")
    if status.state != pb.STATE_READY:
        return unknown(status.message or "it is not ready")
    if not status.HasField("updates"):
        return unknown(
            "it follows no packets, so its sequence is unknown: give it updates.directory or --packets"
        )
    return ShardProgress(index, address, status.updates.applied_sequence)


def unreachable(index: int, address: str, code: grpc.StatusCode, details: str) -> ShardProgress:
    """A server that did not answer."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ShardProgress(index, address, None, "no answer")
    return ShardProgress(
        index, address, None, f"cannot be reached ({details.rsplit(': ', 1)[-1] or code.name})"
    )


def everywhere(shards: Sequence[ShardProgress]) -> int:
    """The sequence that every shard has applied; 0 if one does not say."""
    return min((shard.sequence or 0 for shard in shards), default=0)


def describe(sequence: int, shards: Sequence[ShardProgress], *, is_waiting: bool) -> dict[str, Any]:
    """What DescribeModel tells about a version that needs a sequence, behind TorchServe's own keys.

    A version that answers goes on when a shard is taken back below its sequence: then it says so.
    """
    behind = [shard for shard in shards if (shard.sequence or 0) < sequence]
    if is_waiting:
        status = f"waiting for sequence {sequence}"
    else:
        back = [shard for shard in behind if shard.sequence is not None]
        status = "answers"
        if back:
            status += f", though shards were taken back below sequence {sequence}"
        behind = back
    if behind:
        status += ": " + "; ".join(_said(shard) for shard in behind)
    return {
        "sparseSequence": sequence,
        "sparseReached": not is_waiting,
        "sparseStatus": status,
        "sparseShards": [_document(shard) for shard in shards],
    }


def _said(shard: ShardProgress) -> str:
    what = f": {shard.reason}" if shard.sequence is None else f" is at {shard.sequence}"
    return f"shard {shard.index} at {shard.address}{what}"


def _document(shard: ShardProgress) -> dict[str, Any]:
    known = {"message": shard.reason} if shard.sequence is None else {"appliedSequence": shard.sequence}
    return {"replicaIndex": shard.index, "address": shard.address, **known}
