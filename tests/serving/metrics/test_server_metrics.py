"""The server's metrics, told about requests as the service tells them."""

import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from satrap.errors import DeadlineError, OverloadedError, SatrapError, WorkerDiedError
from satrap.serving.metrics.definitions import Definition, Definitions
from satrap.serving.metrics.live import LiveVersion
from satrap.serving.metrics.server_metrics import KEPT_SECONDS, ServerMetrics
from satrap.serving.metrics.torchserve import TORCHSERVE
from satrap.serving.observation import PHASE, Observation
from satrap.serving.query import Query
from satrap.serving.request import Prediction, Request
from satrap.serving.roster import WorkerState

HOST = (("Hostname", "vm"), ("Level", "Host"))


def request(version: str = "", *, api: Any = "grpc", **more: Any) -> Request:
    return Request("id-1", Query("m", version, {}, protocol=api, **more), None)  # type: ignore[arg-type]


def prediction(code: int = 200, **more: Any) -> Prediction:
    given = {"queue_seconds": 0.002, "worker_seconds": 0.01, **more}
    return Prediction(code, b"", {"handler": 7.0}, **given)


def answer(metrics: ServerMetrics, *requests: Request, observations: Any = (), **more: Any) -> None:
    answers = [prediction(batch_size=len(requests), **more) for _ in requests]
    metrics.answered("m", "1.0", 9000, requests, answers, observations)


