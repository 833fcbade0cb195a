"""The ASGI application of one address: asks its routes in turn, and gives every answer what all answers have."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from satrap.errors import (
    InvalidTokenError,
    RequestTooLargeError,
    ResourceNotFoundError,
    SatrapError,
    UnavailableError,
)
from satrap.serving.refusal import Refusal
from satrap.serving.rest.asgi import IS_KEPT, SET_PHRASE, Receive, Scope, Send
from satrap.serving.rest.body_stream import BodyStream
from satrap.serving.rest.departure import ClientGoneError
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import NEVER_CACHED, Headers, RestResponse, error_document, error_response

__all__ = ["Answered", "RestApp", "Routes"]

log = logging.getLogger("satrap.serving")

Answered = Callable[[Scope, int, float], None]
"""Told about every answer: the request's scope, the status, and the seconds that it took."""

_CLOSE = (b"connection", b"close")
_KEEP_ALIVE = (b"connection", b"keep-alive")
_WITHOUT_BODY = (204, 304)

_REFUSALS: Mapping[type[SatrapError], Refusal] = {
    InvalidTokenError: "token",
    RequestTooLargeError: "too large",
}


class Routes(Protocol):
    """Some paths of an API."""

    async def answer(self, request: RestRequest) -> RestResponse | None:
        """Answer a request; None passes it on to the next routes.

        Raises:
            SatrapError: becomes the document of an error.
            ClientGoneError: nobody waits for an answer.
        """


class RestApp:
    """TorchServe's chain of handlers, with its headers on every answer and its documents of errors."""

    def __init__(
        self,
        routes: Sequence[Routes],
        request_ids: Iterator[str],
        *,
        cors: Mapping[str, str] | None = None,
        answered: Answered | None = None,
        refused: Callable[[Refusal], None] | None = None,
    ) -> None:
        """`cors` are headers by name that an answer gets if it has none of that name.

        `refused` hears why a request is refused that no API gets; `answered` is told about it as well.
        """
        self._routes = tuple(routes)
        self._request_ids = request_ids
        self._cors = tuple((name.lower().encode(), value.encode()) for name, value in (cors or {}).items())
        self._answered, self._refused = answered, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Part of ASGI."""
        started = time.monotonic()
        streams: list[BodyStream] = []

        def begin(response: RestResponse) -> BodyStream:
            scope[SET_PHRASE](response.phrase)
            streams.append(BodyStream(send, response.status, self._headers(request, response, None)))
            return streams[0]

        request = RestRequest(scope, receive, next(self._request_ids), begin)
        try:
            response = await self._answer(request)
        except ClientGoneError:
            log.debug("%s %r: the client went away", request.method, request.path)
            for stream in streams:
                stream.abort()
            return
        if streams and response.is_error and not streams[0].begun:
            streams.pop().abort()  # in time to say what went wrong
        try:
            if not streams:
                await self._send(request, response, send)
            elif not await streams[0].end(response):
                return  # what was sent has no end, so the client sees that something failed
        except asyncio.CancelledError:
            log.warning(
                "%s %r: the server stops before the client has read its answer", request.method, request.path
            )
            return
        if self._answered is not None:
            self._answered(scope, response.status, time.monotonic() - started)

    async def _send(self, request: RestRequest, response: RestResponse, send: Send) -> None:
        status, body = response.status, response.body
        request.scope[SET_PHRASE](response.phrase)
        headers = self._headers(request, response, len(body))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if status in _WITHOUT_BODY else body})

    def _headers(self, request: RestRequest, response: RestResponse, length: int | None) -> Headers:
        """All headers of an answer; a length of None is not known yet."""
        status = response.status
        headers = [*response.headers, (b"x-request-id", request.id.encode()), *NEVER_CACHED]
        if self._cors:
            named = {name for name, _ in response.headers}
            headers += [each for each in self._cors if each[0] not in named]
        if length is not None and status not in _WITHOUT_BODY:
            headers.append((b"content-length", b"%d" % length))
        if status >= 400:
            headers.append(_CLOSE)
        elif request.scope[IS_KEPT]():
            headers.append(_KEEP_ALIVE)
        return headers

    async def _answer(self, request: RestRequest) -> RestResponse:
        try:
            for routes in self._routes:
                response = await routes.answer(request)
                if response is not None:
                    return response
            raise ResourceNotFoundError
        except SatrapError as error:
            if self._refused is not None and type(error) in _REFUSALS:
                self._refused(_REFUSALS[type(error)])
            return error_response(error)
        except ClientGoneError:
            raise
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            return error_response(UnavailableError("the server stops before this request is answered"))
        except Exception:
            log.exception("%s %r could not be answered", request.method, request.path)
            return error_document(500, "InternalServerException", "Internal server error; the log says more")
