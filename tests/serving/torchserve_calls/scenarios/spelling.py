"""Short spellings of calls, so that a scenario reads as a list."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchserve_calls.call import Rest, Rpc

__all__ = [
    "do",
    "form",
    "infer",
    "json_call",
    "manage",
    "metrics",
    "multipart",
    "predict",
    "predictions",
    "rpc",
]

Headers = Sequence[tuple[str, str]]
_BOUNDARY = "----------------------------5f1c1a9d2d3e"


def infer(method: str, target: str, body: bytes = b"", headers: Headers = (), note: str = "") -> Rest:
    """To the inference port."""
    return Rest("inference", method, target, headers, body, note)


def manage(method: str, target: str, body: bytes = b"", headers: Headers = (), note: str = "") -> Rest:
    """To the management port."""
    return Rest("management", method, target, headers, body, note)


def metrics(target: str, method: str = "GET", headers: Headers = (), note: str = "") -> Rest:
    """To the metrics port."""
    return Rest("metrics", method, target, headers, note=note)


def json_call(target: str, document: object, *, method: str = "POST", note: str = "") -> Rest:
    """To the management port, with a JSON body."""
    return manage(method, target, json.dumps(document).encode(), [("Content-Type", "application/json")], note)


def rpc(method: str, /, **fields: Any) -> Rpc:
    """One gRPC call with these fields of its request."""
    return Rpc(method, (fields,))


def predict(model: str, version: str = "", note: str = "", /, **inputs: bytes) -> Rpc:
    """One gRPC prediction."""
    return Rpc("Predictions", (_prediction(model, version, inputs),), note=note or _inputs(inputs))


def predictions(method: str, model: str, *inputs: Mapping[str, bytes], note: str = "") -> Rpc:
    """One of the streaming calls."""
    messages = [
        {**_prediction(model, "", one), **({"sequence_id": f"s{number}"} if len(inputs) > 1 else {})}
        for number, one in enumerate(inputs)
    ]
    return Rpc(method, messages, note=note or " | ".join(map(_inputs, inputs)))


def do(
    behaviour: str, *headers: tuple[str, str], body: bytes = b"x", method: str = "POST", note: str = ""
) -> Rest:
    """A prediction of the model `behaviours` over REST."""
    return infer(method, "/predictions/behaviours", body, [("do", behaviour), *headers], note or behaviour)


def form(**fields: str) -> tuple[bytes, Headers]:
    """An urlencoded form: body and headers."""
    from urllib.parse import urlencode

    return urlencode(fields).encode(), [("Content-Type", "application/x-www-form-urlencoded")]


def multipart(*parts: tuple[str, bytes, str, str]) -> tuple[bytes, Headers]:
    """A multipart form as curl -F writes it, of (name, value, file name, content type): body and headers."""
    body = b""
    for name, value, file, content_type in parts:
        body += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        body += f'; filename="{file}"'.encode() if file else b""
        body += f"\r\nContent-Type: {content_type}".encode() if content_type else b""
        body += b"\r\n\r\n" + value + b"\r\n"
    body += f"--{_BOUNDARY}--\r\n".encode()
    return body, [("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")]


def _prediction(model: str, version: str, inputs: Mapping[str, bytes]) -> dict[str, Any]:
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "input": inputs}
    return {key: value for key, value in fields.items() if value}


def _inputs(inputs: Mapping[str, bytes]) -> str:
    return " ".join(
        f"{key}={value.decode('latin-1')}"
        if len(value) <= 40 and value.isascii()
        else f"{key}: {len(value)} bytes"
        for key, value in inputs.items()
    )
