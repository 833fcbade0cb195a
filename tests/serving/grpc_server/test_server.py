"""The server as gRPC's own clients see it, and the same questions to grpcio's server: they must not differ."""

import asyncio
import contextlib
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop
from google.protobuf import empty_pb2

from satrap import rpc
from satrap.errors import InvalidTokenError
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.grpc_server import connection as connection_module
from satrap.serving.grpc_server.http2_frames import PREFACE
from satrap.serving.grpc_server.messages import framed, header_block
from satrap.serving.grpc_server.server import GrpcServer

pytestmark = pytest.mark.slow

LIMIT = 1_000_000
RPC = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


def asked(name: str, value: bytes = b"", **fields: str) -> inference_pb2.PredictionsRequest:
    return inference_pb2.PredictionsRequest(model_name=name, input={"data": value}, **fields)


def answered(value: bytes) -> inference_pb2.PredictionResponse:
    return inference_pb2.PredictionResponse(prediction=value)


class Service(inference_pb2_grpc.InferenceAPIsServiceServicer):
    """Does what a request's model name says."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.go_on = asyncio.Event()
        self.refused: list[tuple[str, str, str]] = []

    async def Ping(self, request: empty_pb2.Empty, context: Any) -> Any:
        return inference_pb2.TorchServeHealthResponse(health=context.peer())

    async def Predictions(self, request: Any, context: Any) -> Any:
        value = request.input["data"]
        match request.model_name:
            case "echo":
                return answered(value)
            case "large":
                return answered(bytes(int(value)))
            case "fail":
                await context.abort(grpc.StatusCode.ABORTED, value.decode())
            case "break":
                raise ValueError("a mistake")
            case "metadata":
                metadata = dict(context.invocation_metadata())
                context.set_trailing_metadata(
                    (("seen", metadata["asked"]), ("seen-bin", metadata["asked-bin"]))
                )
                return answered(b"")
            case "remaining":
                return answered(str(context.time_remaining()).encode())
            case "wait":
                self.begun.release()
                try:
                    await self.go_on.wait()
                except asyncio.CancelledError:
                    self.cancelled.release()
                    raise
                return answered(b"waited")
        raise AssertionError(request.model_name)

    async def StreamPredictions(self, request: Any, context: Any) -> AsyncIterator[Any]:
        value, task = request.input["data"], asyncio.current_task()
        try:
            for part in range(int(value)):
                yield answered(str(part).encode() * (100_000 if request.model_name == "large" else 1))
                if request.model_name == "wait":
                    self.begun.release()
                    await self.go_on.wait()
        except (asyncio.CancelledError, GeneratorExit):
            if asyncio.current_task() is task:  # or the call is over, and its context may not be touched
                self.cancelled.release()
            raise
        if request.model_name == "fail":
            await context.abort(grpc.StatusCode.DATA_LOSS, "after all parts")

    async def StreamPredictions2(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for request in request_iterator:
            yield answered(request.input["data"])
            if request.model_name == "last":
                return


def admit(header: str | None) -> None:
    if header == "Bearer no":
        raise InvalidTokenError


@dataclass
class Running:
    """A server in a thread of its own."""

    kind: str
    port: int
    service: Service
    loop: asyncio.AbstractEventLoop
    server: Any
    channel: grpc.Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = inference_pb2_grpc.InferenceAPIsServiceStub(self.channel)

    def predict(self, name: str, value: bytes = b"", **fields: Any) -> bytes:
        return bytes(self.stub.Predictions(asked(name, value), timeout=20, **fields).prediction)

    def failure(self, function: Any, *arguments: Any, **fields: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            function(*arguments, **fields)
        return caught.value.code().name, caught.value.details()

    def stop(self, grace: float) -> Any:
        return asyncio.run_coroutine_threadsafe(self.server.stop(grace), self.loop)

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self.service.go_on.set)


@contextlib.contextmanager
def running(kind: str) -> Iterator[Running]:
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[Any, Service, int]:
        service = Service()
        if kind == "lean":
            listening = socket.create_server(("127.0.0.1", 0))
            server: Any = GrpcServer(
                listening,
                max_receive=LIMIT,
                max_send=LIMIT,
                admit=admit,
                on_refused=lambda method, peer, reason: service.refused.append((method, peer[:15], reason)),
            )
            port = listening.getsockname()[1]
        else:
            server = rpc.aio_server(max_receive=LIMIT, max_send=LIMIT)
            port = rpc.listen(server, "127.0.0.1:0")
        inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(service, server)
        await server.start()
        return server, service, port

    try:
        server, service, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(20)
        one = Running(kind, port, service, loop, server)
        yield one
        one.channel.close()
        one.stop(0).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module", params=["lean", "grpcio"])
def either(request: pytest.FixtureRequest) -> Iterator[Running]:
    """Our server, then grpcio's."""
    with running(request.param) as one:
        yield one


