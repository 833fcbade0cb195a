"""A sign has one dim in PERSIA, whose tables are not parted by dim: its last row replaces one of any other dim.

Our tables are parted, so a row that comes with another dim than before has to erase the old one; and one that is older
than what is stored with another dim must not come at all. Both are rare: an embedding config was changed while the
trainer's state was kept, or two features share ids.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from satrap._core.table import Table
from satrap.embedding_server.updates.packet import PacketPart

__all__ = ["with_one_dim_per_sign"]


def with_one_dim_per_sign(
    parts: Sequence[PacketPart], tables: Mapping[int, Table], ordinal: int
) -> list[PacketPart]:
    """The parts of a packet with that ordinal, less what is older than rows of other dims in `tables`, and after them
    the deletes of what they replace there.
    """
    written: list[PacketPart] = []
    replaced: list[PacketPart] = []
    for part in parts:
        wanted = np.ones(len(part.signs), np.bool_)
        for dim, table in tables.items():
            if dim == part.dim:
                continue
            found = np.empty(len(part.signs), np.uint8)
            if not table.contains(part.signs, found):
                continue
            elsewhere = np.unique(part.signs[found.view(np.bool_)])
            _, ordinals, _ = table.capture(elsewhere)
            newer = elsewhere[ordinals > ordinal]
            wanted &= ~np.isin(part.signs, newer)
            older = elsewhere[ordinals <= ordinal]
            if len(older):
                replaced.append(PacketPart(dim, older, None))
        if wanted.all():
            written.append(part)
        elif wanted.any():
            assert part.rows is not None
            written.append(PacketPart(part.dim, part.signs[wanted], part.rows[wanted]))
    return [*written, *replaced]
