"""Bounds that come with the checkpoint, at a real server: they outlive its process, and replicas judge alike."""

import numpy as np
import pytest
from packet_files import DIM

from satrap.formats.checkpoint import CheckpointWriter
from satrap.formats.packet import PacketContent
from satrap.storage import open_storage

BOUNDS = {"guardrails": {"max_norm_over_checkpoint": 3.0, "max_changed_share": 0.5}}


@pytest.fixture
def checkpoint(tmp_path):
    """1,000 rows of norm 2."""
    signs = np.arange(1000, dtype=np.uint64)
    storage = open_storage(tmp_path / "checkpoint")
    with CheckpointWriter(storage, stream="main", writer="w", sequence=0) as writer:
        writer.write(DIM, signs, np.ones((1000, DIM), np.float32))
        writer.finish()
    return tmp_path / "checkpoint"


def part(count: int, value: float) -> list[PacketContent]:
    signs = np.arange(count, dtype=np.uint64)
    return [PacketContent(DIM, signs, np.full((count, DIM), value, np.float32))]


def codes(status) -> list[str]:
    return [verdict.code for verdict in status.verdicts]


def test_norms(packets, following, checkpoint):
    shard = following(BOUNDS, checkpoint=checkpoint)
    packets.publish(parts=part(10, 2.9))
    assert shard.follow().applied_sequence == 1
    packets.publish(parts=part(10, 3.1))
    status = shard.follow()
    assert status.applied_sequence == 1 and codes(status) == ["guardrail"]
    (record,) = shard.quarantine("list")
    assert "max_norm_over_checkpoint" in record.reason
    shard.server.close()
    again = following(
        {**BOUNDS, "quarantine": "skip"},
        checkpoint=checkpoint,
        table_directory=shard.server.settings.table_directory,
    )
    assert again.server.status().started == "warm"
    again.quarantine("retry", record.name)
    packets.publish(parts=part(10, 2.0))
    status = again.follow()
    assert (status.applied_sequence, status.skipped_packets, codes(status)) == (3, 1, ["guardrail"])


def test_replicas_judge_alike_wherever_they_begin(packets, following, checkpoint):
    """One follows all the time, one has applied nothing yet, one has been half through: none asks its table."""
    early = following({**BOUNDS, "quarantine": "skip"}, checkpoint=checkpoint)
    for count in (400, 501, 500):
        packets.publish(parts=part(count, 1.5))
        early.follow()
    packets.publish(parts=[PacketContent(DIM, np.arange(100, 1000, dtype=np.uint64), None)])
    packets.publish(parts=part(300, 1.0))
    late = following({**BOUNDS, "quarantine": "skip"}, checkpoint=checkpoint)
    verdicts = [
        [(verdict.sequence, verdict.code) for verdict in shard.follow().verdicts] for shard in (early, late)
    ]
    assert verdicts[0] == verdicts[1] == [(2, "guardrail"), (4, "guardrail")]
    assert early.follow().applied_sequence == late.follow().applied_sequence == 5