@pytest.fixture
def lean() -> Iterator[Running]:
    """Ours, alone."""
    with running("lean") as one:
        yield one


@pytest.mark.parametrize("size", [0, 1, 16_384, 100_000, LIMIT - 100])
def test_messages_of_any_size(either: Running, size: int) -> None:
    assert either.predict("echo", b"x" * size) == b"x" * size


def test_the_limits_of_messages(either: Running) -> None:
    status, details = either.failure(either.predict, "echo", bytes(LIMIT + 1))
    assert status == "RESOURCE_EXHAUSTED"
    assert "Received message larger than max (" in details
    ours = either.kind == "lean"  # grpcio's text is its own
    assert ("serving.max_request_bytes (max_request_size" in details) == ours
    status, details = either.failure(either.predict, "large", str(LIMIT + 1).encode())
    assert status == "RESOURCE_EXHAUSTED"
    assert "Sent message larger than max (" in details
    assert ("serving.max_response_bytes (max_response_size" in details) == ours
    assert either.predict("echo", b"next") == b"next"


def test_statuses_and_details(either: Running) -> None:
    for details in ("plain", "100 % and\nmore", "größer als ☃", "", "x" * 3000):
        assert either.failure(either.predict, "fail", details.encode()) == ("ABORTED", details)
    status, details = either.failure(either.predict, "break")
    assert (status, "a mistake" in details) == ("UNKNOWN", True)


def test_metadata_both_ways(either: Running) -> None:
    metadata = (("asked", "text, and more"), ("asked-bin", b"\x00\xff, bytes"))
    _, call = either.stub.Predictions.with_call(asked("metadata"), metadata=metadata, timeout=20)
    trailing = dict(call.trailing_metadata())
    assert (trailing["seen"], trailing["seen-bin"]) == metadata[0][1:] + metadata[1][1:]


def test_deadlines(either: Running) -> None:
    seconds = float(either.predict("remaining"))
    assert 10 < seconds < 21
    assert either.stub.Predictions(asked("remaining")).prediction == b"None"
    assert either.failure(either.stub.Predictions, asked("wait"), timeout=1)[0] == "DEADLINE_EXCEEDED"
    assert either.service.begun.acquire(timeout=20)
    assert either.service.cancelled.acquire(timeout=20), "the method is told"


def test_a_cancelled_call_cancels_its_method(either: Running) -> None:
    call = either.stub.Predictions.future(asked("wait"))
    assert either.service.begun.acquire(timeout=20)
    call.cancel()
    assert either.service.cancelled.acquire(timeout=20)
    assert either.predict("echo", b"next") == b"next"


