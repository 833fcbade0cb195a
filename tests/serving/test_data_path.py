"""From a call of the service to a real worker and back: what travels, and who is told how a request ended."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import DeadlineError, OverloadedError, SatrapError, UnavailableError, WorkerDiedError
from satrap.serving.model_service import ModelService
from satrap.serving.query import Query
from satrap.serving.request import Prediction, Request
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = """
import os, time

def handle(data, context):
    if data is None:
        return None
    return [answer(place, request, context) for place, request in enumerate(data)]

def answer(place, request, context):
    asked = request.get("asked", b"")
    asked = asked if isinstance(asked, str) else bytes(asked).decode()
    if asked == "types":
        return {key: [type(value).__name__, repr(value)] for key, value in request.items()}
    if asked == "headers":
        return context.get_all_request_header(place)
    if asked == "id":
        return context.get_request_id(place)
    if asked == "chosen":
        context.set_response_status(202, "As you like", place)
        context.set_response_content_type(place, "text/csv")
        context.set_response_header(place, "x-number", 7)
    if asked == "metric":
        context.metrics.add_counter("seen", 2)
        context.metrics.add_time("part", 1.5)
    if asked == "die":
        os._exit(1)
    if asked == "flood":
        for _ in range(80):
            context.send_intermediate({place: b"x" * 1_000_000}, [place])
    if asked.startswith("hold "):
        open(asked[5:], "w").close()
        while os.path.exists(asked[5:]):
            time.sleep(0.01)
    return "answer"
