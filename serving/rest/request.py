"""One HTTP request as the routes see it."""

import urllib.parse
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from satrap.errors import InvalidInputError, RequestTooLargeError
from satrap.serving.rest.asgi import HEADERS_AS_SENT, Receive, Scope
from satrap.serving.rest.body_stream import BodyStream
from satrap.serving.rest.departure import ClientGoneError, Departure
from satrap.serving.rest.response import RestResponse

__all__ = ["RestRequest", "segments_of"]

_MAX_PARAMETERS = 1024
_DISCARDED_BYTES = 64 * 1024**2
"""So much of a body that is too large is read nevertheless: a client that still sends does not see the answer."""


class RestRequest:
    """Method, path, headers and parameters; the body is read on demand."""

    __slots__ = (
        "_headers",
        "_parameters",
        "_receive",
        "begin_stream",
        "id",
        "method",
        "path",
        "scope",
        "segments",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        request_id: str,
        begin_stream: Callable[[RestResponse], BodyStream],
    ) -> None:
        """`request_id` is what the answer's x-request-id says, and what a handler sees.

        `begin_stream` begins an answer in parts, with a response's status and headers; once.
        """
        self.scope, self._receive, self.id = scope, receive, request_id
        self.begin_stream = begin_stream
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.segments = segments_of(self.path)
        self._headers: Mapping[str, str] | None = None
        self._parameters: Mapping[str, Sequence[str]] | None = None

    @property
    def headers_as_sent(self) -> Sequence[tuple[bytes, bytes]]:
        """Names as the client spelled them."""
        headers: Sequence[tuple[bytes, bytes]] = self.scope.get(HEADERS_AS_SENT) or self.scope["headers"]
        return headers

    def header(self, name: str) -> str:
        """The last header of that name, in lower case here; empty if there is none."""
        if self._headers is None:
            self._headers = {
                key.decode("latin-1"): value.decode("latin-1") for key, value in self.scope["headers"]
            }
        return self._headers.get(name, "")

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.header("content-type").partition(";")[0].strip()

    @property
    def parameters(self) -> Mapping[str, Sequence[str]]:
        """The query string's, each with all its values.

        Raises:
            InvalidInputError: there are more than 1024.
        """
        if self._parameters is None:
            self._parameters = _parse_query(self.scope["query_string"])
        return self._parameters

    def parameter(self, name: str) -> str | None:
        """The first value of that parameter."""
        values = self.parameters.get(name)
        return values[0] if values else None

    async def body(self, limit: int) -> bytes:
        """All of the body.

        Raises:
            RequestTooLargeError: it has more than `limit` bytes.
            ClientGoneError: the client went away before it had sent all.
        """
        declared = self.header("content-length")
        if declared.isdecimal() and int(declared) > limit:
            if not self.header("expect"):  # with it, the client sends nothing before it is told to
                await self._discard()
            raise RequestTooLargeError(limit)
        message = await self._receive()
        if message["type"] == "http.request" and not message["more_body"]:
            body: bytes = message["body"]
            if len(body) <= limit:
                return body
        parts, size = [], 0
        while True:
            if message["type"] != "http.request":
                raise ClientGoneError
            parts.append(message["body"])
            size += len(message["body"])
            if size > limit:
                if message["more_body"]:
                    await self._discard()
                raise RequestTooLargeError(limit)
            if not message["more_body"]:
                return b"".join(parts)
            message = await self._receive()

    async def _discard(self) -> None:
        size = 0
        while size < _DISCARDED_BYTES:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGoneError
            if not message["more_body"]:
                return
            size += len(message["body"])

    def departure(self) -> Departure:
        """A context that ends with `ClientGoneError` when the client goes away; the body must have been read."""
        return Departure(self._receive)


def segments_of(path: str) -> list[str]:
    """The parts between slashes, the first one the empty text before the first slash; trailing empty ones left out."""
    parts = path.split("/")
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _parse_query(query: bytes) -> Mapping[str, Sequence[str]]:
    text = query.decode("latin-1").replace(";", "&")
    parsed: MutableMapping[str, Any] = {}
    try:
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        raise InvalidInputError(f"the query string has more than {_MAX_PARAMETERS} parameters") from error
    for name, value in pairs:
        parsed.setdefault(name, []).append(value)
    return parsed
