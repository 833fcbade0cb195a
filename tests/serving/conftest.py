"""Archives and clients for tests of serving."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from satrap.config.global_config import ServingConfig
from satrap.protos import inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc
from satrap.serving.forks import Template
from satrap.serving.model_service import ModelService
from satrap.serving.service_builder import build_model_service
from satrap.serving.settings import ServingSettings

_POLL_SECONDS = 0.005

ARCHIVER = Path(sys.executable).parent / "torch-model-archiver"

NOOP = """
def handle(data, context):
    return None if data is None else [b"%s"] * len(data)
"""


def manifest(name: str, version: str = "1.0", handler: str = "handler.py", **model: Any) -> dict[str, Any]:
    """What the archiver writes."""
    return {
        "createdOn": "20/11/2026 11:27:36",
        "runtime": "python",
        "model": {"modelName": name, "handler": handler, "modelVersion": version, **model},
        "archiverVersion": "0.12.0",
    }


def write_archive(path: Path, document: object, files: dict[str, str | bytes]) -> Path:
    """A .mar by hand, for those that the archiver would not write."""
    with zipfile.ZipFile(path, "w") as archive:
        if document is not None:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@dataclass
class Store:
    """A model store that tests put archives into."""

    directory: Path

    def add(
        self, file: str, handler: str, *, name: str = "m", version: str = "1.0", **files: str | bytes
    ) -> str:
        """An archive with that handler source; the url is its file name.

        `config` is a config file's text, other keywords are files by name.
        """
        model = {"configFile": "config.yaml"} if "config" in files else {}
        others = {file: content for file, content in files.items() if file != "config"}
        contents: dict[str, str | bytes] = {"handler.py": textwrap.dedent(handler), **others}
        if "config" in files:
            contents["config.yaml"] = files["config"]
        write_archive(self.directory / file, manifest(name, version, **model), contents)
        return file

    def archive(
        self, file: str, handler: Path, *arguments: str, name: str = "m", version: str = "1.0"
    ) -> str:
        """The same, written by the real torch-model-archiver."""
        target = self.directory / file.removesuffix(".mar")
        command = [
            str(ARCHIVER),
            "--model-name",
            target.name,
            "--version",
            version,
            "--handler",
            str(handler),
        ]
        subprocess.run([*command, "--export-path", str(self.directory), *arguments], check=True)
        return file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty model store."""
    directory = tmp_path / "store"
    directory.mkdir()
    return Store(directory)


class Client:
    """Both of TorchServe's APIs of one server."""

    def __init__(self, inference: str, management: str) -> None:
        self._channels = [grpc.insecure_channel(inference), grpc.insecure_channel(management)]
        self.inference = inference_pb2_grpc.InferenceAPIsServiceStub(self._channels[0])
        self.management = management_pb2_grpc.ManagementAPIsServiceStub(self._channels[1])

    def predict(self, model: str, value: bytes = b"x", version: str = "", timeout: float = 30) -> bytes:
        """The prediction's bytes."""
        request = inference_pb2.PredictionsRequest(
            model_name=model, model_version=version, input={"data": value}
        )
        return self.inference.Predictions(request, timeout=timeout).prediction

    def start_predict(self, model: str, value: bytes = b"x", version: str = "") -> grpc.Future:
        """The same, in the background."""
        request = inference_pb2.PredictionsRequest(
            model_name=model, model_version=version, input={"data": value}
        )
        return self.inference.Predictions.future(request, timeout=30)

    def register(self, url: str, **fields: Any) -> str:
        """RegisterModel, synchronous and with one worker unless said otherwise."""
        given = {"synchronous": True, "initial_workers": 1, **fields}
        request = management_pb2.RegisterModelRequest(url=url, **given)
        return self.management.RegisterModel(request, timeout=60).msg

    def unregister(self, model: str, version: str = "") -> str:
        """UnregisterModel."""
        request = management_pb2.UnregisterModelRequest(model_name=model, model_version=version)
        return self.management.UnregisterModel(request, timeout=60).msg

    def set_default(self, model: str, version: str) -> str:
        """SetDefault."""
        request = management_pb2.SetDefaultRequest(model_name=model, model_version=version)
        return self.management.SetDefault(request, timeout=60).msg

    def scale(self, model: str, **fields: Any) -> str:
        """ScaleWorker."""
        request = management_pb2.ScaleWorkerRequest(model_name=model, **fields)
        return self.management.ScaleWorker(request, timeout=60).msg

    def describe(self, model: str, version: str = "all") -> list[dict[str, Any]]:
        """DescribeModel, parsed."""
        request = management_pb2.DescribeModelRequest(model_name=model, model_version=version)
        return json.loads(self.management.DescribeModel(request, timeout=60).msg)

    def list_models(self, **fields: Any) -> dict[str, Any]:
        """ListModels, parsed."""
        return json.loads(
            self.management.ListModels(management_pb2.ListModelsRequest(**fields), timeout=60).msg
        )

    def worker_pids(self, model: str) -> list[int]:
        """The processes of all versions."""
        return [worker["pid"] for version in self.describe(model) for worker in version["workers"]]

    def close(self) -> None:
        """Close both channels."""
        for channel in self._channels:
            channel.close()


