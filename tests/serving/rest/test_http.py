"""HTTP itself: heads, bodies, connections, limits, and clients that go away."""

import asyncio
import contextlib
import json
import logging
import socket
from typing import Any

import pytest

from satrap.errors import InvalidInputError, InvalidTokenError, OverloadedError
from satrap.serving.listening import Address
from satrap.serving.rest import connection as connection_module
from satrap.serving.rest import listener as listener_module
from satrap.serving.rest.listener import Listener, bind
from satrap.serving.rest.request import RestRequest
from satrap.serving.rest.response import RestResponse, document

LIMIT = 1000


class Echo:
    """Answers with what it got."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def answer(self, request: RestRequest) -> RestResponse | None:
        self.asked.set()
        match request.segments:
            case ["", "body"]:
                return RestResponse(200, await request.body(LIMIT))
            case ["", "status", code]:
                return RestResponse(int(code), b"content", [(b"x-mine", b"1")])
            case ["", "headers"]:
                names = [name.decode() for name, _ in request.headers_as_sent]
                return document(names)
            case ["", "headers", "after", "body"]:
                await request.body(LIMIT)
                return document([name.decode() for name, _ in request.headers_as_sent])
            case ["", "full"]:
                raise OverloadedError("m", 100)
            case ["", "bug"]:
                raise ZeroDivisionError("a mistake")
            case _:
                return None


NOT_HTTP = [
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET /body HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n",
    b"GET /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /body HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
    b"GET /body HTTP/1.1\r\nHost: a\r\nx: \x00\r\n\r\n",
    b"GET /" + b"a" * 70_000,
    b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
]


@pytest.mark.parametrize("data", NOT_HTTP, ids=lambda data: repr(data[:40]))
def test_what_is_not_http_is_refused(talk: Any, data: bytes) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        connection.writer.write(data)
        reply = await connection.reply()
        assert reply.error == (400, "BadRequestException")
        assert reply.document["message"] == "Invalid HTTP message."
        assert len(reply.headers["x-request-id"]) == 36
        assert reply.headers["pragma"] == "no-cache"
        assert await connection.reader.read() == b""
        await connection.close()
        assert (await site.ask("GET", "/status/200")).status == 200

    talk([Echo()], conversation)


def test_what_is_no_request_is_told_of_as_far_as_it_is_known(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        for data in NOT_HTTP:
            connection = await site.connect()
            connection.writer.write(data)
            await connection.reply()
        assert site.refused == [
            ("/body" if b"chunked\r\n\r\nzz" in data else "", "malformed") for data in NOT_HTTP
        ]
        site.refused.clear()
        kept = await site.connect()
        await kept.ask("GET", "/status/200")
        kept.writer.write(b"\x00")
        await kept.reply()
        assert site.refused == [("", "malformed")], "not the request before"

    talk([Echo()], conversation)


def test_what_the_routes_refuse_is_told_of_by_its_reason(talk: Any) -> None:
    refused: list[str] = []
    answered: list[int] = []

    class Guarded(Echo):
        async def answer(self, request: RestRequest) -> RestResponse | None:
            if request.segments == ["", "guarded"]:
                raise InvalidTokenError
            return await super().answer(request)

    async def conversation(site: Any) -> None:
        await site.ask("POST", "/body", bytes(LIMIT + 1))
        await site.ask("GET", "/guarded")
        await site.ask("GET", "/full")
        await site.ask("GET", "/status/413")
        assert refused == ["too large", "token"]
        assert answered == [413, 400, 503, 413]
        assert site.refused == []

    talk(
        [Guarded()],
        conversation,
        refused=refused.append,
        answered=lambda _, status, __: answered.append(status),
    )


def test_nothing_of_ours(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        for path in (
            "/",
            "/nowhere",
            "/body/x",
            "//body",
            "/Body",
            "/%",
            "/%00",
            "/%ff",
            "/a%2Fb",
            "/" + "a" * 9000,
        ):
            reply = await site.ask("GET", path)
            assert reply.error == (404, "ResourceNotFoundException")
            assert (
                reply.document["message"] == "Requested resource is not found, please refer to API document."
            )

    talk([Echo()], conversation)


def test_what_every_answer_has(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        replies = [await site.ask("GET", path) for path in ("/status/200", "/nowhere")]
        for reply in replies:
            assert reply.headers["pragma"] == "no-cache"
            assert reply.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
            assert reply.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
            assert "server" not in reply.headers
        assert len({reply.headers["x-request-id"] for reply in replies}) == 2
        assert replies[0].headers["x-mine"] == "1"

    talk([Echo()], conversation)


def test_a_mistake_of_ours_is_an_error_and_a_line_in_the_log(talk: Any, caplog: Any) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask("GET", "/bug")
        assert reply.error == (500, "InternalServerException")
        assert b"mistake" not in reply.body

    talk([Echo()], conversation)
    assert "ZeroDivisionError: a mistake" in caplog.text


def test_when_to_come_again(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask("GET", "/full")
        assert reply.error == (503, "ServiceUnavailableException")
        assert reply.headers["retry-after"] == "1"

    talk([Echo()], conversation)


def test_connections_are_kept_unless_something_failed(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        for _ in range(3):
            reply = await connection.ask("POST", "/body", b"x" * 100)
            assert (reply.body, reply.headers["connection"]) == (b"x" * 100, "keep-alive")
        reply = await connection.ask("GET", "/status/404")
        assert (reply.body, reply.headers["connection"]) == (b"content", "close")
        assert await connection.reader.read() == b""
        await connection.close()

    talk([Echo()], conversation)


def test_a_client_that_wants_its_connection_closed(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        for version, headers in (("1.1", b"Connection: close\r\n"), ("1.0", b"")):
            connection = await site.connect()
            connection.writer.write(b"GET /status/200 HTTP/%s\r\n%s\r\n" % (version.encode(), headers))
            reply = await connection.reply()
            assert reply.headers["connection"] == "close"
            assert await connection.reader.read() == b""
            await connection.close()

    talk([Echo()], conversation)


def test_requests_one_behind_the_other(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        for number in range(5):
            await connection.send("POST", "/body", b"%d" % number)
        assert [(await connection.reply()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        await connection.close()

    talk([Echo()], conversation)


def test_answers_without_a_body(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        head = await connection.ask("HEAD", "/status/200")
        assert (head.status, head.headers["content-length"]) == (200, "7")
        for code in (204, 304):
            reply = await connection.ask("GET", f"/status/{code}")
            assert (reply.status, reply.body, "content-length" in reply.headers) == (code, b"", False)
        assert (await connection.ask("GET", "/status/201")).body == b"content"
        await connection.close()

    talk([Echo()], conversation)


def test_chunks(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        chunked = [("Transfer-Encoding", "chunked")]
        body = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
        assert (await connection.ask("PUT", "/body", body, chunked)).body == b"abcde"
        assert (await connection.ask("PUT", "/body", b"0\r\n\r\n", chunked)).body == b""
        await connection.close()

    talk([Echo()], conversation)


def test_what_follows_a_body_is_no_header(talk: Any) -> None:
    """Whoever checks headers, we or a proxy before us, has seen all of them."""

    async def conversation(site: Any) -> None:
        body = b"3\r\nabc\r\n0\r\nAuthorization: Bearer late\r\n\r\n"
        chunked = [("Transfer-Encoding", "chunked")]
        reply = await site.ask("POST", "/headers/after/body", body, chunked)
        assert reply.document == ["Transfer-Encoding", "Host"]

    talk([Echo()], conversation)


@pytest.mark.parametrize("start", [b"0\r\nX: ", b"0\r\n", b"3;x="])
def test_chunks_that_never_come_to_an_end(talk: Any, start: bytes) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        more = b"a: b\r\n" if start.endswith(b"\n") else b"endless"
        await connection.send("POST", "/body", start, [("Transfer-Encoding", "chunked")])
        with contextlib.suppress(OSError):  # refused before all is sent
            for _ in range(100):
                connection.writer.write(more * 1000)
                await connection.writer.drain()
        assert (await connection.reply()).error[0] == 400

    talk([Echo()], conversation)


def test_a_body_in_pieces(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        for piece in (
            b"POST /bo",
            b"dy HTTP/1.1\r\nHost: a\r\nContent-",
            b"Length: 6\r\n\r\nab",
            b"cd",
            b"ef",
        ):
            connection.writer.write(piece)
            await connection.writer.drain()
            await asyncio.sleep(0)
        assert (await connection.reply()).body == b"abcdef"
        await connection.close()

    talk([Echo()], conversation)


def test_a_client_that_asks_before_it_sends(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        expect = [("Expect", "100-continue"), ("Content-Length", "3")]
        await connection.send("PUT", "/body", headers=expect)
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.writer.write(b"abc")
        assert (await connection.reply()).body == b"abc"
        too_large = [("Expect", "100-continue"), ("Content-Length", str(LIMIT + 1))]
        await connection.send("PUT", "/body", headers=too_large)
        assert (await connection.reply()).error[0] == 413
        await connection.close()

    talk([Echo()], conversation)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit_of_a_request(talk: Any, size: int, chunked: bool) -> None:
    async def conversation(site: Any) -> None:
        connection = await site.connect()
        if chunked:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)
            await connection.send("POST", "/body", body, [("Transfer-Encoding", "chunked")])
        else:
            await connection.send("POST", "/body", b"x" * size)
        reply = await connection.reply()
        if size <= LIMIT:
            assert (reply.status, len(reply.body)) == (200, size)
        else:
            assert reply.error[0] == 413
            assert "1000 bytes" in reply.document["message"]
        await connection.close()

    talk([Echo()], conversation)


def test_names_of_headers_are_kept_as_they_were_sent(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask("GET", "/headers", headers=[("X-Mixed", "1"), ("x-LOWER", "2"), ("Host", "a")])
        assert reply.document == ["X-Mixed", "x-LOWER", "Host"]

    talk([Echo()], conversation)


def test_other_origins(talk: Any) -> None:
    cors = {"access-control-allow-origin": "*", "x-mine": "not this"}

    async def conversation(site: Any) -> None:
        for path in ("/status/200", "/nowhere"):
            assert (await site.ask("GET", path)).headers["access-control-allow-origin"] == "*"
        assert (await site.ask("GET", "/status/200")).headers["x-mine"] == "1"

    talk([Echo()], conversation, cors=cors)


def test_somebody_is_told_about_every_answer(talk: Any) -> None:
    told: list[tuple[str, int, bool]] = []

    async def conversation(site: Any) -> None:
        for path in ("/status/200", "/nowhere", "/bug"):
            await site.ask("GET", path)

    def answered(scope: Any, status: int, seconds: float) -> None:
        told.append((scope["path"], status, 0 <= seconds < 60))

    talk([Echo()], conversation, answered=answered)
    assert told == [("/status/200", 200, True), ("/nowhere", 404, True), ("/bug", 500, True)]


def test_a_client_that_goes_before_its_body_is_whole(talk: Any, caplog: Any) -> None:
    echo = Echo()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/body", b"abc", [("Content-Length", "10")])
        await echo.asked.wait()
        await connection.close()
        assert (await site.ask("GET", "/status/200")).status == 200

    with caplog.at_level(logging.DEBUG, "satrap.serving"):
        talk([echo], conversation)
    assert "POST '/body': the client went away" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def answer(self, request: RestRequest) -> RestResponse:
        body = await request.body(LIMIT)
        self.begun.set()
        try:
            with request.departure():
                await self.go.wait()
        except BaseException:
            self.cancelled.set()
            raise
        return RestResponse(200, body)


def test_a_client_that_goes_withdraws_what_it_asked(talk: Any) -> None:
    slow = Slow()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/", b"abc")
        await slow.begun.wait()
        await connection.close()
        await slow.cancelled.wait()

    talk([slow], conversation)


def test_who_stays_gets_its_answer_however_late(talk: Any) -> None:
    slow = Slow()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/", b"abc")
        await slow.begun.wait()
        await asyncio.sleep(0.05)  # longer than nobody watches the client
        slow.go.set()
        assert (await connection.reply()).body == b"abc"
        assert (await connection.ask("POST", "/", b"next")).body == b"next"
        await connection.close()

    talk([slow], conversation)


def test_a_stop_answers_what_has_come_and_takes_nothing_new(talk: Any) -> None:
    slow = Slow()

    async def conversation(site: Any) -> None:
        idle, busy = await site.connect(), await site.connect()
        await busy.send("POST", "/", b"abc")
        await slow.begun.wait()
        stopping = asyncio.create_task(site.listener.stop())
        assert await idle.reader.read() == b""
        with pytest.raises(OSError):
            await site.connect()
        slow.go.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"abc", "close")
        assert await busy.reader.read() == b""
        await stopping
        for connection in (idle, busy):
            await connection.close()

    talk([slow], conversation)
    assert not slow.cancelled.is_set()


def test_a_stop_does_not_wait_for_ever(talk: Any, caplog: Any) -> None:
    slow = Slow()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/", b"abc")
        await slow.begun.wait()
        await site.listener.stop()
        reply = await connection.reply()
        assert reply.error == (503, "ServiceUnavailableException")
        assert "the server stops" in reply.document["message"]
        assert await connection.reader.read() == b""

    talk([slow], conversation, drain_seconds=0)
    assert slow.cancelled.is_set()
    assert not caplog.records


def test_a_stop_does_not_wait_for_a_client_that_does_not_read(talk: Any, caplog: Any) -> None:
    class Endless:
        def __init__(self) -> None:
            self.full = asyncio.Event()

        async def answer(self, request: RestRequest) -> RestResponse | None:
            stream = request.begin_stream(RestResponse(200, b""))
            for _ in range(64):  # more than the two sides keep for each other
                stream.write(b"x" * 1024**2)
            self.full.set()
            return RestResponse(200, b"")

    endless = Endless()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("GET", "/")
        await endless.full.wait()
        await site.listener.stop()

    talk([endless], conversation, drain_seconds=0)
    assert "before the client has read its answer" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_stop_does_not_wait_for_what_does_not_come(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_ARRIVAL_SECONDS", 0.05)
    echo = Echo()

    async def conversation(site: Any) -> None:
        head, body = await site.connect(), await site.connect()
        head.writer.write(b"GET /bo")
        await body.send("POST", "/body", b"abc", [("Content-Length", "10")])
        await echo.asked.wait()
        await asyncio.wait_for(site.listener.stop(), 30)
        for connection in (head, body):
            assert await connection.reader.read() == b""

    talk([echo], conversation, drain_seconds=600)


def test_a_stop_waits_a_little_for_what_is_on_its_way(talk: Any) -> None:
    echo = Echo()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/body", b"abc", [("Content-Length", "6")])
        await echo.asked.wait()
        stopping = asyncio.create_task(site.listener.stop())
        await asyncio.sleep(0)
        connection.writer.write(b"def")
        assert (await connection.reply()).body == b"abcdef"
        await stopping

    talk([echo], conversation)


HALVES = [
    b"P",
    b"POST /body HTTP/1.1\r\nHost: a\r\n",
    b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
    b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
]


@pytest.mark.parametrize("half", HALVES, ids=lambda half: repr(half[-20:]))
@pytest.mark.parametrize("is_first", [True, False])
def test_a_request_has_its_time_to_arrive(
    talk: Any, monkeypatch: pytest.MonkeyPatch, half: bytes, is_first: bool
) -> None:
    monkeypatch.setattr(connection_module, "_REQUEST_SECONDS", 0.05)

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        if not is_first:
            assert (await connection.ask("POST", "/body", b"whole")).body == b"whole"
        connection.writer.write(half)
        reply = await connection.reply()
        assert reply.error == (408, "RequestTimeoutException")
        assert await connection.reader.read() == b""
        assert site.refused == [("/body" if b"\r\n\r\n" in half else "", "late")]

    talk([Echo()], conversation)


def test_a_client_that_sends_little_by_little_gains_no_time(
    talk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_REQUEST_SECONDS", 0.1)

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        connection.writer.write(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")

        async def drip() -> None:
            while True:
                connection.writer.write(b"x")
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        assert (await connection.reply()).status == 408
        dripping.cancel()

    talk([Echo()], conversation)


def test_large_bodies_have_more_time() -> None:
    assert connection_module._seconds_left(119, 0) == 1
    assert connection_module._seconds_left(120 + 1024, 64 * 1024**2) == 0


def test_connections_that_never_ask_are_closed(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "KEEP_ALIVE_SECONDS", 0.05)

    async def conversation(site: Any) -> None:
        silent, lines, after = [await site.connect() for _ in range(3)]
        lines.writer.write(b"\r\n")
        await after.ask("GET", "/status/200")
        after.writer.write(b"\r\n")
        for connection in (silent, lines, after):
            assert await connection.reader.read() == b""

    talk([Echo()], conversation)


def test_the_time_of_an_answer_is_not_the_next_requests(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may begin to arrive while the one before it is answered, however long that takes."""
    monkeypatch.setattr(connection_module, "_REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(connection_module, "KEEP_ALIVE_SECONDS", 0.3)
    slow = Slow()

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/", b"abc")
        await slow.begun.wait()
        connection.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-")
        await asyncio.sleep(0.7)  # longer than all limits
        slow.go.set()
        assert (await connection.reply()).body == b"abc"
        connection.writer.write(b"Length: 3\r\n\r\ndef")
        assert (await connection.reply()).body == b"def"

    talk([slow], conversation)


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind(Address(port=port))
    with pytest.raises(InvalidInputError, match=r"no\.such\.host\.invalid"):
        bind(Address("no.such.host.invalid"))


def test_of_two_that_start_at_once_one_is_told(talk: Any) -> None:
    async def conversation(site: Any) -> None:
        listener = Listener(None, second, 0)
        with pytest.raises(InvalidInputError, match=f"cannot listen on 127.0.0.1:{port}"):
            await listener.start()
        await listener.stop()

    with bind(Address()) as first:
        port = first.getsockname()[1]
        second = bind(Address(port=port))
        first.listen()
        talk([Echo()], conversation)
        assert second.fileno() == -1  # closed


def test_a_name_is_an_ipv4_address_if_it_has_one() -> None:
    with bind(Address("localhost")) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    for host in ("::1", "[::1]"):
        with bind(Address(host)) as bound:
            assert bound.family == socket.AF_INET6


def test_what_is_no_text_is_escaped() -> None:
    assert json.loads(document({"half \ud800": "a pair"}).body) == {"half \ud800": "a pair"}
