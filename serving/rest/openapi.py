"""The pieces that descriptions in OpenAPI 3.0.1 are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BINARY",
    "STATUS",
    "Json",
    "api_document",
    "description_paths",
    "in_path",
    "in_query",
    "model_name",
    "operation",
]

Json = dict[str, Any]
"""A part of a description."""

_VERSION = "3.0.1"
BINARY: Json = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
STATUS: Json = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string", "description": "What was done, or is being done."}},
}
_ERROR: Json = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "The HTTP status."},
        "type": {"type": "string", "description": "TorchServe's name for this kind of error."},
        "message": {"type": "string", "description": "What was wrong, where, and what to do next."},
    },
}
_MEANINGS = {
    "202": "Begun; it goes on in the background",
    "206": "Some workers are not ready yet",
    "400": "Bad request",
    "403": "The default version cannot be removed while there are others",
    "404": "No such model or version",
    "405": "Not allowed",
    "408": "Requests were still running when the time was up",
    "409": "Registered already",
    "413": "The request is too large",
    "500": "The worker failed, or does not start",
    "503": "No worker, the queue is full, or the handler failed",
    "507": "Out of memory",
}


def api_document(title: str, version: str, paths: Mapping[str, Any]) -> Json:
    """The whole description of these paths."""
    return {"openapi": _VERSION, "info": {"title": title, "version": version}, "paths": dict(paths)}


def description_paths() -> Json:
    """The paths at which every API describes itself."""
    described = {
        "type": "object",
        "required": ["openapi", "info", "paths"],
        "properties": {
            "openapi": {"type": "string"},
            "info": {"type": "object"},
            "paths": {"type": "object"},
        },
    }
    return {
        "/": {"options": operation("apiDescription", "This description.", ok=described)},
        "/api-description": {"get": operation("api-description", "This description.", ok=described)},
    }


def operation(
    name: str,
    summary: str,
    *,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    ok: Json | None = None,
    content: Json | None = None,
    others: Sequence[str] = (),
) -> Json:
    """One method of one path: what it answers with 200 (`ok` as JSON, or `content`), and the `others` that it may."""
    responses: Json = {
        "200": {"description": "OK", "content": content or {"application/json": {"schema": ok}}}
    }
    for code in others:
        schema = _ERROR if int(code) >= 400 else STATUS
        responses[code] = {
            "description": _MEANINGS[code],
            "content": {"application/json": {"schema": schema}},
        }
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": list(parameters)} if parameters else {}),
        **({"requestBody": body} if body else {}),
        "responses": responses,
    }


def model_name() -> Json:
    """The part of a path that names the model."""
    return in_path("model_name", "Name of the model.")


def in_path(name: str, description: str) -> Json:
    """A parameter that is a part of the path."""
    return {
        "in": "path",
        "name": name,
        "description": description,
        "required": True,
        "schema": {"type": "string"},
    }


def in_query(name: str, kind: str, description: str, default: Any = None) -> Json:
    """A parameter of the query; its type is `kind`, and None is no default."""
    schema = {"type": kind} if default is None else {"type": kind, "default": default}
    return {
        "in": "query",
        "name": name,
        "description": description,
        "required": name == "url",
        "schema": schema,
    }
