"""One figure a server and round, the servers taking turns: what starts, registrations and memory are measured by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Figures", "measure_in_turns"]


@dataclass(frozen=True)
class Figures:
    """`values[side]`: one value of each round, in the order measured."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, side: str) -> float:
        """The median over the rounds."""
        return median(self.values[side])

    def ratio(self, side: str, other: str) -> float:
        """The median over the rounds of side / other."""
        pairs = zip(self.values[side], self.values[other], strict=True)
        return median(one / two for one, two in pairs)


def measure_in_turns(
    name: str,
    measures: Mapping[str, Callable[[], float]],
    rounds: int,
    on_progress: Callable[[str], None],
) -> Figures:
    """Measure each side once in every round, A B, B A, A B, ..."""
    figures = Figures()
    for number in range(rounds):
        order = list(measures) if number % 2 == 0 else list(measures)[::-1]
        for side in order:
            on_progress(f"{name}: round {number + 1} of {rounds}, {side}")
            figures.values.setdefault(side, []).append(measures[side]())
    return figures
