"""AsyncInferenceClient against a real gRPC server whose answers the test chooses."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from satrap.client import NO_RETRY, AsyncInferenceClient, InferenceClient, Retry
from satrap.errors import NotFoundError, RemoteError, UnavailableError, UnexpectedAnswerError

QUICK = Retry(attempts=3, first_delay=0.01, max_delay=0.01)


def test_infer_and_ping(server: Any) -> None:
    server.answers = ['{"status": "Healthy"}', b"[0.5, 0.25]"]

    async def ask() -> tuple[str, Any]:
        async with AsyncInferenceClient(server.address, metadata={"Authorization": "Bearer x"}) as client:
            return await client.ping(), await client.infer("deepctr", b"bytes", version="3")

    health, scores = asyncio.run(ask())
    assert health == "Healthy"
    np.testing.assert_array_equal(scores, [0.5, 0.25])
    method, request, metadata = server.requests[1]
    assert (method, request.model_name, request.model_version) == ("Predictions", "deepctr", "3")
    assert request.input == {"batch": b"bytes"}
    assert metadata["authorization"] == "Bearer x"


def test_many_calls_share_one_connection(server: Any) -> None:
    server.answers = [b"[1]"]

    async def ask() -> list[bytes]:
        async with AsyncInferenceClient(server.address) as client:
            return list(await asyncio.gather(*(client.predict("m", {"data": b"x"}) for _ in range(20))))

    assert asyncio.run(ask()) == [b"[1]"] * 20


def test_an_unavailable_server_is_asked_again(server: Any) -> None:
    away = server.refusal(grpc.StatusCode.UNAVAILABLE, "away")
    server.answers = [away, away, b"[1]"]

    async def ask() -> bytes:
        async with AsyncInferenceClient(server.address, retry=QUICK) as client:
            return await client.predict("m", {"data": b"x"})

    assert asyncio.run(ask()) == b"[1]"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [(grpc.StatusCode.NOT_FOUND, NotFoundError), (grpc.StatusCode.UNAVAILABLE, UnavailableError)],
)
def test_errors_are_those_of_the_other_client(server: Any, status: grpc.StatusCode, error: type) -> None:
    server.answers = [server.refusal(status, "no")]

    async def ask() -> None:
        async with AsyncInferenceClient(server.address, retry=NO_RETRY) as client:
            await client.predict("m", {"data": b"x"})

    with pytest.raises(error, match="no"):
        asyncio.run(ask())


def test_an_answer_that_is_no_health(server: Any) -> None:
    server.answers = ["fine"]

    async def ask() -> None:
        async with AsyncInferenceClient(server.address) as client:
            await client.ping()

    with pytest.raises(UnexpectedAnswerError, match="fine"):
        asyncio.run(ask())


def test_parts_of_a_streamed_answer(server: Any) -> None:
    async def ask() -> list[bytes]:
        async with AsyncInferenceClient(server.address) as client:
            return [part async for part in client.stream("m", {"data": b"x"})]

    server.answers = [b"one", b"two", b"three", b"rest"]
    assert asyncio.run(ask()) == [b"one", b"two", b"three"]
    server.answers = [b"one", b"two", b"rest"]
    with InferenceClient(server.address) as client:
        assert list(client.stream("m", {"data": b"x"})) == [b"one", b"two"]


def test_a_stream_that_breaks_says_why(server: Any) -> None:
    server.answers = [b"one", server.refusal(grpc.StatusCode.INTERNAL, "Worker died."), b"rest"]
    parts = []
    with InferenceClient(server.address) as client, pytest.raises(Exception, match="Worker died"):
        parts.extend(client.stream("m", {"data": b"x"}))


def test_a_client_that_is_closed_connects_again(server: Any) -> None:
    server.answers = [b"[1]"]

    async def ask() -> bytes:
        client = AsyncInferenceClient(server.address)
        await client.predict("m", {})
        await client.close()
        await client.close()
        try:
            return await client.predict("m", {})
        finally:
            await client.close()

    assert asyncio.run(ask()) == b"[1]"


@dataclass
class Held:
    """An answer that does not come before the test is over."""

    begun: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, context: grpc.ServicerContext) -> bytes:
        self.begun.set()
        self.over.wait()
        return b"late"


@pytest.fixture
def held(server: Any) -> Iterator[Held]:
    held = Held()
    yield held
    held.over.set()


async def interrupted(client: AsyncInferenceClient, waiting: Awaitable[bytes], held: Held, how: str) -> bytes:
    """What becomes of a call that waits when its client is closed, or its task cancelled."""
    task = asyncio.ensure_future(waiting)
    await asyncio.to_thread(held.begun.wait)
    if how == "closed":
        await client.close()
    else:
        task.cancel()
    return await task


@pytest.mark.parametrize(("how", "error"), [("closed", RemoteError), ("cancelled", asyncio.CancelledError)])
def test_closing_is_an_error_of_calls_and_cancels_no_task(
    server: Any, held: Held, how: str, error: type[BaseException]
) -> None:
    async def ask() -> None:
        async with AsyncInferenceClient(server.address, retry=QUICK) as client:
            server.answers = [held]
            with pytest.raises(error):
                await interrupted(client, client.predict("m", {}), held, how)

    asyncio.run(ask())


@pytest.mark.parametrize(("how", "error"), [("closed", RemoteError), ("cancelled", asyncio.CancelledError)])
def test_closing_is_an_error_of_streams_and_cancels_no_task(
    server: Any, held: Held, how: str, error: type[BaseException]
) -> None:
    async def ask() -> None:
        async with AsyncInferenceClient(server.address) as client:
            server.answers = [b"one", held, b"rest"]
            parts: AsyncIterator[bytes] = client.stream("m", {})
            assert await anext(parts) == b"one"
            with pytest.raises(error):
                await interrupted(client, anext(parts), held, how)

    asyncio.run(ask())
