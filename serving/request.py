"""One request on its way through the frontend, and what becomes of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from satrap.errors import SatrapError
from satrap.serving.query import Query

__all__ = ["NO_HEADERS", "OK", "Prediction", "Request"]

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

OK = 200
TOO_LONG = 500


class Prediction(NamedTuple):
    """A worker's answer to one request, or one part of an answer that is streamed.

    Attributes:
        code: 200, or the HTTP status of an error, whose sentence is the value.
        value: the prediction's bytes.
        times: milliseconds of its batch: `handler`, and the parts of it that the handler reported.
        is_stale: it was made from embeddings that may be out of date.
        staleness_ms: the age of the newest training event in its batch's embeddings; None: not known.
        status: the HTTP status that the handler chose (200 if it chose none); of an error the same as `code`.
        phrase: the reason phrase that the handler chose, or nothing.
        headers: the response headers that the handler set, the content type among them.
        request_id: the id that the handler saw.
        queue_seconds: from its arrival until its batch was sent to a worker.
        worker_seconds: from then until the answer was here.
        batch_size: requests in its batch.
    """

    code: int
    value: bytes
    times: Mapping[str, float]
    is_stale: bool = False
    staleness_ms: int | None = None
    status: int = OK
    phrase: str = ""
    headers: Mapping[str, str] = NO_HEADERS
    request_id: str = ""
    queue_seconds: float = 0.0
    worker_seconds: float = 0.0
    batch_size: int = 1


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way; `answer` is done when it is answered, failed or abandoned.

    Attributes:
        id: unique in this server, unless the caller chose it.
        query: what is asked.
        answer: of the frontend's loop.
        on_part: takes the parts of a streamed answer that come before the last; None: they are put together.
        arrived: seconds of the monotonic clock.
        sent: the same, when its batch left; 0 while it waits.
        parts: those that came already, where `on_part` does not take them.
        failed_part: the first of them that is an error.
    """

    id: str
    query: Query
    answer: asyncio.Future[Prediction]
    on_part: Callable[[Prediction], None] | None = None
    arrived: float = 0.0
    sent: float = 0.0
    parts: bytes | bytearray = b""
    failed_part: Prediction | None = None

    def fail(self, error: SatrapError) -> None:
        """Answer with an error, if nothing has answered yet."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def succeed(self, prediction: Prediction) -> None:
        """Answer with what the worker said, if somebody still waits."""
        if not self.answer.done():
            self.answer.set_result(prediction)

    def take_part(self, part: Prediction, max_bytes: int) -> None:
        """One part of an answer; who asked for no stream gets all of them in one piece, with the last.

        Pieces longer than `max_bytes` together are not kept: `whole` says so.
        """
        if self.on_part is not None:
            if not self.answer.done():
                self.on_part(part)
        elif part.code != OK:
            self.failed_part = self.failed_part or part
        elif len(self.parts) <= max_bytes:
            self.parts = bytearray(self.parts) if type(self.parts) is bytes else self.parts
            self.parts += part.value

    def whole(self, last: Prediction, max_bytes: int) -> Prediction:
        """The answer with the parts that came before its last; longer than `max_bytes` it is an error."""
        if last.code != OK or not (self.parts or self.failed_part):
            return last
        if self.failed_part:
            return last._replace(
                code=self.failed_part.code, status=self.failed_part.code, value=self.failed_part.value
            )
        if len(self.parts) + len(last.value) > max_bytes:
            sentence = (
                f"the parts of the prediction together exceed {max_bytes} bytes: raise serving.max_response_bytes "
                "(max_response_size in config.properties)"
            )
            return last._replace(code=TOO_LONG, status=TOO_LONG, value=sentence.encode())
        return last._replace(value=bytes(self.parts) + last.value)
