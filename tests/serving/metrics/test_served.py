"""/metrics of a running server, over both APIs, read by Prometheus' own parser."""

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.slow

HANDLER = """
import logging, sys

from ts.metrics.dimension import Dimension

def handle(data, context):
    if data is None:
        return
    context.metrics.add_counter("Answers", len(data))
    context.metrics.add_time("Thinking", 2.5, dimensions=[Dimension("part", "all of it")])
    print("one line")
    print("and one of errors", file=sys.stderr)
    logging.getLogger("mine").warning("two\\nlines")
    if any(bytes(next(iter(row.values()))) == b"raise" for row in data):
        raise ValueError("as asked")
    return ["x"] * len(data)
"""


@pytest.fixture(scope="module")
def shared_sections(tmp_path_factory: Any) -> dict[str, Any]:
    return {"serving": {"access_log": True, "system_metrics_seconds": 1}}


class Rest:
    """The REST addresses of a server."""

    def __init__(self, server: Any) -> None:
        self._at = dict(
            reversed(pair) for pair in re.findall(r"([\w.]+:\d+) \(([\w ]+)\)", server.command.line)
        )

    def call(self, api: str, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://{self._at[api]}{path}", data, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def metrics(self, query: str = "") -> dict[tuple[Any, ...], float]:
        status, body = self.call("metrics", f"/metrics{query}")
        assert status == 200
        return {
            (
                sample.name,
                *((k, v) for k, v in sorted(sample.labels.items()) if k.lower() != "hostname"),
            ): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }


HOST = ("Level", "Host")


def test_both_apis_are_counted_alike(shared: Any, failure: Any, wait_until: Callable[..., None]) -> None:
    rest = Rest(shared)
    before = rest.metrics()
    shared.store.add("m.mar", HANDLER)
    shared.client.register("m.mar")
    shared.client.predict("m")
    shared.client.predict("m", version="1.0")
    assert rest.call("REST inference", "/predictions/m", b"y") == (200, b"x")
    assert failure(shared.client.predict, "m", b"raise")[0] == "UNAVAILABLE"
    assert rest.call("REST inference", "/predictions/nobody", b"y")[0] == 404
    assert failure(shared.client.predict, "nobody")[0] == "INTERNAL"
    wait_until(
        lambda: rest.metrics()["satrap_handler_seconds_count", ("model", "m"), ("version", "1.0")] == 4
    )
    after = rest.metrics()

    def grown(*key: Any) -> float:
        return after[key] - before.get(key, 0)

    default, numbered = ((("model_name", "m"), ("model_version", name)) for name in ("default", "1.0"))
    assert after["ts_inference_requests_total", *default] == 3
    assert after["ts_inference_requests_total", *numbered] == 1
    assert after["ts_inference_latency_microseconds_total", *default] > 0
    assert after["ts_queue_latency_microseconds_total", *default] > 0
    assert grown("Requests4XX_total", HOST) == 2, (
        "a model that is not there is the caller's mistake over gRPC too"
    )
    assert grown("Requests5XX_total", HOST) == 1
    assert grown("Requests2XX_total", HOST) >= 4
    model = (("Level", "Model"), ("ModelName", "m"))
    assert after["Answers_total", *model] == 4
    assert after["Thinking", *model, ("part", "all of it")] == 2.5
    assert after["PredictionTime", *model] > 0
    (load_time,) = (
        value for key, value in after.items() if key[0] == "WorkerLoadTime" and "-m_1.0" in str(key)
    )
    assert 0 < load_time < 60_000
    assert after["satrap_workers", ("model", "m"), ("state", "ready"), ("version", "1.0")] == 1
    failures = ("model", "m"), ("reason", "handler"), ("version", "1.0")
    assert after["satrap_request_failures_total", *failures] == 1
    assert 0 < after["MemoryUtilization", HOST] < 100 and after["DiskUsage", HOST] > 0
    assert set(rest.metrics("?name[]=Requests5XX&name%5B%5D=QueueTime")) == {
        ("Requests5XX_total", HOST),
        ("QueueTime", HOST),
    }
    assert rest.metrics("?name[]=nothing") == {}


def test_what_no_api_gets_is_counted_by_its_reason(shared: Any, failure: Any) -> None:
    rest = Rest(shared)
    before = rest.metrics()
    host, port = rest._at["REST inference"].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"no request\r\n\r\n")
        assert b"400 Bad Request" in client.recv(65_536)
    too_large = bytes(6_553_501)
    assert rest.call("REST inference", "/predictions/m", too_large)[0] == 413
    assert failure(shared.client.predict, "m", too_large)[0] == "RESOURCE_EXHAUSTED"
    after = rest.metrics()
    for api, reason in (("rest", "malformed"), ("rest", "too large"), ("grpc", "too large")):
        key = ("satrap_refused_requests_total", ("api", api), ("reason", reason))
        assert after[key] - before.get(key, 0) == 1
    assert after["Requests4XX_total", HOST] - before["Requests4XX_total", HOST] == 3


