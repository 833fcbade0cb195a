"""What a load test asks: one model of a server, over gRPC or REST, with one request."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

import httpx

from satrap.client import NO_RETRY, AsyncInferenceClient
from satrap.errors import InvalidInputError, SatrapError
from satrap.tls import Tls

__all__ = ["GrpcTarget", "Request", "RestTarget", "Target", "read_request", "target_of"]

_JSON_SUFFIXES = (".json",)


@dataclass(frozen=True)
class Request:
    """What is sent each time: `key` names the input over gRPC; over REST the data is the body."""

    model: str
    data: bytes
    version: str = ""
    key: str = "data"
    content_type: str = "application/octet-stream"


def read_request(model: str, path: Path, *, version: str, key: str) -> Request:
    """The request whose data is that file.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"--data {path}: {error.strerror or error}") from error
    content_type = "application/json" if path.suffix in _JSON_SUFFIXES else "application/octet-stream"
    return Request(model, data, version, key, content_type)


class Target(Protocol):
    """Sends the request; `send` may be called many times at once."""

    async def send(self, timeout: float) -> str:  # noqa: ASYNC109
        """Empty for a good answer, otherwise what went wrong, short enough to count by."""

    async def __aenter__(self) -> Self:
        """Connect."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""


def target_of(
    url: str, request: Request, clients: int, metadata: Mapping[str, str], tls: Tls | None = None
) -> Target:
    """`http://HOST:PORT` and `https://...` are REST; `grpc://HOST:PORT`, or `HOST:PORT`, is gRPC, with `tls` by TLS.

    Raises:
        InvalidInputError: it is another kind of URL, or has no host.
    """
    scheme, rest = url.split("://", 1) if "://" in url else ("grpc", url)
    if scheme not in ("http", "https", "grpc") or not urlsplit(f"//{rest}").netloc:
        raise InvalidInputError(f"{url} is no server: write http://HOST:PORT, or grpc://HOST:PORT")
    if scheme == "grpc":
        return GrpcTarget(rest.rstrip("/"), request, metadata, tls)
    return RestTarget(url.rstrip("/"), request, clients, metadata, tls)


class GrpcTarget:
    """Predictions, all clients on one connection."""

    def __init__(
        self, address: str, request: Request, metadata: Mapping[str, str], tls: Tls | None = None
    ) -> None:
        """Connect to nothing yet."""
        self._client = AsyncInferenceClient(address, metadata=metadata, retry=NO_RETRY, tls=tls)
        self._request = request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def send(self, timeout: float) -> str:  # noqa: ASYNC109 (the server is told)
        """As `Target.send`."""
        asked = self._request
        try:
            await self._client.predict(
                asked.model, {asked.key: asked.data}, version=asked.version, timeout=timeout
            )
        except SatrapError as error:
            return f"{type(error).__name__}: {_short(str(error))}"
        return ""


class RestTarget:
    """POST /predictions, a connection for each client."""

    def __init__(
        self,
        url: str,
        request: Request,
        clients: int,
        metadata: Mapping[str, str],
        tls: Tls | None = None,
    ) -> None:
        """Connect to nothing yet."""
        version = f"/{quote(request.version, safe='')}" if request.version else ""
        self._path = f"{url}/predictions/{quote(request.model, safe='')}{version}"
        self._headers = {"content-type": request.content_type, **metadata}
        self._data = request.data
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=clients, max_keepalive_connections=clients),
            verify=_context(tls),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, timeout: float) -> str:  # noqa: ASYNC109
        """As `Target.send`."""
        try:
            answer = await self._client.post(
                self._path, content=self._data, headers=self._headers, timeout=timeout
            )
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {_short(str(error))}"
        return "" if answer.status_code < 400 else f"{answer.status_code}: {_short(_message(answer))}"


def _context(tls: Tls | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.authority or None if tls is not None else None)
    if tls is not None and tls.certificate:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."
