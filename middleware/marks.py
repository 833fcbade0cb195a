"""How far what was looked up may be out of date, told to whoever sends the answer, past the code in between.

    worker ── with hear() as marks: ──▶ any handler ──▶ lookup ── tell(embeddings) ──▶ marks

A handler of PERSIA's or TorchServe's knows nothing of this and need not: the lookups of its thread tell the worker.
Threads that a handler starts have a context of their own; what they look up is told to nobody.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from satrap.middleware.assemble import Embeddings

__all__ = ["Marks", "age_ms", "hear", "later", "tell"]

_NS_IN_MS = 1_000_000


@dataclass(slots=True)
class Marks:
    """Of several lookups together.

    Attributes:
        is_stale: The server of some rows is gone.
        staleness_ms: The greatest of the lookups; None: none of them knows.
    """

    is_stale: bool = False
    staleness_ms: int | None = None


_HEARER: ContextVar[Marks | None] = ContextVar("hearer", default=None)


@contextmanager
def hear() -> Iterator[Marks]:
    """What this context's lookups say of themselves while the block runs."""
    marks = Marks()
    token = _HEARER.set(marks)
    try:
        yield marks
    finally:
        _HEARER.reset(token)


def tell(answers: Sequence[Embeddings]) -> None:
    """Tell whoever hears, if anybody does."""
    marks = _HEARER.get()
    if marks is None:
        return
    for embeddings in answers:
        marks.is_stale |= embeddings.is_stale
        marks.staleness_ms = later(marks.staleness_ms, embeddings.staleness_ms)


def later(one: int | None, other: int | None) -> int | None:
    """The greater of two stalenesses; one that is not known does not count."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def age_ms(event_ns: int, now_ns: int) -> int | None:
    """Whole milliseconds from an event to now, 0 if a clock says that it is yet to come; None for event 0, unknown."""
    return max(now_ns - event_ns, 0) // _NS_IN_MS if event_ns else None
