"""Streams over gRPC: parts of one answer, many predictions in one call, and what ends them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from satrap.protos import inference_pb2

pytestmark = pytest.mark.slow

FAILED = "\norg.pytorch.serve.http.InternalServerException"

HANDLER = """
import os, time
from satrap.serving.prediction import PredictionException

def handle(data, context):
    if data is None:
        return None
    return [answer(i, bytes(request["data"]).decode(), context) for i, request in enumerate(data)]

def answer(i, asked, context):
    if asked.startswith("parts"):
        for part in range(int(asked[5:])):
            context.send_intermediate({i: f"{part} "}, [i])
        return "end"
    if asked == "sequence":
        return context.get_sequence_id(i)
    if asked == "die":
        context.send_intermediate({i: "before"}, [i])
        os._exit(3)
    if asked == "bad part":
        context.send_intermediate({i: object()}, [i])
    if asked == "long part":
        context.send_intermediate({i: b"x" * 6_553_501}, [i])
    if asked == "long sum":
        for part in range(3):
            context.send_intermediate({i: b"x" * 3_000_000}, [i])
    if asked.startswith("slow parts"):
        for part in range(4):
            time.sleep(0.5)
            context.send_intermediate({i: "p"}, [i])
    if asked.startswith("hold "):
        open(asked[5:], "w").close()
        while os.path.exists(asked[5:]):
            context.send_intermediate({i: "held"}, [i])
            time.sleep(0.01)
        return "released"
    if asked.startswith("code"):
        raise PredictionException("as asked", int(asked[4:]))
    return asked
"""


@pytest.fixture(scope="module", params=["lean", "grpcio"])
def shared_sections(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"serving": {"grpc_server": request.param}}


def asked(value: str, model: str = "m", **fields: str) -> inference_pb2.PredictionsRequest:
    return inference_pb2.PredictionsRequest(model_name=model, input={"data": value.encode()}, **fields)


def served(server: Any, **fields: int) -> Any:
    server.client.register(server.store.add("m.mar", HANDLER), **fields)
    return server.client


def test_the_parts_of_an_answer(shared: Any, failure: Any) -> None:
    client = served(shared)

    def stream(value: str, **fields: str) -> list[bytes]:
        request = asked(value, **fields)
        return [part.prediction for part in client.inference.StreamPredictions(request, timeout=30)]

    assert stream("parts3") == [b"0 ", b"1 ", b"2 ", b"end"]
    assert client.predict("m", b"parts3") == b"0 1 2 end", "who asked for no stream gets one piece"
    assert stream("just one") == [b"just one"], "a handler that does not stream gives one answer"
    assert stream("sequence", sequence_id="s-1") == [b"s-1"]
    pids = client.worker_pids("m")
    assert failure(stream, "code404") == ("NOT_FOUND", "as asked" + FAILED)
    assert failure(stream, "x", model="nope")[0] == "INTERNAL"
    assert failure(stream, "x", model="") == (
        "INTERNAL",
        "Parameter model_name is required.\nBadRequestException.()",
    )
    assert failure(stream, "bad part") == ("UNAVAILABLE", "Unsupported model output data type." + FAILED)
    assert "max_response_bytes (max_response_size" in failure(stream, "long part")[1]
    assert "max_response_bytes (max_response_size" in failure(client.predict, "m", b"long sum")[1]
    assert len(stream("long sum")) == 4, "a stream has no limit, its parts have"
    assert client.worker_pids("m") == pids, "the worker lives"
    parts = client.inference.StreamPredictions(asked("die"), timeout=30)
    assert next(parts).prediction == b"before"
    with pytest.raises(grpc.RpcError) as caught:
        next(parts)
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INTERNAL,
        "Worker died." + FAILED,
    )
    assert client.predict("m", b"again") == b"again"


def test_a_cancelled_stream_frees_its_worker_when_the_handler_returns(
    shared: Any, tmp_path: Path, wait_until: Any
) -> None:
    client = served(shared)
    pids = client.worker_pids("m")
    held = tmp_path / "held"
    parts = client.inference.StreamPredictions(asked(f"hold {held}"), timeout=30)
    assert next(parts).prediction == b"held"
    waiting = client.inference.StreamPredictions(asked("never run"), timeout=30)
    parts.cancel()
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 1)
    waiting.cancel()
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 0)
    held.unlink()
    assert client.predict("m", b"next") == b"next"
    assert client.worker_pids("m") == pids


def test_the_response_timeout_counts_from_part_to_part(shared: Any) -> None:
    client = served(shared, response_timeout=1)
    parts = client.inference.StreamPredictions(asked("slow parts"), timeout=30)
    assert [part.prediction for part in parts] == [b"p"] * 4 + [b"slow parts"]


def test_many_predictions_in_one_call(shared: Any, tmp_path: Path, wait_until: Any) -> None:
    client = served(shared)
    requests = [
        asked("a", sequence_id="1"),
        asked("code400", sequence_id="2"),
        asked("x", model="nope", sequence_id="3"),
        asked("x", model_version="9", sequence_id="4"),
        asked("parts2", sequence_id="5"),
        asked("die", sequence_id="6"),
        asked("sequence", sequence_id="7"),
        asked("no sequence"),
    ]
    answers = list(client.inference.StreamPredictions2(iter(requests), timeout=30))
    assert [(answer.sequence_id, answer.prediction) for answer in answers] == [
        ("1", b"a"),
        ("2", b""),
        ("3", b""),
        ("4", b""),
        ("5", b"0 1 end"),
        ("6", b""),
        ("7", b"7"),
        ("", b"no sequence"),
    ]
    assert [answer.HasField("sequence_id") for answer in answers] == [True] * 7 + [False]
    statuses = [(a.status.code, a.status.message) for a in answers if a.HasField("status")]
    internal = grpc.StatusCode.INTERNAL.value[0]
    assert statuses == [
        (grpc.StatusCode.INVALID_ARGUMENT.value[0], "as asked" + FAILED),
        (internal, "Model not found: nope\norg.pytorch.serve.archive.model.ModelNotFoundException"),
        (
            internal,
            "Model version: 9 does not exist for model: m\n"
            "org.pytorch.serve.archive.model.ModelVersionNotFoundException",
        ),
        (internal, "Worker died." + FAILED),
    ]
    assert list(client.inference.StreamPredictions2(iter(()), timeout=30)) == []


def test_answers_come_while_the_client_still_sends(shared: Any) -> None:
    client = served(shared)
    answered = threading.Semaphore(0)

    def requests() -> Iterator[inference_pb2.PredictionsRequest]:
        for number in range(50):
            yield asked(str(number))
            assert answered.acquire(timeout=20), "the next message is sent when the last one is answered"

    seen = []
    for answer in client.inference.StreamPredictions2(requests(), timeout=30):
        seen.append(answer.prediction)
        answered.release()
    assert seen == [str(number).encode() for number in range(50)]


def test_a_cancelled_call_withdraws_what_waits(shared: Any, tmp_path: Path, wait_until: Any) -> None:
    client = served(shared)
    held, never = tmp_path / "held", tmp_path / "never"
    many = [asked(f"hold {held}"), *[asked(f"hold {never}")] * 40]
    call = client.inference.StreamPredictions2(iter(many), timeout=30)
    wait_until(held.exists)
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 31)
    call.cancel()
    wait_until(lambda: client.describe("m")[0]["jobQueueStatus"]["pendingRequests"] == 0)
    held.unlink()
    assert client.predict("m", b"next") == b"next"
    assert not never.exists()
