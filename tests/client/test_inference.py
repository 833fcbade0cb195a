"""InferenceClient against a real gRPC server whose answers the test chooses."""

import time
from typing import Any

import grpc
import numpy as np
import pytest

from satrap.client import (
    NO_RETRY,
    IDTypeFeatureWithSingleID,
    InferenceClient,
    NonIDTypeFeature,
    PersiaBatch,
    Retry,
)
from satrap.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RemoteError,
    SatrapError,
    UnavailableError,
    UnexpectedAnswerError,
)

QUICK = Retry(attempts=3, first_delay=0.01, max_delay=0.01)


def test_infer_sends_the_batch_under_its_name(server: Any) -> None:
    server.answers = [b"[0.5, 0.25]"]
    batch = PersiaBatch(
        [IDTypeFeatureWithSingleID("user", np.array([1, 2], np.uint64))],
        [NonIDTypeFeature(np.ones((2, 3), np.float32))],
        requires_grad=False,
    )
    with InferenceClient(server.address, metadata={"Authorization": "Bearer t"}) as client:
        scores = client.infer("deepctr", batch, version="2", metadata={"x-trace": "7"})
        again = client.infer("deepctr", batch.to_bytes())
        client.infer("deepctr", batch.to_arrow())
    np.testing.assert_array_equal(scores, [0.5, 0.25])
    np.testing.assert_array_equal(again, scores)
    (_, first, headers), (_, second, _), (_, third, _) = server.requests
    assert dict(third.input) == {"batch": batch.to_arrow()}
    assert (first.model_name, first.model_version, dict(first.input)) == (
        "deepctr",
        "2",
        {"batch": batch.to_bytes()},
    )
    assert second.model_version == ""
    assert headers["authorization"] == "Bearer t"
    assert headers["x-trace"] == "7"


def test_predict_gives_the_bytes(server: Any) -> None:
    server.answers = [b"\x00raw"]
    with InferenceClient(server.address) as client:
        assert client.predict("m", {"a": b"1", "b": b"2"}) == b"\x00raw"
    assert dict(server.requests[0][1].input) == {"a": b"1", "b": b"2"}


def test_ping(server: Any) -> None:
    server.answers = ['{\n  "status": "Healthy"\n}', "what?"]
    with InferenceClient(server.address) as client:
        assert client.ping() == "Healthy"
        with pytest.raises(UnexpectedAnswerError, match="what"):
            client.ping()


JAVA = "org.pytorch.serve.archive.model"


@pytest.mark.parametrize(
    ("status", "details", "kind", "sentence"),
    [
        ("INVALID_ARGUMENT", "bad batch: cut (at byte 7)", InvalidInputError, "bad batch: cut (at byte 7)"),
        (
            "NOT_FOUND",
            f"Model not found: m\n{JAVA}.ModelNotFoundException",
            NotFoundError,
            "Model not found: m",
        ),
        (
            "INTERNAL",
            f"Model not found: m\n{JAVA}.ModelNotFoundException",
            NotFoundError,
            "Model not found: m",
        ),
        (
            "INTERNAL",
            "Parameter model_name is required.\nBadRequestException.()",
            InvalidInputError,
            "Parameter model_name is required.",
        ),
        ("INTERNAL", "no worker\nInternalServerException.()", RemoteError, "INTERNAL: no worker"),
        ("INTERNAL", "two\nlines", RemoteError, "INTERNAL: two\nlines"),
        ("ABORTED", "registered already", ConflictError, "registered already"),
        ("UNAVAILABLE", "Prediction failed", UnavailableError, "Prediction failed"),
        ("RESOURCE_EXHAUSTED", "full", RemoteError, "RESOURCE_EXHAUSTED: full"),
        ("UNKNOWN", "", RemoteError, "UNKNOWN: "),
    ],
)
def test_errors_have_classes(
    server: Any, status: str, details: str, kind: type[SatrapError], sentence: str
) -> None:
    server.answers = [server.refusal(grpc.StatusCode[status], details)]
    with InferenceClient(server.address) as client, pytest.raises(SatrapError) as caught:
        client.infer("m", b"x")
    assert type(caught.value) is kind
    assert str(caught.value).startswith(sentence)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert len(server.requests) == 1


def test_unavailable_is_tried_again(server: Any) -> None:
    loading = server.refusal(grpc.StatusCode.UNAVAILABLE, "embedding shard 0 of 2 at a:1: loading, 40 %")
    server.answers = [loading, loading, b"[1.0]"]
    with InferenceClient(server.address, retry=QUICK) as client:
        np.testing.assert_array_equal(client.infer("m", b"x"), [1.0])
        assert len(server.requests) == 3

        server.answers = [loading]
        with pytest.raises(UnavailableError, match="loading, 40 %"):
            client.infer("m", b"x")
        assert len(server.requests) == 6
    with InferenceClient(server.address, retry=NO_RETRY) as client, pytest.raises(UnavailableError):
        client.infer("m", b"x")
    assert len(server.requests) == 7


def test_nobody_listens(unused_address: str) -> None:
    with InferenceClient(unused_address, retry=QUICK) as client, pytest.raises(UnavailableError):
        client.infer("m", b"x")


def test_the_deadline_spans_the_retries(unused_address: str) -> None:
    patient = Retry(attempts=1000, first_delay=0.05, max_delay=0.05)
    started = time.monotonic()
    with (
        InferenceClient(unused_address, timeout=0.5, retry=patient) as client,
        pytest.raises((UnavailableError, DeadlineError)),
    ):
        client.infer("m", b"x")
    assert time.monotonic() - started < 5


def test_a_slow_answer_is_a_deadline_error(server: Any) -> None:
    def wait_until_cancelled(context: grpc.ServicerContext) -> bytes:
        while context.is_active():
            time.sleep(0.01)
        return b""

    server.answers = [wait_until_cancelled]
    with InferenceClient(server.address, timeout=30) as client, pytest.raises(DeadlineError):
        client.infer("m", b"x", timeout=0.2)


def test_repr() -> None:
    with InferenceClient("127.0.0.1:1") as client:
        assert repr(client) == "<InferenceClient 127.0.0.1:1>"
