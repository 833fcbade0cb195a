"""A packet into tables: the twin, and doing it again."""

import threading

import numpy as np
import packet_history
import pytest

from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.embedding_server.updates.apply import apply_packet, pass_over
from satrap.embedding_server.updates.packet import PacketPart, VerifiedPacket
from satrap.formats.persia_checkpoint import ShardRoute


def verified(seed: int, sequence: int) -> VerifiedPacket:
    parts = [PacketPart(part.dim, part.signs, part.rows) for part in packet_history.packet(seed, sequence)]
    return VerifiedPacket(f"{sequence}", "main", sequence, sequence - 1, sequence, parts, 0, sequence * 10)


@pytest.fixture
def target(table_directory):
    """An empty generation that is served."""
    directory = TableDirectory(TablePlace(table_directory, "default", None), ShardRoute(0, 1))
    state = ShardState(directory, "float32", 1)
    state.start(None, lambda progress: None, threading.Event())
    yield state.target()
    state.close()
    directory.close()


def test_equals_the_oracle(target):
    for sequence in range(1, 25):
        apply_packet(target, verified(3, sequence))
    found = packet_history.contents(target.tables)
    assert packet_history.difference(found, packet_history.oracle(3, 24)) == ""
    assert target.store.applied == (24, 240)


@pytest.mark.parametrize("parts", range(7))
def test_again_after_a_part_of_it(target, parts):
    """Any number of its parts, then all of it, then all of it once more."""
    for sequence in range(1, 10):
        apply_packet(target, verified(4, sequence))
    packet = verified(4, 11)
    cut = VerifiedPacket("11", "main", 10, 9, 11, packet.parts[:parts])
    apply_packet(target, verified(4, 10))
    apply_packet(target, cut)
    for _ in range(2):
        apply_packet(target, packet)
        found = packet_history.contents(target.tables)
        assert packet_history.difference(found, packet_history.oracle(4, 11)) == ""


def test_steps_and_counts(target):
    steps: list[str] = []
    signs = np.arange(4, dtype=np.uint64)
    rows = np.ones((4, 2), np.float16)
    packet = VerifiedPacket(
        "1", "main", 1, 0, 1, [PacketPart(2, signs, rows), PacketPart(2, signs[:3], None)], 0, 9
    )
    applied = apply_packet(target, packet, steps.append)
    assert (applied.written, applied.erased) == (4, 3)
    assert steps == ["part_written", "part_written", "rows_written", "watermark_written"]
    assert len(target.tables[2]) == 1


def test_the_watermark_never_goes_back(target):
    pass_over(target, 7, 70)
    pass_over(target, 5, 90)
    assert target.store.applied == (7, 90)
    pass_over(target, 8)
    assert target.store.applied == (8, 90)
