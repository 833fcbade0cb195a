"""Predictions over REST: what reaches the model service, and what becomes of its answer."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from satrap.errors import NoWorkerError, OverloadedError, SatrapError, WorkerDiedError
from satrap.serving.request import OK, Prediction
from satrap.serving.rest import inference
from satrap.serving.rest.forms import Inputs, parse_form
from satrap.serving.rest.inference import InferenceRoutes

LIMIT = 1000


def answering(prediction: Prediction | SatrapError) -> Callable[..., Any]:
    async def answer(_: object) -> Prediction:
        if isinstance(prediction, SatrapError):
            raise prediction
        return prediction

    return answer


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "error", "sentence"),
    [
        ("POST", "/predictions/x", (), b"", (404, "ModelNotFoundException"), "Model not found: x"),
        ("POST", "/predictions//1.0", (), b"", (404, "ModelNotFoundException"), "Model not found: "),
        (
            "POST",
            "/predictions/m/9",
            (),
            b"",
            (404, "ModelVersionNotFoundException"),
            "Model version: 9 does not exist for model: m",
        ),
        (
            "POST",
            "/predictions/m//x",
            (),
            b"",
            (404, "ModelVersionNotFoundException"),
            "Model version:  does not exist for model: m",
        ),
        ("POST", "/predictions/x//x", (), b"", (404, "ModelNotFoundException"), "Model not found: x"),
        ("OPTIONS", "/predictions/x", (), b"", (404, "ModelNotFoundException"), "Model not found: x"),
        ("OPTIONS", "/predictions/m/9", (), b"", (404, "ModelVersionNotFoundException"), "9"),
        ("POST", "/predictions", (), b"", (404, "ResourceNotFoundException"), "not found"),
        ("POST", "/explanations/m", (), b"", (501, "UnsupportedOperationException"), "explanations"),
        ("POST", "/v1/models/m:explain", (), b"", (501, "UnsupportedOperationException"), "explanations"),
        ("POST", "/wfpredict/m", (), b"", (501, "UnsupportedOperationException"), "workflows"),
        ("POST", "/predictions/m", (), b"x" * (LIMIT + 1), (413, "RequestTooLargeException"), "1000 bytes"),
        (
            "POST",
            "/predictions/m",
            [("Content-Type", "multipart/form-data; boundary=x")],
            b"no form",
            (400, "BadRequestException"),
            "form",
        ),
    ],
)
def test_what_is_refused(
    talk: Any,
    service: Any,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes,
    error: tuple[int, str],
    sentence: str,
) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask(method, target, body, headers)
        assert reply.error == error
        assert sentence in reply.document["message"]

    talk([InferenceRoutes(service, LIMIT)], conversation)
    assert not service.asked


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Prediction(503, b"Prediction failed", {}), (503, "InternalServerException"), "Prediction failed"),
        (Prediction(507, b"Out of resources", {}), (507, "InternalServerException"), "Out of resources"),
        (Prediction(413, b"memory", {}), (507, "InternalServerException"), "memory"),
        (
            Prediction(499, "grün \udcff".encode("utf-8", "surrogatepass"), {}),
            (499, "InternalServerException"),
            "gr",
        ),
        (Prediction(99, b"odd", {}), (500, "InternalServerException"), "odd"),
        (Prediction(600, b"odd", {}), (500, "InternalServerException"), "odd"),
        (WorkerDiedError("m", "1.0"), (500, "InternalServerException"), "Worker died."),
        (NoWorkerError("m", "1.0"), (503, "ServiceUnavailableException"), "has no worker"),
        (OverloadedError("model m", 100), (503, "ServiceUnavailableException"), "queue is full"),
    ],
)
def test_what_fails(
    talk: Any, service: Any, answer: Prediction | SatrapError, error: tuple[int, str], message: str
) -> None:
    service.answer = answering(answer)

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert reply.error == error
        assert message in reply.document["message"]
        assert ("retry-after" in reply.headers) is isinstance(answer, OverloadedError)

    talk([InferenceRoutes(service, LIMIT)], conversation)


@pytest.mark.parametrize(
    ("target", "model", "version", "own_headers"),
    [
        ("/predictions/m", "m", "", {"url_path": "", "explain": "False"}),
        ("/predictions/m/2.0", "m", "2.0", {"url_path": "", "explain": "False"}),
        ("/predictions/m/2.0/a%20b/c", "m", "2.0", {"url_path": "a b/c", "explain": "False"}),
        ("/predictions/%6D", "m", "", {"url_path": "", "explain": "False"}),
        ("/v1/models/m:predict", "m", "", {"explain": "False"}),
        ("/v2/models/m/infer", "m", "", {"explain": "False"}),
        ("/models/m/invoke", "m", "", {}),
        ("/m/predict", "m", "", {}),
        ("/m/1.0/predict", "m", "1.0", {}),
        ("/invocations", "m", "", {}),
        ("/invocations?model_name=m", "m", "", {}),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE", "PATCH"])
def test_every_path(
    talk: Any, service: Any, method: str, target: str, model: str, version: str, own_headers: dict[str, str]
) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask(
            method, target, b"x", [("X-Mixed", "1"), ("x-mixed", "2"), ("explain", "True")]
        )
        assert (reply.status, reply.body) == (200, b"predicted")
        assert "content-type" not in reply.headers
        [asked] = service.asked
        assert (asked.model, asked.version, asked.inputs["body"]) == (model, version, b"x")
        assert asked.request_id == reply.headers["x-request-id"]
        sent = {"X-Mixed": "1", "x-mixed": "2", "explain": "True", "Host": "here", "Content-Length": "1"}
        assert asked.headers == {**sent, **own_headers}

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_the_query_is_an_input_only_where_torchserve_says_so(talk: Any, service: Any) -> None:
    async def conversation(site: Any) -> None:
        await site.ask("POST", "/predictions/m?a=1", b"x")
        await site.ask("POST", "/m/predict?a=1&a=2&b=%C3%BC", b"x")
        await site.ask("POST", "/m/predict?body=query", b"x")
        assert [asked.inputs for asked in service.asked] == [
            {"body": b"x"},
            {"a": b"2", "b": "ü".encode(), "body": b"x"},
            {"body": b"x"},
        ]

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_content_types(talk: Any, service: Any) -> None:
    given = ["application/json", "text/plain; charset=utf-8", "Image/PNG", "", None]

    async def conversation(site: Any) -> None:
        for kind in given:
            await site.ask(
                "POST", "/predictions/m", b"{}", [("Content-Type", kind)] if kind is not None else []
            )
        types = [asked.content_types.get("body", "") for asked in service.asked]
        assert types == ["application/json", "text/plain", "Image/PNG", "", ""]

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_form_s_parts_are_inputs(talk: Any, service: Any) -> None:
    form = (
        b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--X\r\nContent-Disposition: form-data; name="b"; filename="b"\r\nContent-Type: text/csv\r\n\r\n2\r\n--X--\r\n'
    )

    async def conversation(site: Any) -> None:
        await site.ask("POST", "/predictions/m", form, [("Content-Type", "multipart/form-data; boundary=X")])
        urlencoded = [("Content-Type", "application/x-www-form-urlencoded")]
        await site.ask("POST", "/invocations", b"model_name=m&c=3", urlencoded)
        first, second = service.asked
        assert (first.inputs, first.content_types) == ({"a": b"1", "b": b"2"}, {"b": "text/csv"})
        assert (second.model, second.inputs) == ("m", {"model_name": b"m", "c": b"3"})

    service.startup = ()
    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_large_form_holds_nobody_up(talk: Any, service: Any, monkeypatch: Any) -> None:
    in_loop: list[bool] = []

    def parse(content_type: str, body: bytes, inputs: Inputs) -> None:
        in_loop.append(threading.current_thread() is threading.main_thread())
        parse_form(content_type, body, inputs)

    monkeypatch.setattr(inference, "parse_form", parse)
    urlencoded = [("Content-Type", "application/x-www-form-urlencoded")]

    async def conversation(site: Any) -> None:
        for size in (10, 100_000):
            await site.ask("POST", "/predictions/m", b"a=" + b"%41" * size, urlencoded)

    talk([InferenceRoutes(service, 1_000_000)], conversation)
    assert in_loop == [True, False]
    assert [len(asked.inputs["a"]) for asked in service.asked] == [10, 100_000]


@pytest.mark.parametrize("startup", [(), ("m", "n")])
def test_no_model_is_named_and_there_is_no_single_one(
    talk: Any, service: Any, startup: tuple[str, ...]
) -> None:
    service.startup = startup

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/invocations", b"x")
        assert reply.error == (400, "BadRequestException")
        assert reply.document["message"] == "Parameter model_name is required."

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_what_a_handler_chose(talk: Any, service: Any) -> None:
    headers = {
        "Content-Type": "text/tea; charset=utf-8",
        "X-Leaves": "grün",
        "x-number": 3,
        "Content-Length": "999",
        "Transfer-Encoding": "chunked",
        "Connection": "upgrade",
        "Cache-Control": "public",
        "x-request-id": "mine",
    }
    service.answer = answering(Prediction(OK, b"short", {}, status=418, phrase="teapot", headers=headers))

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert (reply.status, reply.phrase, reply.body) == (418, "teapot", b"short")
        assert reply.headers["content-type"] == "text/tea; charset=utf-8"
        assert reply.headers["x-leaves"] == "grün"
        assert reply.headers["x-number"] == "3"
        assert reply.headers["content-length"] == "5"
        assert reply.headers["connection"] == "close"
        assert "private" in reply.headers["cache-control"]
        assert reply.headers["x-request-id"] == service.asked[0].request_id

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_reason_phrase_is_that_of_one_answer(talk: Any, service: Any) -> None:
    phrases = iter(["As you like", "", "schön  so"])

    async def answer(*_: Any, **__: Any) -> Prediction:
        return Prediction(OK, b"x", {}, status=202, phrase=next(phrases))

    service.answer = answer

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        for _ in range(3):
            await connection.send("POST", "/predictions/m", b"x")
        assert [(await connection.reply()).phrase for _ in range(3)] == [
            "As you like",
            "Accepted",
            "sch?n  so",
        ], "of requests that were sent at once, too"
        assert (await connection.ask("GET", "/ping")).phrase == "OK"

    talk([InferenceRoutes(service, LIMIT)], conversation)


@pytest.mark.parametrize("phrase", ["a\r\nSet-Cookie: b", "a\nb", "\0"])
def test_a_phrase_that_http_does_not_allow(talk: Any, service: Any, phrase: str) -> None:
    service.answer = answering(Prediction(OK, b"fine", {}, phrase=phrase))

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert reply.error == (500, "InternalServerException")
        assert reply.phrase == "Internal Server Error"
        assert "a reason phrase that HTTP does not allow" in reply.document["message"]

    talk([InferenceRoutes(service, LIMIT)], conversation)


@pytest.mark.parametrize(
    "headers",
    [{"bad name": "x"}, {"x\r\ny": "x"}, {"x": "a\r\nSet-Cookie: b"}, {"x": "☃"}, {"": "x"}, {"x": "\0"}],
)
def test_headers_that_http_does_not_allow(talk: Any, service: Any, headers: dict[str, str]) -> None:
    service.answer = answering(Prediction(OK, b"fine", {}, headers=headers))

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert reply.error == (500, "InternalServerException")
        assert "does not allow" in reply.document["message"]

    talk([InferenceRoutes(service, LIMIT)], conversation)


@pytest.mark.parametrize(("status", "sent"), [(201, 201), (204, 204), (100, 500), (0, 500), (700, 500)])
def test_statuses(talk: Any, service: Any, status: int, sent: int) -> None:
    service.answer = answering(Prediction(OK, b"", {}, status=status))

    async def conversation(site: Any) -> None:
        assert (await site.ask("POST", "/predictions/m", b"x")).status == sent

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_staleness_and_timing(talk: Any, service: Any) -> None:
    service.answer = answering(Prediction(OK, b"", {"handler": 1.5}, is_stale=True, staleness_ms=70))

    async def conversation(site: Any) -> None:
        plain = await site.ask("POST", "/predictions/m", b"x")
        assert (plain.headers["satrap-stale"], plain.headers["satrap-staleness-ms"]) == ("1", "70")
        assert "satrap-timing" not in plain.headers
        timed = await site.ask("POST", "/predictions/m", b"x", [("satrap-timing", "1")])
        assert '"handler": 1.5' in timed.headers["satrap-timing"]

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_ping(talk: Any, service: Any) -> None:
    async def conversation(site: Any) -> None:
        for method in ("GET", "POST", "OPTIONS"):
            reply = await site.ask(method, "/ping?x=1")
            assert (reply.status, reply.body) == (200, b'{\n  "status": "Healthy"\n}\n')
        service.healthy = False
        reply = await site.ask("GET", "/ping")
        assert (reply.status, reply.document) == (500, {"status": "Unhealthy"})

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_client_that_goes_withdraws_its_request(talk: Any, service: Any) -> None:
    begun, withdrawn = asyncio.Event(), asyncio.Event()

    async def wait(_: object) -> Prediction:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            withdrawn.set()
        raise AssertionError

    service.answer = wait

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/predictions/m", b"x")
        await begun.wait()
        await connection.close()
        await withdrawn.wait()

    talk([InferenceRoutes(service, LIMIT)], conversation)
    assert service.withdrawn == 1


def part(value: bytes, **more: Any) -> Prediction:
    return Prediction(OK, value, {}, **more)


def test_parts_are_sent_as_they_come(talk: Any, service: Any) -> None:
    go = [asyncio.Event() for _ in range(3)]

    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        for number, event in enumerate(go[:2]):
            await event.wait()
            on_part(part(b"part %d " % number, headers={"x-first": str(number)}, phrase="Bit by bit"))
        await go[2].wait()
        return part(b"end")

    service.answer = stream

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/predictions/m", b"x")
        go[0].set()
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 Bit by bit\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"x-first: 0" in head
        assert b"content-length" not in head
        assert await connection.chunk() == b"part 0 "
        for event, expected in ((go[1], b"part 1 "), (go[2], b"end")):
            event.set()
            assert await connection.chunk() == expected
        assert await connection.chunk() == b""
        service.answer = None
        assert (await connection.ask("POST", "/predictions/m", b"x")).body == b"predicted"

    talk([InferenceRoutes(service, LIMIT)], conversation)


@pytest.mark.parametrize("failure", [Prediction(503, b"Prediction failed", {}), WorkerDiedError("m", "1.0")])
def test_a_stream_that_fails_has_no_end(
    talk: Any, service: Any, failure: Prediction | SatrapError, caplog: Any
) -> None:
    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        on_part(part(b"part"))
        await sent.wait()
        return await answering(failure)(None)

    sent = asyncio.Event()
    service.answer = stream

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/predictions/m", b"x")
        await connection.reader.readuntil(b"\r\n\r\n")
        assert await connection.chunk() == b"part"
        sent.set()
        assert await connection.reader.read() == b""

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_stream_that_fails_before_anything_is_sent_has_no_phrase(talk: Any, service: Any) -> None:
    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        on_part(part(b"part", phrase="Bit by bit"))
        return Prediction(503, b"Prediction failed", {})

    service.answer = stream

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert (reply.status, reply.phrase) == (503, "Service Unavailable")

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_stream_to_which_its_handler_gave_the_status_of_an_error(talk: Any, service: Any) -> None:
    begun = asyncio.Event()

    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        on_part(part(b"not ", status=404))
        await begun.wait()
        return part(b"here", status=404)

    service.answer = stream

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        await connection.send("POST", "/predictions/m", b"x")
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        begun.set()
        assert [await connection.chunk() for _ in range(3)] == [b"not ", b"here", b""]

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_stream_whose_first_part_has_a_header_that_http_does_not_allow(talk: Any, service: Any) -> None:
    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        on_part(part(b"one", headers={"x y": "z"}))
        await asyncio.sleep(0)  # a stream would have begun
        on_part(part(b"two"))
        return part(b"end")

    service.answer = stream

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert reply.error == (500, "InternalServerException")
        assert "'x y'" in reply.document["message"]

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_part_that_is_an_error_ends_the_stream(talk: Any, service: Any) -> None:
    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        on_part(Prediction(400, b"not so", {}))
        on_part(part(b"more"))
        return part(b"end")

    service.answer = stream

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert reply.error == (400, "InternalServerException")
        assert reply.document["message"] == "not so"

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_an_error_right_after_the_first_part_is_told(talk: Any, service: Any) -> None:
    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        on_part(part(b"part"))
        return Prediction(503, b"Prediction failed", {})

    service.answer = stream

    async def conversation(site: Any) -> None:
        reply = await site.ask("POST", "/predictions/m", b"x")
        assert reply.document["message"] == "Prediction failed"

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_a_client_that_does_not_read_its_stream_is_given_up(talk: Any, service: Any, caplog: Any) -> None:
    async def stream(on_part: Callable[[Prediction], None]) -> Prediction:
        for _ in range(70):
            on_part(part(bytes(1024**2)))
            await asyncio.sleep(0)
        await asyncio.Event().wait()
        raise AssertionError

    service.answer = stream

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        connection.writer.transport.pause_reading()
        await connection.send("POST", "/predictions/m", b"x")
        while not service.withdrawn:
            assert (await site.ask("GET", "/ping")).status == 200

    talk([InferenceRoutes(service, LIMIT)], conversation)
    assert "does not read its stream" in caplog.text


def test_http_1_0_gets_its_stream_in_one_piece(talk: Any, service: Any) -> None:
    async def stream(on_part: Callable[[Prediction], None] | None) -> Prediction:
        assert on_part is None
        return part(b"all")

    service.answer = stream

    async def conversation(site: Any) -> None:
        connection = await site.connect()
        connection.writer.write(b"POST /predictions/m HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
        assert (await connection.reply()).body == b"all"

    talk([InferenceRoutes(service, LIMIT)], conversation)


def test_what_a_model_s_api_is(talk: Any, service: Any) -> None:
    async def conversation(site: Any) -> None:
        reply = await site.ask("OPTIONS", "/predictions/m")
        assert "/predictions/m" in reply.document["paths"]

    talk([InferenceRoutes(service, LIMIT)], conversation)
    assert not service.asked
