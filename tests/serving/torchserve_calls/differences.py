"""What differs between two servers' answers, and which of it is meant to."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from torchserve_calls.answer import Answer

__all__ = [
    "LIST",
    "Deliberate",
    "Difference",
    "Place",
    "differences",
    "page_with_table",
    "read_deliberate",
    "sort_out",
    "table",
]

LIST = Path(__file__).with_name("deliberate.yaml")
_ABSENT = "(absent)"
_BEGIN, _END = "<!-- differences -->", "<!-- end of differences -->"


@dataclass(frozen=True)
class Difference:
    """One part of one answer that is not the same."""

    scenario: str
    call: str
    part: str
    """`status`, `body`, or a header's name."""
    theirs: str
    ours: str

    def __str__(self) -> str:
        """For a terminal: - is TorchServe, + is satrap."""
        lines = difflib.ndiff(self.theirs.splitlines(), self.ours.splitlines())
        told = [line for line in lines if line[0] in "+-"] or ["  (the line ends differ)"]
        return "\n".join([f"{self.scenario}: {self.call}: {self.part}", *(f"  {line}" for line in told)])


@dataclass(frozen=True)
class Place:
    """Where a deliberate difference is seen, and what it looks like there."""

    scenario: str
    calls: Sequence[str]
    """Patterns of calls' names with * and ?; brackets mean themselves."""
    parts: Sequence[str]
    ours: str = ""
    """A regular expression that is found in what satrap says."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """If any: what satrap says is what TorchServe says with these texts replaced, and nothing else."""

    def covers(self, difference: Difference) -> bool:
        """Whether it is this difference."""
        return (
            difference.scenario == self.scenario
            and difference.part in self.parts
            and any(_matches(difference.call, pattern) for pattern in self.calls)
            and re.search(self.ours, difference.ours, re.DOTALL) is not None
            and (not self.instead or self._replaced(difference.theirs) == difference.ours)
        )

    def _replaced(self, theirs: str) -> str:
        for text, other in self.instead.items():
            theirs = theirs.replace(text, other)
        return theirs


@dataclass(frozen=True)
class Deliberate:
    """A difference that is meant to be: a row of the table in docs/torchserve.md."""

    case: str
    torchserve: str
    satrap: str
    why: str
    seen: Sequence[Place]
    """Empty where no call of the comparison can show it."""


def differences(scenario: str, theirs: Mapping[str, Answer], ours: Mapping[str, Answer]) -> list[Difference]:
    """Everything that differs. Both must be answers to the same calls."""
    found = []
    for call, answer in theirs.items():
        parts, our_parts = _parts(answer), _parts(ours[call])
        for part in sorted(parts.keys() | our_parts.keys()):
            one, other = parts.get(part, _ABSENT), our_parts.get(part, _ABSENT)
            if one != other:
                found.append(Difference(scenario, call, part, one, other))
    return found


def read_deliberate() -> list[Deliberate]:
    """The list."""
    return [_deliberate(entry) for entry in yaml.safe_load(LIST.read_text())]


def sort_out(
    found: Iterable[Difference], deliberate: Sequence[Deliberate], scenarios: Sequence[str]
) -> tuple[list[Difference], list[tuple[Deliberate, Place]]]:
    """Differences that nobody meant, and places of the list, within these scenarios, where nothing differs any more."""
    places = [(one, place) for one in deliberate for place in one.seen]
    seen: set[int] = set()
    unmeant = []
    for difference in found:
        covering = [number for number, (_, place) in enumerate(places) if place.covers(difference)]
        seen.update(covering)
        if not covering:
            unmeant.append(difference)
    gone = [
        pair for number, pair in enumerate(places) if number not in seen and pair[1].scenario in scenarios
    ]
    return unmeant, gone


def table(deliberate: Sequence[Deliberate]) -> str:
    """The list as Markdown."""
    lines = ["| case | TorchServe | satrap | why |", "|---|---|---|---|"]
    lines += [f"| {one.case} | {one.torchserve} | {one.satrap} | {one.why} |" for one in deliberate]
    return "\n".join(lines)


def page_with_table(page: str, deliberate: Sequence[Deliberate]) -> str:
    """A page of Markdown, with the table between its two markers written anew.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"the page needs the lines {_BEGIN} and {_END}, between which the table is written")
    return f"{before}{begin}\n{table(deliberate)}\n{end}{after}"


def _parts(answer: Answer) -> dict[str, str]:
    return {"status": answer.status, "body": answer.body, **answer.headers}


def _matches(call: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(call, pattern.replace("[", "[[]"))


def _deliberate(entry: Mapping[str, Any]) -> Deliberate:
    return Deliberate(
        entry["case"],
        entry["torchserve"],
        entry["satrap"],
        entry["why"],
        [place for places in entry.get("seen", []) for place in _places(places)],
    )


def _places(entry: Mapping[str, Any]) -> list[Place]:
    return [
        Place(
            scenario,
            _texts(entry["calls"]),
            _texts(entry["parts"]),
            str(entry.get("ours", "")),
            entry.get("instead", {}),
        )
        for scenario in _texts(entry["scenario"])
    ]


def _texts(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
