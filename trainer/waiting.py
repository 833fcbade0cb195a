"""Which rows wait for the next packet, and when the packet is due: pure state, no clock of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satrap._core.table import Table

__all__ = ["FlushRule", "Waiting", "WaitingSigns"]

Signs = NDArray[np.uint64]


@dataclass(frozen=True)
class Waiting:
    """How much waits: distinct signs, and since when by the caller's clock, in seconds (None: nothing waits)."""

    signs: int
    since: float | None


@dataclass(frozen=True)
class FlushRule:
    """When a packet is due."""

    buffer_size: int
    """PERSIA's rule: due when more distinct rows than this are waiting."""
    seconds: float
    """Due when something has waited for so long."""

    def full(self, waiting: Waiting) -> bool:
        """Whether PERSIA's rule asks for a packet."""
        return waiting.signs > self.buffer_size

    def deadline(self, waiting: Waiting) -> float | None:
        """When the time rule asks for a packet; None: never, as nothing waits."""
        return None if waiting.since is None else waiting.since + self.seconds

    def due(self, waiting: Waiting, now: float) -> bool:
        """Whether either rule asks for a packet."""
        deadline = self.deadline(waiting)
        return self.full(waiting) or (deadline is not None and now >= deadline)


class WaitingSigns:
    """The distinct signs that changed since the last packet, by dim, with the times of their events.

    Not for several threads at once. It holds no rows: what a packet says of a sign is what is so when it is cut.
    """

    def __init__(self) -> None:
        # A native table with the smallest row there is makes a set of any u64 that counts as it grows.
        self._sets: dict[int, Table] = {}
        self._since: float | None = None
        self._event_times_ns = (0, 0)

    @property
    def waiting(self) -> Waiting:
        """How much waits."""
        return Waiting(sum(len(signs) for signs in self._sets.values()), self._since)

    @property
    def event_times_ns(self) -> tuple[int, int]:
        """The oldest and the newest event that waits, in nanoseconds since the epoch; (0, 0) if nothing does."""
        return self._event_times_ns

    def add(self, dim: int, signs: Signs, event_time_ns: int, now: float) -> None:
        """Note that these signs (u64 [n]) changed by an event of that time."""
        if not len(signs):
            return
        if dim not in self._sets:
            self._sets[dim] = Table(1, "float16")
        self._sets[dim].upsert(signs, np.zeros((len(signs), 1), np.float16))
        if self._since is None:
            self._since = now
            self._event_times_ns = (event_time_ns, event_time_ns)
        oldest, newest = self._event_times_ns
        self._event_times_ns = (min(oldest, event_time_ns), max(newest, event_time_ns))

    def signs(self) -> Mapping[int, Signs]:
        """Everything that waits, by dim: u64 [n], sorted."""
        return {dim: np.sort(_members(signs)) for dim, signs in sorted(self._sets.items())}

    def clear(self) -> None:
        """Let nothing wait."""
        self._sets, self._since, self._event_times_ns = {}, None, (0, 0)


def _members(table: Table) -> Signs:
    pages = []
    start: int | None = 0
    while start is not None:
        signs, _, _, start = table.scan(start, 1 << 20)
        pages.append(signs)
    return np.concatenate(pages) if pages else np.empty(0, np.uint64)
