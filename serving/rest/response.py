"""Answers: bytes or JSON documents with a status, and the documents of errors."""

import http
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from satrap.errors import OverloadedError, SatrapError
from satrap.serving.status import error_type

__all__ = [
    "Headers",
    "NEVER_CACHED",
    "RestResponse",
    "document",
    "error_document",
    "error_response",
    "json_text",
]

Headers = Sequence[tuple[bytes, bytes]]

NEVER_CACHED: Headers = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
"""On every answer, as TorchServe has it."""

_JSON: Headers = ((b"content-type", b"application/json"),)
_RETRY_AFTER_SECONDS = b"1"


@dataclass(frozen=True, slots=True)
class RestResponse:
    """What is sent, without the headers that every answer has."""

    status: int
    body: bytes
    headers: Headers = ()
    phrase: str = ""
    """ASCII; empty: the status' own."""
    is_error: bool = False
    """The request failed, which the body says. An answer that a handler gave a status of an error is none."""


def json_text(content: Any) -> str:
    """As TorchServe prints its documents: two spaces, and a line's end. What no text may hold stays escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()


def document(content: Any, status: int = http.HTTPStatus.OK) -> RestResponse:
    """A JSON document."""
    return RestResponse(status, json_text(content).encode(), _JSON)


def error_document(status: int, kind: str, message: str, headers: Headers = ()) -> RestResponse:
    """TorchServe's document of an error; `kind` is the name of its Java class."""
    content = {"code": status, "type": kind, "message": message}
    return RestResponse(status, json_text(content).encode(), (*_JSON, *headers), is_error=True)


def error_response(error: SatrapError) -> RestResponse:
    """The answer to a request that failed; to one that came at a bad time, with the advice to come again."""
    headers: Headers = ()
    if isinstance(error, OverloadedError):
        headers = ((b"retry-after", _RETRY_AFTER_SECONDS),)
    return error_document(error.http_status, error_type(error), str(error), headers)
