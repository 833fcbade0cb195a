"""A REST application on a real socket, and a client that sends bytes as they are."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from satrap.errors import ModelNotFoundError, ModelVersionNotFoundError
from satrap.serving.listening import Address
from satrap.serving.outcome import Outcome
from satrap.serving.query import Query
from satrap.serving.request import OK, Prediction
from satrap.serving.request_ids import request_ids
from satrap.serving.rest.app import RestApp, Routes
from satrap.serving.rest.asgi import Scope
from satrap.serving.rest.listener import Listener, bind
from satrap.serving.version_spec import RegisterParameters

LIMIT = 1000
"""Bytes of a request at most, in these tests."""


@dataclass
class Reply:
    """An answer as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    phrase: str = ""

    @property
    def document(self) -> Any:
        """The body, which is JSON and ends with its line."""
        assert self.body.endswith(b"\n")
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Code and kind of the document of an error, which closes the connection."""
        assert self.headers["connection"] == "close"
        assert self.document["code"] == self.status
        return self.status, self.document["type"]


@dataclass
class Connection:
    """One connection; several requests may be sent over it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(
        self, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a request whole."""
        names = {name.lower() for name, _ in headers}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if "host" not in names:
            lines.append("Host: here")
        if body and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await self.writer.drain()

    async def reply(self, method: str = "GET") -> Reply:
        """Wait for an answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in head[1:-2]:
            name, _, value = line.partition(": ")
            assert name == name.lower()
            assert name not in headers
            headers[name] = value
        body = b""
        if method == "HEAD":
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                body += chunk
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        _, status, phrase = head[0].split(" ", 2)
        return Reply(int(status), headers, body, phrase)

    async def chunk(self) -> bytes:
        """One chunk of an answer in chunks; empty: the end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> Reply:
        """Send a request and wait for its answer."""
        await self.send(method, target, body, headers)
        return await self.reply(method)

    async def close(self) -> None:
        """Close it."""
        self.writer.close()
        with contextlib.suppress(OSError):  # the server may have been first
            await self.writer.wait_closed()


@dataclass
class Site:
    """An application that is served."""

    port: int
    listener: Listener
    connections: list[Connection] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """What came and was no request: its path as far as it is known, and why."""

    async def connect(self) -> Connection:
        """A new connection; closed at the end, at the latest."""
        self.connections.append(Connection(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.connections[-1]

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> Reply:
        """Ask over a connection of its own."""
        connection = await self.connect()
        try:
            return await connection.ask(method, target, body, headers)
        finally:
            await connection.close()


@asynccontextmanager
async def served(
    app: RestApp, drain_seconds: int = 5, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    """Serve an application on a free port."""
    bound = bind(Address())
    refused: list[tuple[str, str]] = []

    def on_refused(scope: Scope, reason: str) -> None:
        refused.append((scope.get("path", ""), reason))

    listener = Listener(app, bound, drain_seconds, tls, on_refused)
    await listener.start()
    site = Site(bound.getsockname()[1], listener, refused=refused)
    try:
        yield site
    finally:
        for connection in site.connections:
            await connection.close()
        await listener.stop()


Conversation = Callable[[Site], Awaitable[None]]
Talk = Callable[..., None]


@pytest.fixture
def talk() -> Talk:
    """Serve routes, or an application, and run a conversation with them."""

    def run(
        what: Sequence[Routes] | RestApp,
        conversation: Conversation,
        drain_seconds: int = 5,
        tls: ssl.SSLContext | None = None,
        **options: Any,
    ) -> None:
        app = what if isinstance(what, RestApp) else RestApp(what, request_ids(), **options)

        async def both() -> None:
            async with served(app, drain_seconds, tls) as site:
                await asyncio.wait_for(conversation(site), 60)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(both())

    return run


@dataclass
class FakeService:
    """Stands in for the model service: knows the model `m` with the versions `1.0` and `2.0`, and keeps what it got."""

    answer: Callable[..., Awaitable[Prediction]] | None = None
    healthy: bool = True
    startup: Sequence[str] = ("m",)
    asked: list[Query] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome("done"))
    withdrawn: int = 0

    @property
    def catalog(self) -> "FakeService":
        """It tells as well what there is."""
        return self

    def _check(self, model: str, version: str) -> None:
        if model != "m":
            raise ModelNotFoundError(model)
        if version not in ("", "all", "1.0", "2.0"):
            raise ModelVersionNotFoundError(model, version)

    async def predict(self, query: Query, on_part: Callable[[Prediction], None] | None = None) -> Prediction:
        assert query.protocol == "rest"
        self._check(query.model, query.version)
        self.asked.append(query)
        try:
            if self.answer is not None:
                return await self.answer(on_part)
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        return Prediction(OK, b"predicted", {})

    def is_healthy(self) -> bool:
        return self.healthy

    def startup_models(self) -> list[str]:
        return list(self.startup)

    def has_workers(self, model: str, version: str = "") -> bool:
        self._check(model, version)
        return True

    def list_models(self, limit: int = 100, page: int = 0) -> dict[str, Any]:
        self.calls.append(("list", limit, page))
        return {"models": []}

    async def describe(
        self, model: str, version: str = "", *, customized: bool = False
    ) -> list[dict[str, Any]]:
        self._check(model, version)
        self.calls.append(("describe", model, version, customized))
        return [{"modelName": model}]

    async def register(self, parameters: RegisterParameters) -> Outcome:
        self.calls.append(("register", parameters))
        return self.outcome

    async def scale(
        self,
        model: str,
        version: str = "",
        minimum: int = 1,
        maximum: int | None = None,
        *,
        synchronous: bool = False,
    ) -> Outcome:
        self._check(model, version)
        self.calls.append(("scale", model, version, minimum, maximum, synchronous))
        return self.outcome

    def set_default(self, model: str, version: str) -> Outcome:
        self._check(model, version)
        self.calls.append(("set-default", model, version))
        return self.outcome

    async def unregister(self, model: str, version: str = "") -> Outcome:
        self._check(model, version)
        self.calls.append(("unregister", model, version))
        return self.outcome


@pytest.fixture
def service() -> FakeService:
    """A fresh stand-in."""
    return FakeService()


@pytest.fixture
def limit() -> int:
    """Bytes of a request at most."""
    return LIMIT
