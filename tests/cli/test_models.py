"""`satrap models` against a real server, as an operator uses it."""

import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from satrap.cli.app import app
from satrap.cli.models import _management as management
from satrap.client import InferenceClient
from satrap.errors import (
    ConflictError,
    InvalidInputError,
    InvalidTokenError,
    NotFoundError,
    RemoteError,
    UnavailableError,
)

pytestmark = pytest.mark.slow

HANDLER = """
def handle(data, context):
    return None if data is None else ["%s"] * len(data)
"""


def write_archive(folder: Path, version: str) -> str:
    manifest = {
        "runtime": "python",
        "model": {"modelName": "m", "handler": "handler.py", "modelVersion": version},
    }
    name = f"m_{version}.mar"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", HANDLER % version)
    return name


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def served(satrap_module, tmp_path_factory) -> tuple[Path, str, str]:
    """A model store, and the addresses of inference and management."""
    store = tmp_path_factory.mktemp("store")
    flags = ("--grpc-inference-port", "0", "--grpc-management-port", "0", "--ncs")
    inference, management, *_ = satrap_module("serving", "--model-store", store, *flags).addresses
    return store, inference, management


def test_a_model_from_its_first_version_to_its_end(served: tuple[Path, str, str]) -> None:
    store, inference, management = served
    at = ("--address", management)
    assert "no models are registered" in run("list", *at).output
    assert "registered with 1 initial workers" in run("register", write_archive(store, "1"), *at).output
    assert run("list", *at).output == "m\tm_1.mar\n"
    assert json.loads(run("list", "--json", *at).output) == [{"name": "m", "url": "m_1.mar"}]
    assert "Workers scaled to 2" in run("scale", "m", "2", *at).output
    table = run("describe", "m", *at).output
    assert "1 (default)" in table and "2 of 2 ready" in table
    assert json.loads(run("describe", "m", "--json", *at).output)[0]["minWorkers"] == 2

    answers: set[bytes] = set()
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        with InferenceClient(inference) as client:
            while not stop.is_set():
                try:
                    answers.add(client.predict("m", {"data": b"x"}))
                except Exception as error:
                    failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for version in ("2", "3", "4"):
            result = run("deploy", write_archive(store, version), "--keep", "1", *at)
            assert result.exit_code == 0, result.output
        assert "m 4 is the default, removed 2" in result.output
    finally:
        stop.set()
        asking.join()
    assert not failures
    assert answers and answers <= {b"1", b"2", b"3", b"4"}
    with InferenceClient(inference) as client:
        assert client.predict("m", {"data": b"x"}) == b"4"
    versions = [each["modelVersion"] for each in json.loads(run("describe", "m", "--json", *at).output)]
    assert sorted(versions) == ["3", "4"]

    assert 'updated for model "m" to "3"' in run("set-default", "m", "3", *at).output
    assert isinstance(run("deploy", "m_4.mar", *at).exception, ConflictError)
    run("unregister", "m", "--version", "4", *at)
    run("unregister", "m", *at)
    assert isinstance(run("describe", "m", *at).exception, NotFoundError)


def test_a_server_that_is_not_there(unused_port: int) -> None:
    result = run("list", "--address", f"127.0.0.1:{unused_port}", "--timeout", "1")
    assert isinstance(result.exception, UnavailableError)
    assert "is a server running at" in str(result.exception)


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_an_address_of_rest() -> None:
    result = run("list", "--address", "http://127.0.0.1:8081")
    assert isinstance(result.exception, InvalidInputError)
    assert "host and port of the gRPC management API, like 127.0.0.1:7071" in str(result.exception)


def test_a_server_that_asks_for_a_token() -> None:
    refusal = str(InvalidTokenError())
    with (
        pytest.raises(RemoteError, match=r"name the management key of its key_file\.json by --token"),
        management("127.0.0.1:1", None, None, 1.0),
    ):
        raise RemoteError(grpc.StatusCode.PERMISSION_DENIED, refusal)
    with (
        pytest.raises(RemoteError, match=r"DATA_LOSS: .*correctly$"),
        management("127.0.0.1:1", None, None, 1.0),
    ):
        raise RemoteError(grpc.StatusCode.DATA_LOSS, refusal)