def test_a_client_that_goes_away_cancels_its_calls(either: Running) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{either.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        call = inference_pb2_grpc.InferenceAPIsServiceStub(channel).Predictions.future(asked("wait"))
        assert either.service.begun.acquire(timeout=20)
        assert not call.done()
    assert either.service.cancelled.acquire(timeout=20)


def test_answers_in_parts(either: Running) -> None:
    parts = either.stub.StreamPredictions(asked("parts", b"5"), timeout=20)
    assert [part.prediction for part in parts] == [b"0", b"1", b"2", b"3", b"4"]
    assert list(either.stub.StreamPredictions(asked("parts", b"0"), timeout=20)) == []
    large = either.stub.StreamPredictions(asked("large", b"50"), timeout=20)
    assert sum(len(part.prediction) for part in large) == 100_000 * (10 + 2 * 40)
    failing = either.stub.StreamPredictions(asked("fail", b"2"), timeout=20)
    assert [next(failing).prediction, next(failing).prediction] == [b"0", b"1"]
    assert either.failure(next, failing) == ("DATA_LOSS", "after all parts")


def test_a_stream_that_nobody_wants_any_more(either: Running) -> None:
    parts = either.stub.StreamPredictions(asked("wait", b"3"))
    assert next(parts).prediction == b"0"
    parts.cancel()
    assert either.service.cancelled.acquire(timeout=20)
    late = either.stub.StreamPredictions(asked("wait", b"3"), timeout=1)
    assert next(late).prediction == b"0"
    assert either.failure(next, late)[0] == "DEADLINE_EXCEEDED"
    assert either.service.cancelled.acquire(timeout=20)


def test_a_stream_is_closed_while_its_client_does_not_read(either: Running) -> None:
    """By the call itself, not afterwards by the event loop: what its method asks the context of would be gone."""
    parts = either.stub.StreamPredictions(
        asked("large", b"1000")
    )  # more than the two sides keep for each other
    assert next(parts).prediction == b"0" * 100_000
    parts.cancel()
    assert either.service.cancelled.acquire(timeout=20)


def test_requests_and_answers_in_turns(either: Running) -> None:
    turns = threading.Semaphore(1)

    def requests() -> Iterator[Any]:
        for number in range(20):
            assert turns.acquire(timeout=20)
            yield asked("turn", str(number).encode())

    seen = []
    for answer in either.stub.StreamPredictions2(requests(), timeout=20):
        seen.append(int(answer.prediction))
        turns.release()
    assert seen == list(range(20))


def test_a_method_may_end_before_its_requests_do(either: Running) -> None:
    def requests() -> Iterator[Any]:
        yield asked("last", b"only")
        late = threading.Event()
        while not late.wait(0.01) and not over.is_set():
            yield asked("more", bytes(1000))

    over = threading.Event()
    answers = [a.prediction for a in either.stub.StreamPredictions2(requests(), timeout=20)]
    over.set()
    assert answers == [b"only"]


def test_many_more_requests_than_are_read_at_once(either: Running) -> None:
    many = (asked("echo", bytes(50_000)) for _ in range(100))
    assert sum(len(a.prediction) for a in either.stub.StreamPredictions2(many, timeout=20)) == 5_000_000


def test_unknown_methods(either: Running) -> None:
    for path in (RPC + "Nothing", "/nothing/Predictions"):
        call = either.channel.unary_unary(path)
        assert either.failure(call, b"", timeout=20) == ("UNIMPLEMENTED", "Method not found!")


def test_what_is_no_request(either: Running) -> None:
    call = either.channel.unary_unary(RPC + "Predictions")
    # grpcio's threaded server says INTERNAL too, its asyncio server UNKNOWN and the parser's own words.
    assert either.failure(call, b"\xff\xff", timeout=20)[0] in ("INTERNAL", "UNKNOWN")


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(either: Running, compression: grpc.Compression) -> None:
    assert either.predict("echo", b"x" * 100_000, compression=compression) == b"x" * 100_000
    status, _ = either.failure(either.predict, "echo", bytes(LIMIT + 1), compression=compression)
    assert status == "RESOURCE_EXHAUSTED"


def test_many_calls_at_once(either: Running) -> None:
    def call(number: int) -> bool:
        value = str(number).encode() * 10_000
        return either.predict("echo", value) == value

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(400)))


def test_an_asyncio_client(either: Running) -> None:
    async def run() -> list[bytes]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{either.port}") as channel:
            stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
            calls = [stub.Predictions(asked("echo", str(n).encode()), timeout=20) for n in range(300)]
            answers = [answer.prediction for answer in await asyncio.gather(*calls)]
            parts = stub.StreamPredictions(asked("parts", b"3"), timeout=20)
            return [*answers, *[part.prediction async for part in parts]]

    assert asyncio.run(run()) == [str(n).encode() for n in [*range(300), 0, 1, 2]]


def test_the_peer_as_grpc_writes_it(either: Running) -> None:
    assert either.stub.Ping(empty_pb2.Empty(), timeout=20).health.startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("kind", ["lean", "grpcio"])
def test_stopping_finishes_what_runs_and_takes_nothing_new(kind: str) -> None:
    with running(kind) as one:
        call = one.stub.Predictions.future(asked("wait"), timeout=20)
        assert one.service.begun.acquire(timeout=20)
        stopped = one.stop(20)
        deadline = time.monotonic() + 20
        while True:  # until the listener is gone
            try:
                socket.create_connection(("127.0.0.1", one.port)).close()
            except ConnectionRefusedError:
                break
            assert time.monotonic() < deadline
        assert not stopped.done()
        one.let_go()
        assert call.result().prediction == b"waited"
        stopped.result(20)
        assert one.failure(one.predict, "echo")[0] in ("UNAVAILABLE", "CANCELLED")


