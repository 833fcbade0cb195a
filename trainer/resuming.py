"""Where a trainer's sequence goes on: a pure decision from what is published and what was loaded."""

from dataclasses import dataclass

from satrap.errors import ConflictError

__all__ = ["Loaded", "Position", "resume"]


@dataclass(frozen=True)
class Loaded:
    """The checkpoint that a trainer took its rows from. `stream` is empty where the format knows none (PERSIA's)."""

    stream: str
    sequence: int


@dataclass(frozen=True)
class Position:
    """What the next publication follows on.

    `last` is the sequence that the next one is one more than. With `full_due` the next one must be a full checkpoint,
    as packets would be differences to a state that servers do not have.
    """

    last: int
    full_due: bool


def resume(stream: str, newest: int, loaded: Loaded | None, *, start_over: bool) -> Position:
    """Where the stream goes on, whose newest published sequence is `newest` (0: nothing is published).

    Raises:
        ConflictError: something is published and nothing was loaded, nor does the caller want to start over.
    """
    if loaded is None:
        if newest == 0:
            return Position(0, full_due=False)
        if start_over:
            return Position(newest, full_due=True)
        raise ConflictError(
            f"the stream {stream!r} is published up to sequence {newest}, but this trainer has loaded nothing and "
            "would go on from empty tables. Call load(checkpoint) before anything is committed; or, to begin again "
            "with what is committed now, make TrainCtx with start_over=True and call dump(); or name another stream "
            "(trainer.stream)"
        )
    if loaded.stream != stream or loaded.sequence < newest:
        return Position(newest, full_due=True)
    return Position(loaded.sequence, full_due=False)
