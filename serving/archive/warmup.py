"""Requests that an archive carries: every worker of its version answers them before it is ready.

The config file names the file (`satrap: {warmup: FILE}`). A `.json` file says which requests, each a mapping of inputs
by name, and how often all of them run:

    {"requests": [{"body": {"json": {"text": "hello"}}}, {"data": {"file": "kitten.jpg"}}], "repeat": 3}

An input is one of `json` (any value, of type application/json), `text` (of type text/plain), `file` (the bytes of a
file of the archive) and `base64`, and may have a `content_type` of its own. Any other file is the bytes of one request
under the name `batch`: PERSIA's clients send their batches so.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["Warmup", "WarmupError", "read_warmup"]

MAX_REQUESTS = 1000
MAX_REPEAT = 1000

Inputs = dict[str, tuple[bytes, str]]
"""Bytes and content type by input name."""


class WarmupError(Exception):
    """The file cannot be used, and why."""


@dataclass(frozen=True)
class Warmup:
    """Requests, and how often all of them run."""

    requests: tuple[Inputs, ...]
    repeat: int = 1


def read_warmup(directory: Path, name: str) -> Warmup:
    """Read the file of that name in an unpacked archive.

    Raises:
        WarmupError: it is not there, or is not as described above.
    """
    content = _read(directory, name)
    if not name.endswith(".json"):
        return Warmup(({"batch": (content, "")},))
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WarmupError(f"it is not JSON: {error}") from None
    if not isinstance(document, dict) or document.keys() - {"requests", "repeat"}:
        raise WarmupError("it is not a mapping with requests, and maybe repeat, and nothing else")
    requests = document.get("requests")
    if not isinstance(requests, list) or not 1 <= len(requests) <= MAX_REQUESTS:
        raise WarmupError(f"its requests are not a list of 1 to {MAX_REQUESTS}")
    repeat = document.get("repeat", 1)
    if not isinstance(repeat, int) or isinstance(repeat, bool) or not 1 <= repeat <= MAX_REPEAT:
        raise WarmupError(f"its repeat is {repeat!r}, not a whole number from 1 to {MAX_REPEAT}")
    return Warmup(tuple(_inputs(directory, request, place) for place, request in enumerate(requests)), repeat)


def _inputs(directory: Path, request: Any, place: int) -> Inputs:
    if not isinstance(request, dict):
        raise WarmupError(f"its request {place} is not a mapping of inputs by name")
    return {
        name: _input(directory, value, f"request {place}, input {name!r}") for name, value in request.items()
    }


def _input(directory: Path, value: Any, where: str) -> tuple[bytes, str]:
    kinds = value.keys() & {"json", "text", "file", "base64"} if isinstance(value, dict) else set()
    if len(kinds) != 1 or value.keys() - kinds - {"content_type"}:
        raise WarmupError(
            f"{where}: it is not one of json, text, file and base64, with a content_type or without"
        )
    (kind,) = kinds
    given = value[kind]
    content_type = value.get("content_type", {"json": "application/json", "text": "text/plain"}.get(kind, ""))
    if not isinstance(content_type, str):
        raise WarmupError(f"{where}: content_type is not a string")
    if kind == "json":
        return json.dumps(given).encode(), content_type
    if not isinstance(given, str):
        raise WarmupError(f"{where}: {kind} is not a string")
    try:
        match kind:
            case "text":
                return given.encode(), content_type
            case "base64":
                return base64.b64decode(given, validate=True), content_type
            case _:
                return _read(directory, given), content_type
    except (binascii.Error, UnicodeEncodeError) as error:
        raise WarmupError(f"{where}: {error}") from None


def _read(directory: Path, name: str) -> bytes:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not (directory / path).is_file():
        raise WarmupError(f"the file {name!r} is not in the archive")
    return (directory / path).read_bytes()
