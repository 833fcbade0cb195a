"""A trainer's packets with everything in them that could go wrong, and what a table must hold after them: the oracle.

Twelve hundred signs, of which every packet changes some again; signs repeated in a packet; deletes between rows, also
of what was never there; two dims; a packet without records. Made from a seed alone.
"""

from pathlib import Path

import numpy as np

from satrap.formats.checkpoint import CheckpointWriter
from satrap.formats.packet import PacketContent, publish_packet
from satrap.storage import open_storage

DIMS = (4, 8)
SIGNS = 1200
STREAM = "main"

Contents = dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""By dim: signs in order, ordinals, rows."""


def packet(seed: int, sequence: int) -> list[PacketContent]:
    """The records of one packet."""
    chance = np.random.default_rng([seed, sequence])
    if sequence % 13 == 7:
        return []
    parts = []
    for dim in DIMS[: 1 + sequence % 2]:
        for deletes in (False, True, False):
            count = int(chance.integers(1, 60 if deletes else 300))
            signs = chance.integers(0, SIGNS, count).astype(np.uint64)  # some of them twice
            rows = None if deletes else chance.normal(size=(count, dim)).astype(np.float32)
            parts.append(PacketContent(dim, signs, rows))
    return parts


def publish(directory: Path, seed: int, sequences: range, num_shards: int = 1, writer: str = "w") -> None:
    """Publish packets of the stream into a directory."""
    storage = open_storage(directory)
    for sequence in sequences:
        publish_packet(
            storage,
            stream=STREAM,
            writer=writer,
            sequence=sequence,
            previous=sequence - 1,
            parts=packet(seed, sequence),
            num_shards=num_shards,
            oldest_event_ns=sequence * 1000,
            newest_event_ns=sequence * 1000 + 999,
        )


def oracle(seed: int, last: int) -> Contents:
    """What is there after all packets up to `last`, record by record."""
    held: dict[int, dict[int, tuple[int, np.ndarray]]] = {dim: {} for dim in DIMS}
    for sequence in range(1, last + 1):
        for part in packet(seed, sequence):
            for position, sign in enumerate(part.signs.tolist()):
                if part.rows is None:
                    held[part.dim].pop(sign, None)
                else:
                    held[part.dim][sign] = sequence, part.rows[position]
    return {
        dim: (
            np.array(sorted(rows), np.uint64),
            np.array([rows[sign][0] for sign in sorted(rows)], np.uint32),
            np.array([rows[sign][1] for sign in sorted(rows)], np.float32).reshape(-1, dim),
        )
        for dim, rows in held.items()
        if rows
    }


def write_checkpoint(folder: Path, seed: int, sequence: int) -> None:
    """What is there after packet `sequence`, as a full checkpoint."""
    with CheckpointWriter(
        open_storage(folder),
        stream=STREAM,
        writer="w",
        sequence=sequence,
        newest_event_ns=sequence * 1000 + 999,
    ) as checkpoint:
        for dim, (signs, _, rows) in oracle(seed, sequence).items():
            checkpoint.write(dim, signs, rows)
        checkpoint.finish()


def since_checkpoint(found: Contents, sequence: int) -> Contents:
    """What is there, if the checkpoint of `sequence` was loaded on the way: its rows carry its sequence."""
    return {
        dim: (signs, np.maximum(ordinals, np.uint32(sequence)), rows)
        for dim, (signs, ordinals, rows) in found.items()
    }


def contents(tables) -> Contents:
    """What tables hold, by dim, sorted by sign."""
    found = {}
    for dim, table in tables.items():
        signs, rows, ordinals, start = [], [], [], 0
        while start is not None:
            page_signs, page_rows, page_ordinals, start = table.scan(start, 1 << 16)
            signs.append(page_signs.copy())
            rows.append(page_rows.copy())
            ordinals.append(page_ordinals.copy())
        all_signs = np.concatenate(signs)
        order = np.argsort(all_signs)
        if len(order):
            found[dim] = all_signs[order], np.concatenate(ordinals)[order], np.concatenate(rows)[order]
    return found


def difference(found: Contents, expected: Contents) -> str:
    """Where two contents differ, byte by byte; empty if they do not."""
    if found.keys() != expected.keys():
        return f"dims {sorted(found)} instead of {sorted(expected)}"
    for dim in expected:
        for name, have, want in zip(("signs", "ordinals", "rows"), found[dim], expected[dim], strict=True):
            if have.dtype != want.dtype or have.shape != want.shape:
                return f"dim {dim}: {len(have)} {name} instead of {len(want)}"
            if have.tobytes() != want.tobytes():
                wrong = np.flatnonzero((have != want).reshape(len(have), -1).any(axis=1))
                return f"dim {dim}: {name} of {len(wrong)} signs, the first {expected[dim][0][wrong[0]]}"
    return ""
