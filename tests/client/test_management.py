"""ManagementClient against a real gRPC server whose answers the test chooses."""

import json
from typing import Any

import grpc
import pytest

from satrap.client import ManagementClient, ModelEntry, Retry, SparseNeed
from satrap.errors import ConflictError, NotFoundError, UnavailableError, UnexpectedAnswerError

QUICK = Retry(attempts=3, first_delay=0.01, max_delay=0.01)

# As TorchServe 0.12 answers.
DESCRIPTION = [
    {
        "modelName": "noop",
        "modelVersion": "2.0",
        "modelUrl": "noop_v2.mar",
        "runtime": "python",
        "minWorkers": 1,
        "maxWorkers": 2,
        "batchSize": 4,
        "maxBatchDelay": 100,
        "responseTimeout": 120,
        "loadedAtStartup": True,
        "workers": [
            {
                "id": "9000",
                "startTime": "2026-11-20T11:28:33.803Z",
                "status": "READY",
                "memoryUsage": 219000832,
                "pid": 77,
                "gpu": False,
                "gpuUsage": "N/A",
            },
            {"id": "9001", "startTime": "", "status": "UNLOADING", "memoryUsage": 0, "pid": 78, "gpu": False},
        ],
        "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
    }
]


def test_register(server: Any) -> None:
    server.answers = ['Model "m" Version: 2 registered with 1 initial workers']
    with ManagementClient(server.address) as management:
        said = management.register("m_v2.mar", model_name="m", initial_workers=2, batch_size=8)
    assert said == server.answers[0]
    method, request, _ = server.requests[0]
    assert method == "RegisterModel"
    assert (request.url, request.model_name, request.initial_workers) == ("m_v2.mar", "m", 2)
    assert (request.batch_size, request.synchronous, request.response_timeout) == (8, True, 0)


def test_other_calls_carry_their_arguments(server: Any) -> None:
    server.answers = ["done"]
    with ManagementClient(server.address, metadata={"authorization": "Bearer t"}) as management:
        assert management.unregister("m", "1") == "done"
        assert management.set_default("m", "2") == "done"
        assert management.scale("m", min_workers=2, max_workers=3, version="2") == "done"
    asked = {method: request for method, request, _ in server.requests}
    assert (asked["UnregisterModel"].model_name, asked["UnregisterModel"].model_version) == ("m", "1")
    assert (asked["SetDefault"].model_name, asked["SetDefault"].model_version) == ("m", "2")
    scaled = asked["ScaleWorker"]
    assert (scaled.min_worker, scaled.max_worker, scaled.model_version, scaled.synchronous) == (
        2,
        3,
        "2",
        True,
    )
    assert all(headers["authorization"] == "Bearer t" for _, _, headers in server.requests)


def test_describe(server: Any) -> None:
    server.answers = [json.dumps(DESCRIPTION)]
    with ManagementClient(server.address) as management:
        (described,) = management.describe("noop", "all", customized=True)
    request = server.requests[0][1]
    assert (request.model_name, request.model_version, request.customized) == ("noop", "all", True)
    assert (described.name, described.version, described.url) == ("noop", "2.0", "noop_v2.mar")
    assert (described.min_workers, described.max_workers, described.batch_size) == (1, 2, 4)
    assert [worker.pid for worker in described.workers] == [77, 78]
    assert described.ready_workers == 1
    assert described.document["jobQueueStatus"]["remainingCapacity"] == 100


def version(name: str, number: int, **sparse: object) -> dict[str, object]:
    return {"modelName": name, "modelVersion": str(number), "minWorkers": 1, "maxWorkers": 1, **sparse}