def told(metrics: ServerMetrics, *names: str) -> dict[tuple[Any, ...], float]:
    """(name, *sorted labels) -> value, as Prometheus reads it."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render(names).decode())
        for sample in family.samples
    }


def ts(version: str) -> tuple[Any, ...]:
    return ("hostname", "vm"), ("model_name", "m"), ("model_version", version)


def ours(*more: tuple[str, str]) -> tuple[Any, ...]:
    return tuple(sorted((("model", "m"), ("version", "1.0"), *more)))


def test_all_of_torchserves_names_are_there_from_the_start() -> None:
    text = ServerMetrics(hostname="vm").render().decode()
    for one in TORCHSERVE:
        assert f"# HELP {one.name} Torchserve prometheus {one.type} metric with unit: {one.unit}\n" in text
        assert f"# TYPE {one.name} {one.type}\n" in text


def test_a_request_over_either_api() -> None:
    metrics = ServerMetrics(hostname="vm")
    answer(metrics, request())
    answer(metrics, request("1.0", api="rest"))
    answer(metrics, request("1.0"))
    values = told(metrics)
    assert values["ts_inference_requests_total", *ts("default")] == 1
    assert values["ts_inference_requests_total", *ts("1.0")] == 2
    assert values["ts_inference_latency_microseconds_total", *ts("1.0")] == pytest.approx(24_000)
    assert values["ts_queue_latency_microseconds_total", *ts("1.0")] == pytest.approx(4_000)
    assert values["QueueTime", *HOST] == pytest.approx(2)
    assert values["WorkerThreadTime", *HOST] == pytest.approx(3)
    assert values["PredictionTime", ("Hostname", "vm"), ("Level", "Model"), ("ModelName", "m")] == 7
    assert values["satrap_requests_total", *ours(("api", "grpc"))] == 2
    assert values["satrap_requests_total", *ours(("api", "rest"))] == 1
    assert values["satrap_request_seconds_count", *ours()] == 3
    assert values["satrap_request_seconds_sum", *ours()] == pytest.approx(0.036)
    assert values["satrap_queue_seconds_sum", *ours()] == pytest.approx(0.006)
    assert values["satrap_handler_seconds_sum", *ours()] == pytest.approx(0.021)
    assert "Requests2XX" in metrics.render().decode() and b"Requests2XX_total" not in metrics.render()


def test_a_batch() -> None:
    metrics = ServerMetrics(hostname="vm")
    answer(metrics, request(), request("1.0"), request(), staleness_ms=1500, is_stale=True)
    answer(metrics, request())
    values = told(metrics)
    assert values["satrap_batch_size_bucket", *ours(("le", "1.0"))] == 1
    assert values["satrap_batch_size_bucket", *ours(("le", "4.0"))] == 2
    assert values["satrap_batch_size_sum", *ours()] == 4
    assert values["satrap_handler_seconds_count", *ours()] == 2, "once for each batch"
    assert values["satrap_staleness_seconds", *ours()] == 1.5
    assert values["satrap_stale_answers_total", *ours()] == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OverloadedError("queue", 100), "overloaded"),
        (DeadlineError("late"), "deadline"),
        (WorkerDiedError("m", "1.0"), "worker died"),
        (SatrapError("?"), "other"),
        (None, "abandoned"),
    ],
)
def test_failures_by_reason(error: SatrapError | None, reason: str) -> None:
    metrics = ServerMetrics(hostname="vm")
    metrics.failed("m", "1.0", request("1.0"), error)
    values = told(metrics)
    assert values["satrap_request_failures_total", *ours(("reason", reason))] == 1
    assert values["ts_inference_requests_total", *ts("1.0")] == 1, "TorchServe counts them as well"
    assert values["satrap_request_seconds_count", *ours()] == 0
    assert not [key for key in values if key[0] == "PredictionTime"], "nothing was predicted"


def test_an_error_of_the_handler_is_a_failure() -> None:
    metrics = ServerMetrics(hostname="vm")
    metrics.answered("m", "1.0", 9000, [request()], [prediction(503)], [])
    assert told(metrics)["satrap_request_failures_total", *ours(("reason", "handler"))] == 1


def test_a_description_is_no_request() -> None:
    metrics = ServerMetrics(hostname="vm")
    answer(metrics, request(headers={"describe": "True"}))
    metrics.failed("m", "1.0", request(headers={"describe": "True"}), DeadlineError("late"))
    assert not [
        key for key in told(metrics) if key[0] in ("ts_inference_requests_total", "satrap_requests_total")
    ]


def test_observations_of_handlers() -> None:
    metrics = ServerMetrics(hostname="vm")
    seen = [
        Observation("Answers", 2.0, "count", "counter"),
        Observation(PHASE, 0.02, "s", "histogram", (("phase", "look up"),), is_exact=True),
        Observation("satrap_requests_total", 1.0, "count", "counter"),
    ]
    for _ in range(2):
        answer(metrics, request(), observations=seen)
    values = told(metrics)
    assert values["Answers_total", ("Hostname", "vm"), ("Level", "Model"), ("ModelName", "m")] == 4
    assert values["satrap_handler_phase_seconds_count", *ours(("phase", "look up"))] == 2
    assert values["satrap_refused_observations_total",] == 2


def test_calls_and_workers_and_the_machine() -> None:
    metrics = ServerMetrics(hostname="vm")
    for status in (200, 206, 404, 500, 503, 507):
        metrics.count_call(status)
    metrics.loaded("m", "1.0", 9003, 0.25)
    metrics.set_system("MemoryUsed", 123.5)
    metrics.set_system("GPUUtilization", 50.0, device=1)
    values = told(metrics)
    assert [values[f"Requests{kind}XX_total", *HOST] for kind in (2, 4, 5)] == [2, 1, 3]
    assert values["WorkerLoadTime", *HOST, ("WorkerName", "W-9003-m_1.0")] == 250
    assert values["MemoryUsed", *HOST] == 123.5
    assert values["GPUUtilization", ("DeviceId", "1"), *HOST] == 50


def test_refused_requests() -> None:
    metrics = ServerMetrics(hostname="vm")
    for api, reason in (("rest", "late"), ("grpc", "late"), ("grpc", "late")):
        metrics.count_refused(api, reason)
    values = told(metrics)
    assert values["satrap_refused_requests_total", ("api", "grpc"), ("reason", "late")] == 2
    assert values["satrap_refused_requests_total", ("api", "rest"), ("reason", "late")] == 1
    assert values["Requests4XX_total", *HOST] == 0, "that is told by its status"


def test_names_choose() -> None:
    metrics = ServerMetrics(hostname="vm")
    metrics.count_call(200)
    answer(metrics, request())
    assert set(told(metrics, "Requests2XX", "satrap_batch_size_sum", "nothing")) >= {
        ("Requests2XX_total", *HOST),
        ("satrap_batch_size_sum", *ours()),
    }
    assert metrics.render(["nothing"]) == b""


def test_versions_as_they_are_now() -> None:
    here = [LiveVersion("m", "1.0", 3, {WorkerState.READY: 2, WorkerState.WAITING: 1}, [9000, 9001, 9002])]
    metrics = ServerMetrics(hostname="vm", live=lambda: here)
    values = told(metrics)
    assert values["satrap_queue_length", *ours()] == 3
    assert values["satrap_workers", *ours(("state", "ready"))] == 2
    assert values["satrap_workers", *ours(("state", "failed"))] == 0
    here.append(LiveVersion("m", "1.0", 1, {WorkerState.UNLOADING: 1}, [8999]))
    assert told(metrics)["satrap_queue_length", *ours()] == 4, "an older one of the same name still drains"
    here.clear()
    assert not [key for key in told(metrics) if key[0] in ("satrap_queue_length", "satrap_workers")]


def test_what_is_gone_is_forgotten_after_a_while() -> None:
    here = [LiveVersion("m", version, 0, {}, [9000]) for version in ("1.0", "2.0")]
    metrics = ServerMetrics(hostname="vm", live=lambda: here)
    empty = metrics.render()
    for version in ("1.0", "2.0"):
        seen = [Observation("Answers", 1.0, "count", "counter")]
        metrics.answered("m", version, 9000, [request(), request(version)], [prediction()] * 2, seen)
        metrics.loaded("m", version, 9000, 0.1)
    metrics.sweep(0.0)
    del here[0]
    metrics.sweep(10.0)
    assert ("satrap_batch_size_sum", *ours()) in told(metrics), "it can still be read"
    metrics.sweep(10.0 + KEPT_SECONDS)
    values = told(metrics)
    assert not [key for key in values if ("version", "1.0") in key or ("model_version", "1.0") in key]
    assert values["ts_inference_requests_total", *ts("default")] == 2, "the model's own stay"
    assert ("WorkerLoadTime", *HOST, ("WorkerName", "W-9000-m_1.0")) not in values
    metrics.answered("m", "2.0", 9000, [request()], [prediction()], ())
    assert told(metrics)["ts_inference_requests_total", *ts("default")] == 3
    here.clear()
    metrics.sweep(1_000.0)
    here.append(LiveVersion("m", "2.0", 0, {}, []))
    metrics.sweep(1_000.0 + KEPT_SECONDS)
    metrics.sweep(2_000.0 + KEPT_SECONDS)
    here.clear()
    metrics.sweep(3_000.0)
    assert ("Answers_total", ("Hostname", "vm"), ("Level", "Model"), ("ModelName", "m")) in told(metrics)
    metrics.sweep(3_000.0 + KEPT_SECONDS)
    assert metrics.render().count(b"\n") < empty.count(b"\n") + 10
    assert not [key for key in told(metrics) if "m" in dict(key[1:]).values()]


def test_legacy_tells_three_and_logs_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    metrics = ServerMetrics(hostname="vm", mode="legacy")
    with caplog.at_level(logging.INFO):
        answer(metrics, request())
        metrics.count_call(200)
    assert {key[0] for key in told(metrics)} == {
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds_total",
        "ts_queue_latency_microseconds_total",
    }
    names = [record.message.split(":")[0] for record in caplog.records]
    assert names == [
        "QueueTime.Milliseconds",
        "WorkerThreadTime.Milliseconds",
        "PredictionTime.Milliseconds",
        "Requests2XX.Count",
    ]


def test_log_tells_nothing_and_logs_all(caplog: pytest.LogCaptureFixture) -> None:
    metrics = ServerMetrics(hostname="vm", mode="log")
    seen = [Observation("Thinking", 2.5, "ms", "gauge", (("part", "a"),), request=0)]
    with caplog.at_level(logging.INFO):
        answer(metrics, request(), observations=seen)
        metrics.failed("m", "1.0", request("1.0"), None)
        metrics.set_system("MemoryUsed", 5.0)
        metrics.loaded("m", "1.0", 9000, 0.1)
    assert metrics.render() == b""
    lines = [record.message for record in caplog.records]
    assert lines[0].startswith(
        "Thinking.Milliseconds:2.5|#ModelName:m,Level:Model,part:a|#type:GAUGE|#hostname:vm,"
    )
    assert lines[0].endswith(",id-1")
    assert lines[1].startswith(
        "ts_inference_requests_total.Count:1.0|#model_name:m,model_version:default|#type:COUNTER|#hostname:vm,"
    )
    assert [line.split(":")[0] for line in lines[2:]] == [
        "ts_inference_latency_microseconds.Microseconds",
        "ts_queue_latency_microseconds.Microseconds",
        "QueueTime.Milliseconds",
        "WorkerThreadTime.Milliseconds",
        "PredictionTime.Milliseconds",
        "ts_inference_requests_total.Count",
        "MemoryUsed.Megabytes",
        "WorkerLoadTime.Milliseconds",
    ]


def test_a_file_leaves_out_and_renames_nothing(caplog: pytest.LogCaptureFixture) -> None:
    definitions = Definitions(
        server=(
            Definition("counter", "Requests2XX", "Count", ("Level", "Hostname")),
            Definition("gauge", "QueueTime", "Milliseconds", ("Hostname",)),
            Definition("gauge", "Mine", "Count"),
        )
    )
    with caplog.at_level(logging.WARNING):
        metrics = ServerMetrics(hostname="vm", definitions=definitions)
    assert [record.message for record in caplog.records] == [
        "serving.metrics_config: QueueTime stays a gauge with the dimensions Level, Hostname",
        "serving.metrics_config: ts_metrics names Mine, which no server has",
    ]
    metrics.count_call(200)
    metrics.count_call(404)
    names = {key[0] for key in told(metrics)}
    assert names >= {"Requests2XX_total", "QueueTime"} and "Requests4XX_total" not in names
    assert b"satrap_request_seconds" in metrics.render()
