"""A packet into the tables: rows by rows, then the watermark. Whatever stops it in between, it can be done again."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from satrap._core.table import Table, TableSpaceError
from satrap.embedding_server.target import Target
from satrap.embedding_server.updates.packet import PacketPart, VerifiedPacket
from satrap.errors import NoSpaceError

__all__ = ["Applied", "apply_packet", "pass_over"]

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Applied:
    """Rows written and rows erased by a packet, in this shard."""

    written: int = 0
    erased: int = 0


def apply_packet(target: Target, packet: VerifiedPacket, on_step: OnStep = lambda name: None) -> Applied:
    """Write a packet's records in their order, then move the watermark. The native code does it without the GIL.

    Doing it again, wholly or after a part, ends in the same rows: they carry the packet's ordinal, and an equal ordinal
    is overwritten. So the watermark comes last. `on_step` is told `part_written` after each part, `rows_written` and
    `watermark_written`.

    Raises:
        NoSpaceError, TableFolderError: a table cannot grow, or be made; some of the rows are written.
    """
    written = erased = 0
    for part in packet.parts:
        if part.rows is None:
            erased += _erase(target, part, packet.ordinal)
        else:
            written += _upsert(target.table_for(part.dim), part, packet.ordinal)
        on_step("part_written")
    on_step("rows_written")
    pass_over(target, packet.sequence, packet.newest_event_ns)
    on_step("watermark_written")
    return Applied(written, erased)


def pass_over(target: Target, sequence: int, newest_event_ns: int = 0) -> None:
    """Move the watermark. Neither its sequence nor its event time goes back."""
    applied, event_ns = target.store.applied
    target.store.set_applied(max(applied, sequence), max(event_ns, newest_event_ns))


def _upsert(table: Table, part: PacketPart, ordinal: int) -> int:
    rows = part.rows
    assert rows is not None
    if rows.dtype != np.dtype(table.dtype) and rows.dtype != np.float32:
        rows = rows.astype(np.float32)  # the table takes its own type, or float32
    try:
        return table.upsert(part.signs, np.ascontiguousarray(rows), ordinal)
    except TableSpaceError as error:
        raise NoSpaceError(str(error)) from error


def _erase(target: Target, part: PacketPart, ordinal: int) -> int:
    # Also where no table is yet: the tombstone keeps an older packet from bringing the row back.
    try:
        return target.table_for(part.dim).erase(part.signs, ordinal)
    except TableSpaceError as error:
        raise NoSpaceError(str(error)) from error
