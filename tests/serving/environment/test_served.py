"""Archives with a requirements file, served: what their workers import, and what the server says about it."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import typing_extensions

from satrap.errors import RequirementsError, WorkerStartError
from satrap.serving.query import Query
from satrap.serving.status import management_status
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = """
import json, sys

import anything, numpy, torch

def handle(data, context):
    if data is None:
        return
    import typing_extensions
    seen = {
        "anything": anything.answer,
        "file": anything.__file__,
        "typing_extensions": typing_extensions.__file__,
        "sum": float(torch.ones(3).sum()),
        "numpy": numpy.__version__,
        "path": sys.path,
    }
    return [json.dumps(seen)] * len(data)
"""


def add(store: Any, file: str, lines: list[str], *wheels: Path, handler: str = HANDLER) -> RegisterParameters:
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": file.removesuffix(".mar"),
            "modelVersion": "1.0",
            "handler": "handler.py",
            "requirementsFile": "requirements.txt",
        },
    }
    with zipfile.ZipFile(store.directory / file, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", handler)
        archive.writestr("requirements.txt", "\n".join(["--no-index", *lines]))
        for wheel in wheels:
            archive.write(wheel, wheel.name)
    return RegisterParameters(url=file, initial_workers=1, synchronous=True)


def test_workers_import_what_the_file_asks_for(
    in_process: Any, open_service: Any, store: Any, tmp_path: Path, make_wheel: Callable[..., Path]
):
    anything = make_wheel(tmp_path, "anything", "1.5", {"anything.py": "answer = 42\n"})
    source = Path(typing_extensions.__file__).read_text()
    other = make_wheel(tmp_path, "typing_extensions", "99.0", {"typing_extensions.py": source})
    harmful = make_wheel(
        tmp_path, "pyyaml", "99.0", {"yaml/__init__.py": "raise ImportError('no yaml today')\n"}
    )
    cache = tmp_path / "cache"
    service = open_service(environments_directory=str(cache))
    in_process.run(service.register(add(store, "forked.mar", [f"./{anything.name}", "numpy"], anything)))
    in_process.run(
        service.register(add(store, "fresh.mar", [f"./{anything.name}", f"./{other.name}"], anything, other))
    )

    def seen_by(model: str) -> dict[str, Any]:
        return json.loads(in_process.run(service.predict(Query(model, "", {"data": b"x"}))).value)

    forked, fresh = seen_by("forked"), seen_by("fresh")
    for seen in (forked, fresh):
        assert (seen["anything"], seen["sum"]) == (42, 3.0)
        assert seen["file"].startswith(str(cache))
        assert seen["path"].index(str(Path(seen["file"]).parent)) < seen["path"].index(
            str(Path(typing_extensions.__file__).parent)
        )
    assert forked["typing_extensions"] == typing_extensions.__file__
    assert fresh["typing_extensions"].startswith(str(cache))

    (described,) = in_process.run(service.catalog.describe("forked"))
    assert described["useVenv"] is True
    assert described["workers"][0]["environment"]["process"] == "forked"
    (described,) = in_process.run(service.catalog.describe("fresh"))
    (worker,) = described["workers"]
    assert worker["environment"]["process"] == "fresh"
    (replaced,) = worker["environment"]["replaced"]
    assert replaced.startswith("typing-extensions 99.0 (the server's: ")
    assert Path(psutil.Process(worker["pid"]).cmdline()[0]).is_relative_to(worker["environment"]["path"])

    with pytest.raises(RequirementsError) as refused:
        in_process.run(service.register(add(store, "broken.mar", ["no-such-package-at-all"])))
    status, details = management_status(refused.value)
    assert status.name == "INVALID_ARGUMENT"
    assert "Custom pip package installation failed for model broken" in details
    assert "No matching distribution found for no-such-package-at-all" in details
    assert details.endswith("\norg.pytorch.serve.archive.model.ModelException")
    with pytest.raises(
        WorkerStartError,
        match="satrap does not run with the packages of its requirements file: ImportError: no yaml today",
    ):
        in_process.run(service.register(add(store, "harmful.mar", [f"./{harmful.name}"], harmful)))
    assert [model["modelName"] for model in service.catalog.list_models()["models"]] == ["forked", "fresh"]

    in_process.run(service.unregister("fresh"))
    assert seen_by("forked")["anything"] == 42


def test_nothing_is_installed_where_the_configuration_says_so(
    in_process: Any, open_service: Any, store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plain = "def handle(data, context):\n    return data and [b'plain'] * len(data)\n"
    cache = tmp_path / "cache"
    service = open_service(environments_directory=str(cache), install_requirements=False)
    in_process.run(service.register(add(store, "plain.mar", ["no-such-package-at-all"], handler=plain)))
    assert in_process.run(service.predict(Query("plain", "", {"data": b"x"}))).value == b"plain"
    assert "requirements.txt is not installed" in caplog.text
    (described,) = in_process.run(service.catalog.describe("plain"))
    assert described["useVenv"] is False
    assert "environment" not in described["workers"][0]
    assert not cache.exists()
