"""What a server answered, without what differs from one run to the next."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Answer", "from_json", "no_answer", "rest_answer", "rpc_answer", "to_json"]

_HEADERS_THAT_MATTER = (
    "allow",
    "cache-control",
    "connection",
    "content-type",
    "expires",
    "location",
    "pragma",
    "retry-after",
    "www-authenticate",
    "x-request-id",
)
_USUAL = {
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "connection": "keep-alive",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
    "pragma": "no-cache",
    "x-request-id": "<uuid>",
}
"""Every answer of TorchServe's REST API has them."""
_CUSTOM = ("x-", "access-control-")
_LONGEST_TEXT = 6_000
_COUNTED = ("ts_inference_requests_total", "Requests2XX", "Requests4XX", "Requests5XX")
"""Metrics whose values follow from the calls; of the others only the labels are compared."""

_OUR_METRICS = ("satrap", "process_", "python_")

_VOLATILE = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r'("startTime": )"[^"]+"', r'\1"<time>"'),
    (r'("(?:pid|memoryUsage|modelLoadTime)": )-?\d+', r'\1"<number>"'),
    (r'("id": )"9\d\d\d"', r'\1"<worker>"'),
    (r'("key": )"[^"]+"', r'\1"<key>"'),
    (r'("expiration time": )"[^"]+"', r'\1"<time>"'),
    (r"\b(127\.0\.0\.1|localhost):\d+", r"\1:<port>"),
    (r"\bport \d+", "port <port>"),
    (r"/[^\s\"',]*/(?:models/)?[0-9a-f]{32}\b", "<model_dir>"),
    (r"\b(?:[0-9a-f]{2,}){16}\b", "<hash>"),
    (r"(?i)\b(hostname=)\"[^\"]+\"", r'\1"<host>"'),
    (r"W-9\d\d\d-", "W-<worker>-"),
    (r"\b0x[0-9a-f]{6,}\b", "<address>"),
)


@dataclass(frozen=True)
class Answer:
    """The parts that two servers' answers are compared by."""

    status: str
    """An HTTP status, a gRPC code's name, or `no answer`."""
    headers: Mapping[str, str]
    body: str
    """Of gRPC: the message, a stream's messages line by line, or the error's details."""


def rest_answer(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
    """An HTTP answer. The reason phrase is left out: HTTP/2 has none, and nobody reads it."""
    kept: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if key in _HEADERS_THAT_MATTER or key.startswith(_CUSTOM):
            kept[key] = f"{kept[key]}, {value}" if key in kept else value
    kept = {key: _steady(value) for key, value in sorted(kept.items())}
    if kept.get("content-type", "").startswith("text/plain; version=0.0.4"):
        return Answer(str(status), kept, _metrics(body.decode()))
    return Answer(str(status), kept, _text(body))


def rpc_answer(code: str, details: str, messages: Sequence[Mapping[str, Any]]) -> Answer:
    """A gRPC answer: messages, if any came, and how it ended."""
    lines = [_message(message) for message in messages]
    if details:
        lines.append(_steady(details))
    return Answer(code, {}, "\n".join(lines))


def no_answer(error: Exception) -> Answer:
    """The connection ended without an answer."""
    return Answer("no answer", {}, type(error).__name__)


def to_json(answer: Answer) -> dict[str, Any]:
    """As it is recorded: the body as the document that it is, or by lines, so that a difference is seen in a diff.

    Of the headers that TorchServe always sends only what is unusual is kept; null: it is missing.
    """
    document: dict[str, Any] = {"status": answer.status}
    if answer.status.isdigit():
        usual = {name: value for name, value in _USUAL.items() if answer.headers.get(name) != value}
        unusual = {name: value for name, value in answer.headers.items() if _USUAL.get(name) != value}
        headers = {**dict.fromkeys(usual), **unusual}
        if headers:
            document["headers"] = headers
    ending = "\n" if answer.body.endswith("\n") else ""
    try:
        parsed = json.loads(answer.body)
        if isinstance(parsed, dict | list) and _dumped(parsed) + ending == answer.body:
            return {**document, "json": parsed, **({"newline": True} if ending else {})}
    except ValueError:  # no JSON
        pass
    if answer.body:
        document["body"] = answer.body.split("\n")
    return document


def from_json(document: Mapping[str, Any]) -> Answer:
    """The opposite of `to_json`."""
    headers: dict[str, str] = {}
    if document["status"].isdigit():
        merged = {**_USUAL, **document.get("headers", {})}
        headers = {name: value for name, value in sorted(merged.items()) if value is not None}
    if "json" in document:
        body = _dumped(document["json"]) + ("\n" if document.get("newline") else "")
    else:
        body = "\n".join(document.get("body", []))
    return Answer(document["status"], headers, body)


def _dumped(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _message(fields: Mapping[str, Any]) -> str:
    shown = {key: _text(value) if isinstance(value, bytes) else value for key, value in fields.items()}
    if set(shown) <= {"prediction"} or set(shown) <= {"msg"} or set(shown) <= {"health"}:
        return _steady(str(next(iter(shown.values()), "")))
    return _steady(json.dumps(shown, sort_keys=True))


def _text(body: bytes) -> str:
    if body.startswith(b"PK"):
        return _tensor(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"<{len(body)} bytes {hashlib.sha256(body).hexdigest()[:16]}>"
    if text.startswith('{\n  "openapi"'):
        return _outline(json.loads(text))
    if len(text) > _LONGEST_TEXT:
        return f"<{len(text)} characters {hashlib.sha256(body).hexdigest()[:16]}>"
    return _steady(text)


def _outline(description: Mapping[str, Any]) -> str:
    """Of an OpenAPI document: its keys, and the parameters of each operation."""
    lines = [" ".join(description)]
    for path, operations in sorted(description["paths"].items()):
        for method, operation in sorted(operations.items()):
            names = sorted(one["name"] for one in operation.get("parameters", []))
            lines.append(f"{method} {path} {' '.join(names)}".rstrip())
    return "\n".join(lines)


def _tensor(body: bytes) -> str:
    import torch

    value = torch.load(io.BytesIO(body), weights_only=True)
    return f"<torch.save {value.dtype} {value.tolist()}>"


def _steady(text: str) -> str:
    for pattern, replacement in _VOLATILE:
        text = re.sub(pattern, replacement, text)
    return text


def _metrics(text: str) -> str:
    """Prometheus text: what its own parser takes, every sample of TorchServe's names, sorted.

    The samples are taken from the text, because the parser gives a counter's name an ending that it may not have.
    """
    families = {family.name: family for family in text_string_to_metric_families(text)}
    lines = set()
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(\{.*\})? (\S+)", line)
        if found is None or found[1].startswith(_OUR_METRICS):
            continue
        name, labels, value = found[1], found[2] or "", float(found[3])
        family = families.get(name) or families[name.removesuffix("_total")]
        lines.add(f"# {name} {family.type}: {family.documentation}")
        shown = f"{value:g}" if name in _COUNTED else "<value>"
        lines.add(_steady(f"{name}{labels.replace(',}', '}')} {shown}"))
    return "\n".join(sorted(lines))
