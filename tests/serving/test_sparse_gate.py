"""What embedding servers say of their sequence, and what a version that needs one is told."""

import grpc
import pytest

from satrap.protos import embedding_pb2 as pb
from satrap.serving.sparse_gate import ShardProgress, describe, everywhere, progress_of, unreachable

READY = {"state": pb.STATE_READY, "replica_index": 1, "replica_size": 2}


def status(**fields: object) -> pb.StatusResponse:
    return pb.StatusResponse(**{**READY, **fields})


@pytest.mark.parametrize(
    ("said", "sequence", "reason"),
    [
        (status(updates=pb.UpdateStatus(applied_sequence=12)), 12, ""),
        (status(updates=pb.UpdateStatus()), 0, ""),
        (status(), None, "it follows no packets"),
        (status(state=pb.STATE_LOADING, message="loading: 40 %"), None, "loading: 40 %"),
        (status(state=pb.STATE_FAILED), None, "it is not ready"),
        (
            status(replica_index=0, updates=pb.UpdateStatus(applied_sequence=12)),
            None,
            "it is shard 0 of 2, not 1 of 2",
        ),
    ],
)
def test_what_a_shard_says(said: pb.StatusResponse, sequence: int | None, reason: str) -> None:
    progress = progress_of(1, 2, "a:1", said)
    assert (progress.index, progress.address, progress.sequence) == (1, "a:1", sequence)
    assert progress.reason.startswith(reason)
    assert bool(progress.reason) == (sequence is None)


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "no answer"),
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:1: Connection refused",
            "cannot be reached (Connection refused)",
        ),
        (grpc.StatusCode.UNAVAILABLE, "", "cannot be reached (UNAVAILABLE)"),
    ],
)
def test_a_shard_that_says_nothing(code: grpc.StatusCode, details: str, reason: str) -> None:
    assert unreachable(1, "a:1", code, details) == ShardProgress(1, "a:1", None, reason)


@pytest.mark.parametrize(
    ("sequences", "reached"),
    [([], 0), ([7], 7), ([7, 5], 5), ([7, None], 0), ([None], 0), ([0, 9], 0)],
)
def test_everywhere(sequences: list[int | None], reached: int) -> None:
    assert everywhere([ShardProgress(i, "", each) for i, each in enumerate(sequences)]) == reached


SHARDS = [ShardProgress(0, "a:1", 12), ShardProgress(1, "a:2", 9), ShardProgress(2, "a:3", None, "no answer")]


def test_described_while_it_waits() -> None:
    assert describe(12, SHARDS, is_waiting=True) == {
        "sparseSequence": 12,
        "sparseReached": False,
        "sparseStatus": "waiting for sequence 12: shard 1 at a:2 is at 9; shard 2 at a:3: no answer",
        "sparseShards": [
            {"replicaIndex": 0, "address": "a:1", "appliedSequence": 12},
            {"replicaIndex": 1, "address": "a:2", "appliedSequence": 9},
            {"replicaIndex": 2, "address": "a:3", "message": "no answer"},
        ],
    }


def test_described_when_it_answers() -> None:
    assert describe(9, SHARDS[:2], is_waiting=False)["sparseStatus"] == "answers"
    assert describe(9, SHARDS, is_waiting=False)["sparseStatus"] == "answers", "silence is no rollback"
    taken_back = describe(10, SHARDS, is_waiting=False)
    assert taken_back["sparseReached"] is True
    assert taken_back["sparseStatus"] == (
        "answers, though shards were taken back below sequence 10: shard 1 at a:2 is at 9"
    )