def test_lines_say_of_which_worker_they_are(shared: Any, wait_until: Callable[..., None]) -> None:
    shared.store.add("m.mar", HANDLER, version="2.1")
    shared.client.register("m.mar")
    (worker,) = (one["id"] for one in shared.client.describe("m")[0]["workers"])
    shared.client.predict("m")
    Rest(shared).call("REST inference", "/predictions/m?of=query", b"y")
    prefix = f"[m 2.1 worker {worker}] "
    for line in ("one line", "and one of errors", "mine: two", "lines"):
        wait_until(lambda line=line: f"{prefix}{line}\n" in shared.log())
    assert re.search(r"WARNING .*mine: two\n", shared.log()), "a record keeps its level"
    calls = [
        line.rpartition("satrap.serving.access: ")[2]
        for line in shared.log().splitlines()
        if ".access: " in line
    ]
    grpc = "org.pytorch.serve.grpc"
    assert re.fullmatch(
        rf'/127\.0\.0\.1:\d+ "gRPC {grpc}\.inference\.InferenceAPIsService/Predictions HTTP/2\.0" 0 \d+',
        next(line for line in calls if "/Predictions" in line),
    )
    assert [line for line in calls if re.search(r'"POST /predictions/m\?of=query HTTP/1\.1" 200 \d+$', line)]
    assert [line for line in calls if "ManagementAPIsService/RegisterModel HTTP/2.0" in line]


def test_a_file_declares_metrics_and_the_log_has_them(
    serve: Any, store: Any, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    declared = tmp_path / "metrics.yaml"
    declared.write_text(
        json.dumps(
            {
                "ts_metrics": {
                    "counter": [{"name": "Requests2XX", "unit": "Count", "dimensions": ["Level", "Hostname"]}]
                },
                "model_metrics": {"histogram": [{"name": "Sizes", "unit": "B", "dimensions": ["kind"]}]},
            }
        )
    )
    store.add(
        "m.mar",
        """
        def handle(data, context):
            if data is None:
                return
            context.metrics.get_metric("Sizes", "histogram").add_or_update(3, ["small"])
            context.metrics.add_counter("Undeclared", 1)
            return [b"x"] * len(data)
        """,
    )
    server = serve("m.mar", serving={"metrics_mode": "log", "metrics_config": str(declared)})
    server.client.predict("m")
    wait_until(lambda: "Requests2XX.Count:1.0|#Level:Host|#type:COUNTER|#hostname:" in server.log())
    assert "Sizes.Bytes:3.0|#kind:small|#type:HISTOGRAM|#hostname:" in server.log()
    assert "Undeclared" not in server.log() and "QueueTime" not in server.log()
    assert Rest(server).call("metrics", "/metrics") == (200, b"")


def test_a_file_that_is_wrong_ends_the_start(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text("model_metrics: 5")
    with pytest.raises(pytest.fail.Exception, match=r"metrics\.yaml: model_metrics: has the keys counter"):
        serve(serving={"metrics_config": str(tmp_path / "metrics.yaml")})
