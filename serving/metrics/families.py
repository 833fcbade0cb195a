"""Metrics by name, and their values by labels.

A caller on a hot path keeps the value that it got (`labels`) and changes it in place: `counter.value += 1`,
`gauge.value = x`, `histogram.observe(x)`. Not thread-safe.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

__all__ = ["SECONDS", "Distribution", "Family", "FamilyKind", "Labels", "Number", "Registry", "sample_names"]

FamilyKind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order in which they are written."""

SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""Bounds of histograms of durations."""


class Number:
    """A counter's or a gauge's value."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        """Start at 0."""
        self.value = 0.0


class Distribution:
    """A histogram's values: how many lie at or below each bound."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        """Start empty; `bounds` ascend."""
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value, which is not NaN."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Bounds, the last one infinite, and how many values lie at or below each."""
        below = 0
        for bound, count in zip((*self.bounds, math.inf), self._counts, strict=True):
            below += count
            yield bound, below


V = TypeVar("V", Number, Distribution)


class Family(Generic[V]):
    """One metric: its values by their labels."""

    def __init__(self, name: str, help_text: str, kind: FamilyKind, new: Callable[[], V]) -> None:
        """Start without any value; `new` makes one."""
        self.name, self.help_text, self.kind = name, help_text, kind
        self._new: Callable[[], V] = new
        self._values: dict[Labels, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def labels(self, *labels: tuple[str, str]) -> V:
        """The value with these labels; it begins when it is asked for."""
        value = self._values.get(labels)
        if value is None:
            value = self._values[labels] = self._new()
        return value

    def has(self, labels: Labels) -> bool:
        """Whether there is a value with these labels."""
        return labels in self._values

    def items(self) -> list[tuple[Labels, V]]:
        """All values, in the order in which they began."""
        return list(self._values.items())

    def forget(self, gone: Callable[[Labels], bool]) -> None:
        """Drop the values whose labels `gone` says so of."""
        for labels in [labels for labels in self._values if gone(labels)]:
            del self._values[labels]


def sample_names(family: Family[Number] | Family[Distribution]) -> frozenset[str]:
    """The names that a family's lines have, its own among them."""
    if family.kind == "histogram":
        return frozenset(f"{family.name}{suffix}" for suffix in ("", "_bucket", "_count", "_sum"))
    return frozenset((family.name,))


class Registry:
    """All families, by name."""

    def __init__(self) -> None:
        """Start without any."""
        self._families: dict[str, Family[Number] | Family[Distribution]] = {}

    def __iter__(self) -> Iterator[Family[Number] | Family[Distribution]]:
        """In the order of their names."""
        return iter(sorted(self._families.values(), key=lambda family: family.name))

    def get(self, name: str) -> Family[Number] | Family[Distribution] | None:
        """The family of that name, if there is one."""
        return self._families.get(name)

    def owner(self, name: str) -> Family[Number] | Family[Distribution] | None:
        """The family that has lines of that name, if there is one."""
        return next((family for family in self._families.values() if name in sample_names(family)), None)

    def counter(self, name: str, help_text: str) -> Family[Number]:
        """A new family of values that only grow."""
        return self._add(Family(name, help_text, "counter", Number))

    def gauge(self, name: str, help_text: str) -> Family[Number]:
        """A new family of values as they are."""
        return self._add(Family(name, help_text, "gauge", Number))

    def histogram(self, name: str, help_text: str, bounds: Sequence[float] = SECONDS) -> Family[Distribution]:
        """A new family of distributions."""
        return self._add(Family(name, help_text, "histogram", lambda: Distribution(bounds)))

    def _add(self, family: Family[V]) -> Family[V]:
        taken = [name for name in sorted(sample_names(family)) if self.owner(name) is not None]
        if taken:
            raise ValueError(f"there is a metric {taken[0]} already")
        self._families[family.name] = family
        return family