@pytest.mark.parametrize("kind", ["lean", "grpcio"])
def test_stopping_gives_up_after_its_grace(kind: str) -> None:
    with running(kind) as one:
        call = one.stub.Predictions.future(asked("wait"), timeout=20)
        assert one.service.begun.acquire(timeout=20)
        one.stop(0.2).result(20)
        assert one.failure(call.result)[0] in ("UNAVAILABLE", "CANCELLED")
        assert one.service.cancelled.acquire(timeout=20)


def test_stopping_does_not_wait_for_requests_that_do_not_come() -> None:
    with (
        running("lean") as one,
        socket.create_connection(("127.0.0.1", one.port), timeout=20) as connection,
    ):
        half = frame(1, 4, 1, request_headers()) + frame(0, 0, 1, b"\x00\x00")
        connection.sendall(settings_and(half, frame(6, 0, 0, b"12345678")))
        with connection.makefile("rb") as answers:
            while True:  # until the ping is answered: then the half request is there
                head = answers.read(9)
                payload = answers.read(int.from_bytes(head[:3], "big"))
                if payload == b"12345678":
                    break
            stopped = one.stop(600)
            assert b"the server stops" in answers.read()
            assert [reason for _, _, reason in one.service.refused] == ["stopping"]
        stopped.result(20)


def test_a_token_is_asked_for_before_anything_else(lean: Running) -> None:
    refused = ("PERMISSION_DENIED", str(InvalidTokenError()))
    metadata = (("authorization", "Bearer no"),)
    assert lean.failure(lean.predict, "echo", metadata=metadata) == refused
    unknown = lean.channel.unary_unary("/no/Method")
    assert lean.failure(unknown, b"", timeout=20, metadata=metadata) == refused
    parts = lean.stub.StreamPredictions(asked("parts", b"1"), metadata=metadata, timeout=20)
    assert lean.failure(next, parts) == refused
    assert lean.predict("echo", b"x") == b"x"
    assert lean.service.refused == [
        (method, "ipv4:127.0.0.1:", "token")
        for method in (RPC[1:] + "Predictions", "no/Method", RPC[1:] + "StreamPredictions")
    ]


# ---- clients that are not gRPC's ----


def settings_and(*frames: bytes) -> bytes:
    return PREFACE + frame(4, 0, 0) + b"".join(frames)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request_headers(path: str = RPC + "Predictions", **fields: str) -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        "content-type": "application/grpc",
        **fields,
    }
    return header_block([(name.encode(), value.encode()) for name, value in headers.items()])


