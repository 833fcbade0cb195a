"""What running traffic notices when its model is replaced, again and again, and whether a request is lost."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.contenders import Management, Running
from harness.small_models import IMAGE, Questions, archive_name
from harness.traffic import Call, Traffic

__all__ = ["Replacements", "replace_under_load"]

_VERSIONS = ("1.0", "2.0")
_QUIET_SECONDS = 0.4
"""Between two rounds: what the traffic is like when nothing changes."""


@dataclass(frozen=True)
class Replacements:
    """One server under one client's load."""

    rounds: int
    quiet_ms: float
    """p50 of calls between the rounds."""
    changing_ms: float
    """p50 of calls while a version was registered, made default, and the old one removed."""
    change_seconds: float
    """Median of a round."""
    calls: int
    lost: list[str]
    """What became of every call that was not answered right."""

    @property
    def ratio(self) -> float:
        """Changing / quiet."""
        return self.changing_ms / self.quiet_ms


def replace_under_load(
    running: Running, questions: Questions, rounds: int, on_progress: Callable[[str], None]
) -> Replacements:
    """Replace the model `image` so many times while a client calls it, naming no version.

    The server has version 1.0; afterwards it has that one or 2.0.
    """
    windows: list[tuple[float, float]] = []
    with (
        Management(running.management) as management,
        Traffic(running.inference, questions, _VERSIONS) as traffic,
    ):
        for number in range(rounds):
            on_progress(f"replacing under load: round {number + 1} of {rounds}, {running.process.name}")
            time.sleep(_QUIET_SECONDS)
            old, new = _VERSIONS[number % 2], _VERSIONS[(number + 1) % 2]
            began = time.monotonic()
            management.register(archive_name(IMAGE, new))
            management.set_default(IMAGE, new)
            management.unregister(IMAGE, old)
            windows.append((began, time.monotonic()))
        time.sleep(_QUIET_SECONDS)
        calls = traffic.stop()
    changing, quiet = _split(calls, windows)
    return Replacements(
        rounds,
        quiet_ms=_p50_ms(quiet),
        changing_ms=_p50_ms(changing),
        change_seconds=float(np.median([end - begin for begin, end in windows])),
        calls=len(calls),
        lost=[call.problem for call in calls if call.problem],
    )


def _split(calls: list[Call], windows: list[tuple[float, float]]) -> tuple[list[Call], list[Call]]:
    """Calls that overlap a window, and the others."""
    changing: list[Call] = []
    quiet: list[Call] = []
    for call in calls:
        overlaps = any(call.began < end and begin < call.ended for begin, end in windows)
        (changing if overlaps else quiet).append(call)
    return changing, quiet


def _p50_ms(calls: list[Call]) -> float:
    return float(np.median([call.ended - call.began for call in calls if not call.problem])) * 1e3
