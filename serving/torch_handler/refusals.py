"""Handlers that refuse single requests of a batch, so that the others have their answers."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from satrap.serving.context import Context
from satrap.serving.input_names import input_names
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.base_handler import BaseHandler

__all__ = ["RefusingHandler", "per_request", "row_value"]

log = logging.getLogger(__name__)

Row = TypeVar("Row")


class RefusingHandler(BaseHandler):
    """Its `preprocess` goes through the requests with `accepted`, which leaves out those that are wrong.

    `inference` and `postprocess` then see the others only, and `handle` puts the refusals in their places.
    """

    def __init__(self) -> None:
        """Refuse nothing yet."""
        super().__init__()
        self._refused: dict[int, PredictionException] | None = None

    def handle(self, data: Any, context: Context) -> Any:
        """Answer a batch; the element of a refused request is its error."""
        refused = self._refused = {}
        try:
            answers = super().handle(data, context)
        except PredictionException:
            if not refused or len(refused) < len(data):
                raise
            answers = []
        finally:
            self._refused = None
        if not refused or not isinstance(answers, list) or len(answers) != len(data) - len(refused):
            return answers
        rest = iter(answers)
        return [refused[place] if place in refused else next(rest) for place in range(len(data))]

    def accepted(self, data: Sequence[Row], prepare: Callable[[Row], Any]) -> list[Any]:
        """What `prepare` makes of each request, without those for which it raises `PredictionException`.

        Raises:
            PredictionException: no request is left; or, outside of `handle` (micro-batches), the first refusal.
        """
        prepared = []
        refusal: PredictionException | None = None
        for place, row in enumerate(data):
            try:
                prepared.append(prepare(row))
            except PredictionException as error:
                if self._refused is None:
                    raise
                self._refused[place] = refusal = error
        if refusal is not None and not prepared:
            raise refusal
        return prepared


def row_value(row: Any) -> Any:
    """A request's input under TorchServe's names: `data` (a form field, gRPC), otherwise `body`.

    Raises:
        PredictionException: it has neither.
    """
    for key in ("data", "body"):
        value = row.get(key)
        if value is not None and not (isinstance(value, bytes | bytearray | str) and len(value) == 0):
            return value
    raise PredictionException(
        f"the request needs an input 'data' or 'body' that is not empty; it has {input_names(row)}", 400
    )


def per_request(function: Callable[[Any], Any], value: Any) -> Any:
    """What a handler's function makes of one request's value.

    Raises:
        PredictionException: the function's own, or `Prediction failed` for whatever else it raises: a client learns no
            more than from TorchServe, the log has it.
        MemoryError: the function's.
    """
    try:
        return function(value)
    except (PredictionException, MemoryError):
        raise
    except Exception as error:
        log.exception("%s failed on a request", getattr(function, "__name__", function))
        raise PredictionException("Prediction failed", 503) from error
