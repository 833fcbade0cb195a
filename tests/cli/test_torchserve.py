"""TorchServe's own command line: what it takes, and a server that comes and goes by it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from satrap.cli.app import app
from satrap.pid_file import PidFile

FREE_PORTS = """
inference_address=http://127.0.0.1:0
management_address=http://127.0.0.1:0
metrics_address=http://127.0.0.1:0
grpc_inference_port=0
grpc_management_port=0
"""

HANDLER = """
import os

def handle(data, context):
    if data is not None:
        return [b"one"] * len(data)
    if os.path.exists("{loading}"):
        open("{loading}").close()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An own working directory, model store and temporary directory."""
    for name in ("store", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    for variable in (
        "TS_CONFIG_FILE",
        "LOG_LOCATION",
        "PERSIA_GLOBAL_CONFIG",
        "PERSIA_EMBEDDING_CONFIG",
        "SATRAP_SHARDS",
    ):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def command(*words: str, timeout: float = 90, stderr=subprocess.STDOUT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "satrap.cli", "torchserve", *words],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=timeout,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def accepts(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(address)) == 0


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["torchserve", *words])
    return result.output + (str(result.exception) if result.exception else "")


def test_its_version(folder):
    assert said("-v").startswith("TorchServe Version is 0.12.0\nsatrap ")
    assert said("--version") == said("-v")


def test_nothing_to_stop(folder):
    (folder / "tmp" / ".model_server.pid").write_text("999999999\n1\n")
    assert said("--stop") == "TorchServe is not currently running.\n"
    assert not (folder / "tmp" / ".model_server.pid").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--start"], "Missing mandatory parameter --model-store"),
        ([], "Missing mandatory parameter --model-store"),
        (["--start", "--model-store", "absent"], "--model-store directory not found: absent"),
        (
            ["--start", "--model-store", "store", "--ts-config", "absent"],
            "absent: there is no such configuration file",
        ),
        (["--start", "--stop"], "not allowed with argument"),
        (["--start", "--model-store", "store", "--models"], "expected at least one argument"),
        (["--start", "--model-store", "store", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_what_cannot_be_started_is_said_at_once(folder, words, sentence):
    assert sentence in said(*words)
    assert not (folder / "tmp" / ".model_server.pid").exists()


def test_a_bad_value_in_the_file_is_said_by_the_command_that_was_called(folder):
    (folder / "config.properties").write_text("job_queue_size=many\nmodel_store=store\n")
    assert "config.properties:1: job_queue_size: 'many' is no whole number" in said("--start")


def test_an_address_beyond_this_machine_needs_one_line(folder):
    (folder / "f").write_text("inference_address=http://0.0.0.0:0\ndisable_token_authorization=true\n")
    output = said("--start", "--model-store", "store", "--ts-config", "f")
    assert "refusing to serve the REST inference API" in output
    assert "write satrap_insecure=true into f" in output


def test_a_second_server_is_refused(folder, monkeypatch):
    PidFile(folder / "tmp" / ".model_server.pid").claim()
    other = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: other)
    output = said("--start", "--model-store", "store")
    assert "TorchServe is already running" in output
    assert "please use torchserve --stop to stop TorchServe" in output


def test_a_real_torchserve_is_left_alone(folder):
    with subprocess.Popen(
        ["bash", "-c", "read -r _", "org.pytorch.serve.ModelServer"], stdin=subprocess.PIPE
    ) as java:
        pid_file = folder / "tmp" / ".model_server.pid"
        pid_file.write_text(str(java.pid))
        assert "is a real TorchServe" in said("--stop")
        assert "already running" in said("--start", "--model-store", "store")
        assert java.poll() is None
        assert pid_file.exists()
        java.stdin.close()


@pytest.mark.slow
def test_a_server_goes_on_in_the_background_until_it_is_stopped(folder, table_directory):
    metrics = table_directory / "metrics"  # its path is short enough for a socket
    os.mkfifo(loading := folder / "loading")
    with zipfile.ZipFile(folder / "store" / "noop.mar", "w") as archive:
        document = {
            "runtime": "python",
            "model": {"modelName": "noop", "handler": "h.py", "modelVersion": "1.0"},
        }
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
        archive.writestr("h.py", HANDLER.format(loading=str(loading)))
    (folder / "config.properties").write_text(
        f"{FREE_PORTS}default_workers_per_model=1\nvmargs=-Xmx1g\nfoo=1\nmetrics_address=unix:{metrics}\n"
    )
    words = ("--start", "--model-store", "store", "--models", "other=noop.mar", "absent.mar")
    try:
        with (folder / "log").open("w") as log, ThreadPoolExecutor(1) as pool:
            starting = pool.submit(command, *words, stderr=log)
            try:
                wait_until(lambda: accepts(metrics))  # though the model cannot be ready
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(metrics))) as client:
                    assert "Requests2XX" in client.get("http://localhost/metrics").text
            finally:
                loaded = os.open(loading, os.O_RDWR)
                started = starting.result()
                os.close(loaded)
                loading.unlink()
        assert started.returncode == 0, (folder / "log").read_text()
        ready, last = started.stdout.splitlines()
        assert last == "Model server started."
        assert ready.endswith(": 1 model")
        inference = f"http://{ready.split(', ')[2].split()[0]}"
        with urllib.request.urlopen(f"{inference}/ping", timeout=30) as answer:
            assert answer.status == 200, "on loopback no call needs a key"
        key = json.loads((folder / "key_file.json").read_text())["inference"]["key"]
        request = urllib.request.Request(
            f"{inference}/predictions/other", b"x", {"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.read() == b"one"
        refused = command("--start", "--model-store", "store")
        assert refused.returncode == 1
        assert "already running" in refused.stdout
        text = (folder / "log").read_text()
        assert "keys that change nothing here: vmargs" in text
        assert "unknown keys, ignored: foo" in text
        assert "absent.mar" in text, "a model that cannot be loaded is logged, and the others are served"
    finally:
        stopped = command("--stop")
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
    assert not (folder / "key_file.json").exists()
    assert not metrics.exists()
    assert not (folder / "tmp" / ".model_server.pid").exists()
    with (folder / "log").open("w") as log:
        again = command("--start", "--model-store", "store", stderr=log)
    try:
        assert again.stdout.splitlines()[0].endswith(": 1 model"), "what its last snapshot says"
        assert "-shutdown.cfg: unknown keys, ignored: foo" in (folder / "log").read_text()
    finally:
        assert command("--stop").returncode == 0


@pytest.mark.slow
def test_a_start_that_fails_later_fails_the_command(folder):
    """The port is taken: only the server itself finds out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (folder / "config.properties").write_text(f"{FREE_PORTS}grpc_inference_port={port}\n")
        result = command("--start", "--ncs", "--model-store", "store")
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stdout
    assert not (folder / "key_file.json").exists()
    assert not (folder / "tmp" / ".model_server.pid").exists()
