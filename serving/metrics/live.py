"""What `/metrics` asks for when it is asked: versions and their workers as they are at this moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from satrap.serving.roster import WorkerState

__all__ = ["LiveVersion"]


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """One version that is there, be it draining.

    Attributes:
        model: its name.
        version: its version.
        waiting: requests in its queue.
        workers: how many are in each state; a state without any may be missing.
        numbers: its workers' numbers.
    """

    model: str
    version: str
    waiting: int
    workers: Mapping[WorkerState, int]
    numbers: Sequence[int]
