"""A real server, asked by clients that nobody here wrote: httpx and curl."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

ECHO = """
import json, time

def plain(value):
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else value

def handle(data, context):
    if data is None:
        return
    answers = []
    for place, row in enumerate(data):
        if "marker" in row:
            open(row["marker"].decode(), "w").close()
            time.sleep(0.5)
        if row.get("do") == b"status":
            context.set_response_status(201, "Made", place)
            context.set_response_content_type(place, "application/json")
            context.set_response_header(place, "X-Made", "yes")
        answers.append(json.dumps({
            "inputs": {key: [type(value).__name__, plain(value)] for key, value in row.items()},
            "wanted": context.get_request_header(place, "X-Wanted"),
            "path": context.get_request_header(place, "url_path"),
            "id": context.get_request_id(place),
        }))
    return answers
"""


def urls(line: str) -> tuple[str, str, str]:
    """Inference, management and metrics of a ready line."""
    found = [
        re.search(rf"([\w.]+:\d+) \({name}\)", line)
        for name in ("REST inference", "REST management", "metrics")
    ]
    inference, management, metrics = (f"http://{match[1]}" for match in found if match)
    return inference, management, metrics


@pytest.fixture
def model(shared: Any) -> tuple[str, str, str]:
    """The model `m`, registered over REST, and the three APIs."""
    inference, management, metrics = urls(shared.command.line)
    shared.store.add("echo.mar", ECHO)
    reply = httpx.post(f"{management}/models", params={"url": "echo.mar", "initial_workers": 1})
    assert reply.json() == {"status": 'Model "m" Version: 1.0 registered with 1 initial workers'}
    return inference, management, metrics


def test_inputs(model: tuple[str, str, str]) -> None:
    url = f"{model[0]}/predictions/m"

    def inputs(**given: Any) -> Any:
        reply = httpx.post(url, **given)
        assert reply.status_code == 200, reply.text
        assert reply.json()["id"] == reply.headers["x-request-id"]
        return reply.json()["inputs"]

    assert inputs(content=b"\x00\xff") == {"body": ["bytearray", "\x00\xff"]}
    assert inputs(json={"a": [1, None]}) == {"body": ["dict", {"a": [1, None]}]}
    text = {"Content-Type": "text/plain; charset=utf-8"}
    assert inputs(content="grün".encode(), headers=text) == {"body": ["str", "grün"]}
    assert inputs(data={"a": "1", "b": "x y&z"}) == {"a": ["bytearray", "1"], "b": ["bytearray", "x y&z"]}
    files = {"f": ("f.json", b'{"x": 1}', "application/json"), "g": ("g.bin", bytes(range(256)))}
    assert inputs(files=files, data={"h": "2"}) == {
        "f": ["dict", {"x": 1}],
        "g": ["bytearray", bytes(range(256)).decode("latin-1")],
        "h": ["bytearray", "2"],
    }
    assert inputs(content=iter([b"in ", b"chunks"])) == {"body": ["bytearray", "in chunks"]}
    large = b"a" * 5_000_000
    assert inputs(content=large) == {"body": ["bytearray", large.decode()]}
    assert httpx.post(url, content=bytes(7_000_000)).status_code == 413


def test_headers_both_ways(model: tuple[str, str, str]) -> None:
    reply = httpx.post(
        f"{model[0]}/predictions/m/1.0/some/path", data={"do": "status"}, headers={"X-Wanted": "this"}
    )
    assert (reply.status_code, reply.headers["content-type"]) == (201, "application/json")
    assert (reply.reason_phrase, reply.headers["x-made"]) == ("Made", "yes")
    assert (reply.json()["wanted"], reply.json()["path"]) == ("this", "some/path")


def test_the_life_of_a_model(model: tuple[str, str, str], shared: Any) -> None:
    inference, management, metrics = model
    shared.store.add("echo2.mar", ECHO, version="2.0")
    models = f"{management}/models"

    def status(reply: httpx.Response) -> tuple[int, str]:
        return reply.status_code, reply.json().get("status") or reply.json()["type"]

    assert status(httpx.post(models, json={"url": "echo2.mar"})) == (
        200,
        'Model "m" Version: 2.0 registered with 0 initial workers. Use scale workers API to add workers for the model.',
    )
    assert status(httpx.post(models, params={"url": "echo2.mar"})) == (409, "ConflictStatusException")
    assert status(httpx.post(models, params={"url": "none.mar"})) == (404, "ModelNotFoundException")
    assert status(httpx.post(f"{inference}/predictions/m/2.0")) == (503, "ServiceUnavailableException")
    assert status(httpx.put(f"{models}/m/2.0", params={"min_worker": 1, "synchronous": "true"})) == (
        200,
        "Workers scaled to 1 for model: m, version: 2.0",
    )
    assert status(httpx.put(f"{models}/m/2.0")) == (202, "Processing worker updates...")
    assert httpx.post(f"{inference}/predictions/m/2.0").status_code == 200
    assert status(httpx.delete(f"{models}/m")) == (403, "InvalidModelVersionException")
    assert status(httpx.put(f"{models}/m/2.0/set-default")) == (
        200,
        'Default version successfully updated for model "m" to "2.0"',
    )
    [described] = httpx.get(f"{models}/m").json()
    assert (described["modelVersion"], described["workers"][0]["status"]) == ("2.0", "READY")
    assert len(httpx.get(f"{models}/m/all").json()) == 2
    assert status(httpx.delete(f"{models}/m/1.0")) == (200, 'Model "m" unregistered')
    assert httpx.get(models).json() == {"models": [{"modelName": "m", "modelUrl": "echo2.mar"}]}
    assert httpx.get(f"{management}/v1/models/m").json() == {"name": "m", "ready": True}
    assert httpx.get(f"{inference}/ping").json() == {"status": "Healthy"}
    assert httpx.get(f"{metrics}/metrics").status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl(model: tuple[str, str, str], tmp_path: Path) -> None:
    url = f"{model[0]}/predictions/m"
    file = tmp_path / "image.bin"
    file.write_bytes(bytes(range(256)) * 4200)
    expected = {"body": ["bytearray", file.read_bytes().decode("latin-1")]}

    def curl(*arguments: str) -> Any:
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--fail", *arguments], check=True, capture_output=True
        )
        return json.loads(done.stdout)["inputs"]

    assert curl("-T", str(file), url) == expected
    assert curl("-T", str(file), "-H", "Transfer-Encoding: chunked", url) == expected
    assert (
        curl("-X", "POST", url, "--data-binary", f"@{file}", "-H", "Content-Type: application/octet-stream")
        == expected
    )
    assert curl(url, "-F", f"data=@{file}") == {"data": expected["body"]}
    assert curl(url, "-d", "a=1") == {"a": ["bytearray", "1"]}


def test_a_stop_answers_what_has_come_over_rest(
    serve: Any, store: Any, tmp_path: Path, wait_until: Any
) -> None:
    store.add("echo.mar", ECHO)
    server = serve("echo.mar")
    inference, _, _ = urls(server.command.line)
    marker = tmp_path / "begun"
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(httpx.post(f"{inference}/predictions/m", data={"marker": str(marker)}))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(marker.exists)
    assert server.command.stop() == 0
    asking.join()
    assert replies[0].status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{inference}/ping")


def test_a_port_that_is_taken(shared: Any, store: Any) -> None:
    port = urls(shared.command.line)[1].rpartition(":")[2]
    command = [sys.executable, "-P", "-m", "satrap.cli", "serving", "--model-store", store.directory]
    for name in ("grpc-inference", "grpc-management", "rest-inference", "metrics"):
        command += [f"--{name}-port", "0"]
    command += ["--rest-management-port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
