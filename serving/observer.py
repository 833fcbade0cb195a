"""Who is told about every request's end: where metrics and the access log come from.

Called on the frontend's loop, once for a batch and not for each value in it; an observer must not wait.
"""

from collections.abc import Sequence
from typing import Protocol

from satrap.errors import SatrapError
from satrap.serving.observation import Observation
from satrap.serving.request import Prediction, Request

__all__ = ["Ignore", "Observer"]


class Observer(Protocol):
    """Every request that reached a version ends in exactly one of `answered` and `failed`."""

    def answered(
        self,
        model: str,
        version: str,
        worker: int,
        requests: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """A worker answered a batch, maybe with errors; predictions are in the requests' order.

        `observations` are what the handler reported through `context.metrics`.
        """

    def failed(self, model: str, version: str, request: Request, error: SatrapError | None) -> None:
        """No worker answered it; None: its caller went away while it waited in the queue."""

    def loaded(self, model: str, version: str, worker: int, seconds: float) -> None:
        """A worker is ready, so long after its process was asked for."""


class Ignore:
    """Tells nobody."""

    def answered(
        self,
        model: str,
        version: str,
        worker: int,
        requests: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """Part of `Observer`."""

    def failed(self, model: str, version: str, request: Request, error: SatrapError | None) -> None:
        """Part of `Observer`."""

    def loaded(self, model: str, version: str, worker: int, seconds: float) -> None:
        """Part of `Observer`."""
