"""TorchServe's addresses: keys like `inference_address` and `grpc_inference_port`, and the ages of gRPC connections."""

import os
import re

from satrap.serving.listening import Address, Listening
from satrap.serving.ts_properties import Properties

__all__ = ["listening"]

_ADDRESS = re.compile(r"(https?)://(\[[^\]]+\]|[^:^/\[\]]+)(?::([0-9]+))?", re.IGNORECASE)

_LONGEST_PATH = 107
"""Bytes of a Unix socket's path on Linux."""


def listening(properties: Properties) -> Listening:
    """The addresses of all APIs; those of REST say by their scheme whether they are served by TLS.

    Raises:
        ConfigError: one is no address, or an age is no number.
    """
    grpc_tls = properties.boolean("enable_grpc_ssl")

    def grpc(api: str, port: int) -> Address:
        return Address(
            properties.text(f"grpc_{api}_address", "127.0.0.1").strip("[]"),
            properties.integer(f"grpc_{api}_port", port, least=0, most=65_535),
            grpc_tls,
            max_connection_age_ms=_age(properties, f"grpc_{api}_max_connection_age_ms"),
            max_connection_age_grace_ms=_age(properties, f"grpc_{api}_max_connection_age_grace_ms"),
        )

    metrics = properties.boolean("enable_metrics_api", default=True)
    return Listening(
        grpc_inference=grpc("inference", 7070),
        grpc_management=grpc("management", 7071),
        rest_inference=_address(properties, "inference_address", "http://127.0.0.1:8080", (80, 443)),
        rest_management=_address(properties, "management_address", "http://127.0.0.1:8081", (8081, 8444)),
        metrics=_address(properties, "metrics_address", "http://127.0.0.1:8082", (8082, 8445))
        if metrics
        else None,
    )


def _age(properties: Properties, key: str) -> int | None:
    """Milliseconds; None: no limit. What gRPC's library cannot count (24 days) is none either."""
    if key not in properties.values:
        return None
    age = properties.integer(key, 0, most=2**63 - 1)
    return age if age < 2**31 - 1 else None


def _address(properties: Properties, key: str, default: str, ports: tuple[int, int]) -> Address:
    """`http://host:port`, `https://host:port` or `unix:/path`; `ports` are those of the first two without one."""
    text = properties.text(key, default)
    if text.lower().startswith("unix:"):
        return _unix_socket(properties, key, text[len("unix:") :])
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise properties.error(
            key, f"{text!r} is no address like http://127.0.0.1:8080 or unix:/run/satrap.sock"
        )
    tls = found[1].lower() == "https"
    port = int(found[3]) if found[3] is not None else ports[tls]
    if port > 65_535:
        raise properties.error(key, f"{text}: ports end at 65535")
    return Address(found[2].strip("[]"), port, tls)


def _unix_socket(properties: Properties, key: str, path: str) -> Address:
    if not path.startswith("/"):
        raise properties.error(key, f"unix:{path}: the path of a socket begins with /")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise properties.error(key, f"unix:{path}: the path of a socket has {_LONGEST_PATH} bytes at most")
    if " " in path or not path.isprintable():
        raise properties.error(
            key, f"unix:{path!r}: no blanks and control characters in the path of a socket"
        )
    return Address(socket_path=path)
