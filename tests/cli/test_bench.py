"""`satrap bench` against a real server, over gRPC and REST."""

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from satrap.cli.app import app
from satrap.errors import InvalidInputError, UnavailableError

pytestmark = pytest.mark.slow

HANDLER = """
def handle(data, context):
    return None if data is None else [bytes(next(iter(request.values())))[::-1] for request in data]
"""


def bench(*arguments: str | Path) -> Result:
    quick = ("--seconds", "0.4", "--warmup", "0.1", "--clients", "2")
    return CliRunner().invoke(app, ["bench", *map(str, arguments), *quick], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def served(satrap_module, tmp_path_factory) -> tuple[str, str]:
    """The urls of gRPC and REST."""
    store = tmp_path_factory.mktemp("store")
    model = {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"}
    with zipfile.ZipFile(store / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("handler.py", HANDLER)
    flags = ("--grpc-inference-port", "0", "--grpc-management-port", "0")
    addresses = satrap_module("serving", "--model-store", store, "--models", "m.mar", *flags).addresses
    return f"grpc://{addresses[0]}", f"http://{addresses[2]}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.bin"
    file.write_bytes(b"x" * 1000)
    return file


@pytest.mark.parametrize("protocol", [0, 1], ids=["grpc", "rest"])
def test_figures(served: tuple[str, str], data: Path, protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = bench(served[protocol], "--model", "m", "--data", data, "--json", file)
    assert result.exit_code == 0, result.output
    assert "requests/s" in result.output and "p99.9" in result.output and "#" in result.output
    figures = json.loads(file.read_text())
    assert figures["requests"] > 0 and figures["errors"] == {}
    assert figures["clients"] == 2 and figures["percentiles"]["p50"] > 0
    assert sum(bar["count"] for bar in figures["histogram"]) == figures["requests"]


def test_an_open_loop(served: tuple[str, str], data: Path) -> None:
    result = bench(served[0], "--model", "m", "--data", data, "--rate", "100", "--json", "-")
    figures = json.loads(result.stdout)
    assert 10 <= figures["requests"] <= 100


@pytest.mark.parametrize("protocol", [0, 1], ids=["grpc", "rest"])
def test_a_model_that_is_not_there(served: tuple[str, str], data: Path, protocol: int) -> None:
    result = bench(served[protocol], "--model", "none", "--data", data)
    assert isinstance(result.exception, UnavailableError)
    assert "Model not found: none" in str(result.exception)


def test_a_server_that_is_not_there(data: Path) -> None:
    result = bench("http://127.0.0.1:1", "--model", "m", "--data", data)
    assert isinstance(result.exception, UnavailableError)
    assert "no request was answered: ConnectError" in str(result.exception)


def test_figures_that_cannot_be_kept_are_not_measured(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "none" / "figures.json"
    result = bench("http://127.0.0.1:1", "--model", "m", "--data", data, "--json", file)
    assert isinstance(result.exception, InvalidInputError)
    assert str(result.exception) == f"--json {file}: No such file or directory"
