"""A packet as the pipeline hands it on: fetched whole, verified, and cut down to what this shard owns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PacketPart", "VerifiedPacket"]


@dataclass(frozen=True)
class PacketPart:
    """Records of one dim, in the order in which they count: the last one of a sign wins.

    `signs` is u64 [n]; `rows` is [n, dim] of float32 or float16, or None: the signs are deleted. Arrays may be borrowed
    from a file's buffer, which they keep alive, and are read-only.
    """

    dim: int
    signs: NDArray[np.uint64]
    rows: NDArray[Any] | None


@dataclass(frozen=True)
class VerifiedPacket:
    """One packet: nothing of it is applied yet, all of it has been read and checked.

    `name` is what logs, Status and quarantine call it (the manifest's name, or the path of a .inc file under the
    directory). `ordinal` is what its rows carry: the sequence, or PERSIA's unix_seconds; below 2^32. `sequence` is the
    watermark once it is applied, `previous` the one before. Times are nanoseconds since the epoch, 0 if not known;
    `published_ns` is when the packet became visible in its directory, by the publisher's clock.
    """

    name: str
    stream: str
    sequence: int
    previous: int
    ordinal: int
    parts: Sequence[PacketPart]
    oldest_event_ns: int = 0
    newest_event_ns: int = 0
    published_ns: int = 0

    @property
    def records(self) -> int:
        """Rows and deletes of this shard."""
        return sum(len(part.signs) for part in self.parts)