@pytest.fixture
def failure() -> Callable[..., tuple[str, str]]:
    """Call something that must fail over gRPC: (status, details)."""

    def call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            function(*arguments, **keywords)
        return caught.value.code().name, caught.value.details()

    return call


@dataclass
class Server:
    """A running `satrap serving` and a client of it."""

    client: Client
    command: Any
    working_directories: Path
    store: Store
    logged_before: int = 0

    def log(self) -> str:
        """What it has logged so far; of a shared server: during this test."""
        return self.command.log.read_text()[self.logged_before :]

    def unpacked(self) -> list[Path]:
        """The directories of versions."""
        return [version for root in self.working_directories.iterdir() for version in root.iterdir()]


def start_serving(satrap: Any, store: Store, folder: Path, startup: str, sections: dict[str, Any]) -> Server:
    """`satrap serving` on the store; what it writes is in `folder`."""
    config = folder / "global_config.yaml"
    config.write_text(json.dumps(sections))
    working = folder / "tmp"
    working.mkdir(exist_ok=True)
    command = satrap(
        "serving",
        *("--model-store", store.directory, "--global-config", config),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
        *(("--models", startup) if startup else ()),
        env={**os.environ, "TMPDIR": str(working)},
    )
    return Server(Client(*command.addresses[:2]), command, working, store)


@pytest.fixture
def serve(satrap: Any, store: Store, tmp_path: Path) -> Any:
    """Start serving on the store; keywords are sections of the global configuration."""
    servers: list[Server] = []

    def start(startup: str = "", /, **sections: Any) -> Server:
        servers.append(start_serving(satrap, store, tmp_path, startup, sections))
        return servers[-1]

    yield start
    for server in servers:
        server.client.close()


@pytest.fixture(scope="module")
def shared_sections() -> dict[str, Any]:
    """The global configuration of the server that `shared` is; a module may have its own."""
    return {}


@pytest.fixture(scope="module")
def _module_server(
    satrap_module: Any, tmp_path_factory: pytest.TempPathFactory, shared_sections: dict[str, Any]
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serving")
    (folder / "store").mkdir()
    server = start_serving(satrap_module, Store(folder / "store"), folder, "", shared_sections)
    yield server
    server.client.close()


@pytest.fixture
def shared(_module_server: Server) -> Iterator[Server]:
    """A server of the module, without models and with an empty store at the beginning of each test.

    For tests that leave it running; it saves the start.
    """
    client = _module_server.client
    yield replace(_module_server, logged_before=len(_module_server.command.log.read_text()))
    for model in client.list_models(limit=1000)["models"]:
        name = model["modelName"]
        default = client.describe(name, "")[0]["modelVersion"]
        for version in client.describe(name):
            if version["modelVersion"] != default:
                client.unregister(name, version["modelVersion"])
        client.unregister(name, default)
    shutil.rmtree(_module_server.store.directory)
    _module_server.store.directory.mkdir()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Ask again and again until something is true, for a minute at most."""

    def wait(condition: Callable[[], object], seconds: float = 60) -> None:
        late = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < late, "it never came true"
            time.sleep(_POLL_SECONDS)  # what it waits for may need this processor

    return wait


@dataclass
class InProcess:
    """Model services in the test's own process, with real workers; one event loop and one template for all."""

    runner: asyncio.Runner
    template: Template

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it to its end, for 60 seconds at most."""
        return self.runner.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture(scope="module")
def in_process() -> Iterator[InProcess]:
    """The loop and the template."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        template = Template()
        runner.run(template.start())
        yield InProcess(runner, template)
        runner.run(template.close())


@pytest.fixture
def open_service(in_process: InProcess, store: Store, tmp_path: Path, monkeypatch: Any) -> Iterator[Any]:
    """Open a service on the store; keywords are of section `serving`, or `settings=` of `ServingSettings`."""
    services: list[ModelService] = []
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(working))

    def start(
        settings: dict[str, Any] | None = None, /, *, observer: Any = None, **config: Any
    ) -> ModelService:
        given = {"model_store": store.directory, **(settings or {})}
        service = build_model_service(
            ServingSettings(config=ServingConfig(**config), **given), in_process.template, observer
        )
        in_process.run(service.open())
        services.append(service)
        return service

    yield start
    for service in services:
        in_process.run(service.close())
    assert not list(working.iterdir()), "a service removes its working directory"