def talk(port: int, data: bytes, until: bytes) -> bytes:
    """Send bytes; what comes back until it contains `until` or the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        while until not in received:
            some = connection.recv(65_536)
            if not some:
                break
            received += some
    return received


def test_another_content_type_is_no_grpc(lean: Running) -> None:
    html = request_headers(**{"content-type": "text/html"})
    assert b"\x07:status\x03415" in talk(lean.port, settings_and(frame(1, 5, 1, html)), b"415")


def test_two_messages_or_none_are_no_unary_request(lean: Running) -> None:
    one = framed(asked("echo").SerializeToString())
    for body in (b"", one + one, one[:-1]):
        data = settings_and(frame(1, 4, 1, request_headers()), frame(0, 1, 1, body))
        assert b"one whole message" in talk(lean.port, data, b"message")


def test_a_second_message_is_refused_before_there_are_more(lean: Running) -> None:
    """Nobody says that a client will ever end its request, and what it sends would be kept."""
    two = framed(asked("echo").SerializeToString()) * 2
    data = settings_and(frame(1, 4, 1, request_headers()), frame(0, 0, 1, two))
    assert b"one whole message" in talk(lean.port, data, b"message")


def reasons(one: Running) -> list[str]:
    return [reason for _, _, reason in one.service.refused]


def test_what_no_method_gets_is_told_of(lean: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    no_method = lean.channel.unary_unary("/no/Method")
    lean.failure(no_method, b"", timeout=20)
    no_message = lean.channel.unary_unary(RPC + "Predictions")
    lean.failure(no_message, b"\xff", timeout=20)
    lean.failure(lean.predict, "echo", bytes(LIMIT + 1))
    parts = lean.channel.unary_stream(RPC + "StreamPredictions")
    lean.failure(next, parts(b"\xff", timeout=20))
    html = request_headers(**{"content-type": "text/html"})
    talk(lean.port, settings_and(frame(1, 5, 1, html)), b"415")
    talk(lean.port, settings_and(frame(1, 5, 1, request_headers())), b"message")
    monkeypatch.setattr(connection_module, "_KEEPALIVE_SECONDS", 0.5)
    monkeypatch.setattr(connection_module, "_REQUEST_SECONDS", 0.1)
    talk(lean.port, settings_and(frame(1, 4, 1, request_headers())), b"end")
    assert reasons(lean) == [
        "unknown method", "malformed", "too large", "malformed", "malformed", "malformed", "late",
    ]  # fmt: skip
    assert {method for method, _, _ in lean.service.refused} == {
        "no/Method",
        RPC[1:] + "Predictions",
        RPC[1:] + "StreamPredictions",
    }


def test_what_a_method_answers_with_an_error_is_its_own_to_tell(lean: Running) -> None:
    lean.failure(lean.predict, "fail", b"no")
    lean.failure(lean.predict, "large", str(LIMIT + 1).encode())
    assert reasons(lean) == []


def test_a_stream_is_told_what_is_wrong_with_a_message_after_those_before_it(lean: Running) -> None:
    one, bad = framed(asked("echo", b"x").SerializeToString()), framed(b"\xff")
    large = b"\x00" + (LIMIT + 1).to_bytes(4, "big")
    for last, ended, sentence in (
        (bad, 0, b"deserializing"),
        (large, 0, b"larger than max"),
        (one[:-1], 1, b"one whole message"),
        (b"\x02\x00\x00\x00\x00more", 1, b"with the flag 2"),
    ):
        head = frame(1, 4, 1, request_headers(RPC + "StreamPredictions2"))
        answer = talk(lean.port, settings_and(head, frame(0, 0, 1, one), frame(0, ended, 1, last)), sentence)
        assert framed(answered(b"x").SerializeToString()) in answer
        assert sentence in answer
    assert reasons(lean) == []


def test_what_speaks_no_http2_is_disconnected(lean: Running) -> None:
    answer = talk(lean.port, b"GET /ping HTTP/1.1\r\nHost: here\r\n\r\n", b"never")
    assert b"this is not HTTP/2" in answer
    assert lean.predict("echo", b"x") == b"x"


def test_clients_that_say_nothing(lean: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_KEEPALIVE_SECONDS", 0.5)
    assert talk(lean.port, PREFACE[:10], b"never")[:9] == frame(4, 0, 0)[:2] + b"\x18" + frame(4, 0, 0)[3:], (
        "settings, and then the end"
    )
    body = framed(asked("wait").SerializeToString())
    silent = settings_and(frame(1, 4, 1, request_headers()), frame(0, 1, 1, body))
    assert frame(6, 0, 0, bytes(8)) in talk(lean.port, silent, b"never"), "it was asked for a sign of life"
    assert lean.service.begun.acquire(timeout=20)
    assert lean.service.cancelled.acquire(timeout=20)


def test_a_request_that_never_ends(lean: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_KEEPALIVE_SECONDS", 0.5)
    monkeypatch.setattr(connection_module, "_REQUEST_SECONDS", 0.1)
    begun = settings_and(frame(1, 4, 1, request_headers()), frame(0, 0, 1, b"\x00\x00"))
    assert b"did not come to its end" in talk(lean.port, begun, b"end")


def test_a_client_that_does_not_read_is_not_read(lean: Running) -> None:
    """Its pings would otherwise make us keep an answer to each."""
    connection = socket.create_connection(("127.0.0.1", lean.port), timeout=20)
    with connection:
        connection.sendall(settings_and())
        connection.settimeout(2)
        pings = frame(6, 0, 0, b"12345678") * 10_000
        with pytest.raises(TimeoutError):
            for _ in range(1000):  # 170 MB: they stay with the client
                connection.sendall(pings)
    assert lean.predict("echo", b"x") == b"x"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_as_a_client(lean: Running, tmp_path: Any) -> None:
    (tmp_path / "request").write_bytes(framed(asked("echo", b"from curl").SerializeToString()))
    done = subprocess.run(
        [
            *(
                "curl",
                "-sS",
                "--http2-prior-knowledge",
                "-D",
                tmp_path / "headers",
                "-o",
                tmp_path / "answer",
            ),
            *("--data-binary", f"@{tmp_path / 'request'}", "-H", "content-type: application/grpc"),
            *("-H", "te: trailers", "--max-time", "20", f"http://127.0.0.1:{lean.port}{RPC}Predictions"),
        ],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answer").read_bytes() == framed(answered(b"from curl").SerializeToString())
    assert "grpc-status: 0" in (tmp_path / "headers").read_text()