def test_what_a_rollback_must_not_go_below(server: Any) -> None:
    server.answers = [
        '{"nextPageToken": "2", "models": [{"modelName": "a", "modelUrl": ""}, {"modelName": "b", "modelUrl": ""}]}',
        json.dumps(
            [
                version("a", 1),
                version("a", 2, sparseSequence=12, sparseReached=True),
                version("a", 3, sparseSequence=15, sparseReached=False),
            ]
        ),
        server.refusal(grpc.StatusCode.NOT_FOUND, "Model not found: b"),
        '{"models": [{"modelName": "c", "modelUrl": ""}]}',
        json.dumps([version("c", 7, sparseSequence=9, sparseReached=True)]),
    ]
    with ManagementClient(server.address) as management:
        assert management.sparse_needs() == (SparseNeed("a", "2", 12), SparseNeed("c", "7", 9))
    assert [request.next_page_token for method, request, _ in server.requests if method == "ListModels"] == [
        0,
        2,
    ]


@pytest.mark.parametrize("sequence", ["12", 1.5, True, [12]])
def test_a_sequence_that_cannot_be_read(server: Any, sequence: object) -> None:
    server.answers = [json.dumps([version("a", 1, sparseSequence=sequence)])]
    with ManagementClient(server.address) as management, pytest.raises(UnexpectedAnswerError):
        management.describe("a")


def test_list_models(server: Any) -> None:
    server.answers = [
        '{"nextPageToken": "2", "models": [{"modelName": "noop", "modelUrl": "noop_v1.mar"}]}',
        '{"models": []}',
    ]
    with ManagementClient(server.address) as management:
        page = management.list_models(limit=1)
        last = management.list_models(next_page_token=2)
    assert page.models == (ModelEntry("noop", "noop_v1.mar"),)
    assert page.next_page_token == 2
    assert (last.models, last.next_page_token) == ((), None)
    assert [(request.limit, request.next_page_token) for _, request, _ in server.requests] == [
        (1, 0),
        (100, 2),
    ]


@pytest.mark.parametrize("text", ["", "[]", "null", '{"models": 3}', '{"models": [{}]}'])
def test_a_list_that_cannot_be_read(server: Any, text: str) -> None:
    server.answers = [text]
    with ManagementClient(server.address) as management, pytest.raises(UnexpectedAnswerError):
        management.list_models()


@pytest.mark.parametrize("text", ["", "3", '[{"modelName": "m"}]', "[3]"])
def test_a_description_that_cannot_be_read(server: Any, text: str) -> None:
    server.answers = [text]
    with ManagementClient(server.address) as management, pytest.raises(UnexpectedAnswerError):
        management.describe("m")


def test_errors_are_typed_and_without_java(server: Any) -> None:
    java = "org.pytorch.serve"
    server.answers = [
        server.refusal(
            grpc.StatusCode.NOT_FOUND,
            f"Model not found at: x.mar\n{java}.archive.model.ModelNotFoundException",
        ),
        server.refusal(
            grpc.StatusCode.ABORTED,
            f"Model version 1 is already registered for model m\n{java}.http.ConflictStatusException",
        ),
    ]
    with ManagementClient(server.address) as management:
        with pytest.raises(NotFoundError, match=r"^Model not found at: x\.mar$"):
            management.register("x.mar")
        with pytest.raises(ConflictError, match=r"^Model version 1 is already registered for model m$"):
            management.register("m.mar")


def test_only_what_can_be_done_twice_is_tried_again(server: Any) -> None:
    server.answers = [server.refusal(grpc.StatusCode.UNAVAILABLE, "starting")]
    with ManagementClient(server.address, retry=QUICK) as management:
        for once in (lambda: management.register("m.mar"), lambda: management.unregister("m")):
            server.requests.clear()
            with pytest.raises(UnavailableError):
                once()
            assert len(server.requests) == 1
        for again in (
            lambda: management.set_default("m", "1"),
            lambda: management.scale("m", min_workers=1),
            lambda: management.describe("m"),
            management.list_models,
        ):
            server.requests.clear()
            with pytest.raises(UnavailableError):
                again()
            assert len(server.requests) == 3
