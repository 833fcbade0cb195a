"""How long a packet takes from its publication to its last row, by clocks that may disagree."""

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["BOUNDS", "Delays", "Freshness", "quantile"]

BOUNDS = tuple(round(0.001 * 2 ** (step / 2), 6) for step in range(37))
"""Upper bounds in seconds, log-spaced: two to a doubling, from 1 ms to 262 s."""

_SKEW_SECONDS = 1.0
"""A publisher's clock that is ahead by more is reported."""


@dataclass(frozen=True)
class Delays:
    """A histogram: `counts[i]` of the `observed` delays lie at or below `BOUNDS[i]`; `total` is the sum of all."""

    counts: tuple[int, ...] = (0,) * len(BOUNDS)
    observed: int = 0
    total: float = 0.0


def quantile(delays: Delays, share: float) -> float:
    """The delay that `share` (0 to 1) of the observations stay at or below, in seconds, between bounds by proportion.

    0 if nothing was observed; the greatest bound if it lies beyond.
    """
    wanted = share * delays.observed
    if not delays.observed:
        return 0.0
    position = bisect_left(delays.counts, max(wanted, 1e-9))
    if position == len(BOUNDS):
        return BOUNDS[-1]
    low = BOUNDS[position - 1] if position else 0.0
    below = delays.counts[position - 1] if position else 0
    within = delays.counts[position] - below
    return low + (BOUNDS[position] - low) * (wanted - below) / within


@dataclass
class Freshness:
    """What was observed since start. One thread observes; `delays` is replaced whole, any thread reads it.

    `skew_seconds` is how far the last packet's times were ahead of this machine's clock; 0: not.
    """

    delays: Delays = field(default_factory=Delays)
    skew_seconds: float = 0.0

    def observe(self, published_ns: int, newest_event_ns: int, visible_ns: int) -> None:
        """One packet; times of 0 are not known. A publication in the future counts as no delay."""
        self.skew_seconds = max(published_ns - visible_ns, newest_event_ns - visible_ns, 0) / 1e9
        if published_ns <= 0:
            return
        seconds = max(visible_ns - published_ns, 0) / 1e9
        first = bisect_left(BOUNDS, seconds)
        counts = tuple(count + (position >= first) for position, count in enumerate(self.delays.counts))
        self.delays = Delays(counts, self.delays.observed + 1, self.delays.total + seconds)

    @property
    def clock_ahead(self) -> bool:
        """Whether the last packet's times were ahead by more than what clocks usually disagree by."""
        return self.skew_seconds > _SKEW_SECONDS
