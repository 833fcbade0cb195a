"""What became of a management call that was understood: TorchServe's sentence, and how far it is carried out."""

import enum
from dataclasses import dataclass

__all__ = ["Outcome", "OutcomeState"]


class OutcomeState(enum.IntEnum):
    """How far a change is carried out; the value is the HTTP status that TorchServe answers with."""

    DONE = 200
    ACCEPTED = 202
    PARTIAL = 206


@dataclass(frozen=True, slots=True)
class Outcome:
    """A sentence for the caller. ACCEPTED: it goes on in the background; PARTIAL: not all of it was reached."""

    sentence: str
    state: OutcomeState = OutcomeState.DONE