"""


class Ends:
    """Writes down how requests ended."""

    def __init__(self) -> None:
        self.answers: list[Prediction] = []
        self.failures: list[SatrapError | None] = []
        self.observations: list[tuple[str, float]] = []
        self.loads: list[float] = []

    def answered(
        self,
        model: str,
        version: str,
        worker: int,
        requests: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Any],
    ) -> None:
        assert (model, version, len(requests)) == ("m", "1.0", len(predictions))
        self.answers += predictions
        self.observations += [(each.name, each.value) for each in observations]

    def failed(self, model: str, version: str, request: Request, error: SatrapError | None) -> None:
        assert (model, version) == ("m", "1.0")
        self.failures.append(error)

    def loaded(self, model: str, version: str, worker: int, seconds: float) -> None:
        self.loads.append(seconds)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None  # what else an observer is told


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def service(open_service: Any, store: Any, ends: Ends, in_process: Any) -> ModelService:
    """One model `m` with one worker."""
    opened: ModelService = open_service(job_queue_size=2, observer=ends)
    url = store.add("m.mar", HANDLER)
    in_process.run(opened.register(RegisterParameters(url=url, initial_workers=1, synchronous=True)))
    return opened


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (a file, a list: nothing tells when)
            await asyncio.sleep(0.01)


def test_content_types_headers_and_ids_reach_the_handler(service: ModelService, in_process: Any) -> None:
    async def run() -> list[Any]:
        inputs = {
            "asked": b"types",
            "json": b'{"a": 1}',
            "text": "é".encode(),
            "raw": b"\xff",
            "none": memoryview(b"n"),
        }
        types = {"asked": "text/plain", "json": "application/json", "text": "text/csv", "raw": "image/png"}
        first = await service.predict(Query("m", "", inputs, content_types=types))
        headers = {"X-Mine": "ä, and more", "json": "a header wins over an input of its name"}
        second = await service.predict(
            Query(
                "m",
                "",
                {"asked": b"headers", "json": b"1"},
                content_types={"json": "application/json"},
                headers=headers,
            )
        )
        third = await service.predict(Query("m", "", {"asked": b"id"}, request_id="chosen-by-caller"))
        assert third.request_id == "chosen-by-caller"
        return [json.loads(first.value), json.loads(second.value), third.value]

    assert in_process.run(run()) == [
        {
            "asked": ["str", "'types'"],
            "json": ["dict", "{'a': 1}"],
            "text": ["str", "'é'"],
            "raw": ["bytearray", "bytearray(b'\\xff')"],
            "none": ["bytearray", "bytearray(b'n')"],
        },
        {
            "asked": {"content-type": ""},
            "json": "a header wins over an input of its name",
            "X-Mine": "ä, and more",
        },
        b"chosen-by-caller",
    ]


def test_inputs_stay_bytes_where_decoding_is_off(open_service: Any, store: Any, in_process: Any) -> None:
    service: ModelService = open_service(decode_input_request=False)
    url = store.add("m.mar", HANDLER)

    async def run() -> Any:
        await service.register(RegisterParameters(url=url, initial_workers=1, synchronous=True))
        types = {"asked": "text/plain", "json": "application/json"}
        answer = await service.predict(Query("m", "", {"asked": b"types", "json": b"1"}, content_types=types))
        return {key: kind for key, (kind, _) in json.loads(answer.value).items()}

    assert in_process.run(run()) == {"asked": "bytearray", "json": "bytearray"}


def test_what_a_handler_chooses_for_its_answer(service: ModelService, in_process: Any) -> None:
    chosen = in_process.run(service.predict(Query("m", "", {"asked": b"chosen"})))
    assert (chosen.code, chosen.value, chosen.status, chosen.phrase) == (200, b"answer", 202, "As you like")
    assert chosen.headers == {"content-type": "text/csv", "x-number": "7"}
    plain = in_process.run(service.predict(Query("m", "", {"asked": b""})))
    assert (plain.status, plain.phrase, plain.headers) == (200, "", {})
    assert 0 <= plain.queue_seconds < 5 and 0 < plain.worker_seconds < 5 and plain.batch_size == 1


def test_every_request_ends_once_and_the_observer_knows_how(
    service: ModelService, in_process: Any, ends: Ends, tmp_path: Path
) -> None:
    held = tmp_path / "held"

    async def run() -> None:
        await service.predict(Query("m", "", {"asked": b"metric"}))
        assert ends.observations == [("seen", 2.0), ("part", 1.5)]
        assert (len(ends.answers), ends.failures, len(ends.loads)) == (1, [], 1)

        holding = asyncio.ensure_future(service.predict(Query("m", "", {"asked": f"hold {held}".encode()})))
        await eventually(held.exists)
        late = asyncio.ensure_future(service.predict(Query("m", "", {"asked": b""}, patience=0.05)))
        cancelled = asyncio.ensure_future(service.predict(Query("m", "", {"asked": b""})))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await service.predict(Query("m", "", {"asked": b""}))
        cancelled.cancel()
        with pytest.raises(DeadlineError):
            await late
        assert sorted(type(each).__name__ for each in ends.failures) == [
            "DeadlineError",
            "NoneType",
            "OverloadedError",
        ]
        abandoned = asyncio.ensure_future(service.predict(Query("m", "", {"asked": b""})))
        await asyncio.sleep(0)
        held.unlink()
        await holding
        await abandoned
        assert len(ends.answers) == 3
        with pytest.raises(WorkerDiedError):
            await service.predict(Query("m", "", {"asked": b"die"}))
        assert isinstance(ends.failures[-1], WorkerDiedError)
        assert (len(ends.answers), len(ends.failures)) == (3, 4)

    in_process.run(run())


def test_a_stream_that_nobody_reads_is_given_up(service: ModelService, in_process: Any, ends: Ends) -> None:
    async def run() -> int:
        seen = 0
        async with contextlib.aclosing(service.stream(Query("m", "", {"asked": b"flood"}))) as parts:
            await anext(parts)
            await eventually(lambda: ends.answers)  # 80 MB have come meanwhile
            with pytest.raises(UnavailableError, match="wait for its reader"):
                async for part in parts:
                    seen += len(part.value)
        assert (await service.predict(Query("m", "", {"asked": b""}))).value == b"answer"
        return seen

    assert 60_000_000 < in_process.run(run()) <= 64 * 1024**2
