"""Archives with a requirements file, served: what their workers import, and what the server says about it."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import typing_extensions

pytestmark = pytest.mark.slow

HANDLER = """
import json, os, sys

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


def add(store: Any, file: str, lines: list[str], *wheels: Path, handler: str = HANDLER) -> str:
    from_store = store.directory / file
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": file.removesuffix(".mar"),
            "modelVersion": "1.0",
            "handler": "handler.py",
            "requirementsFile": "requirements.txt",
        },
    }

    with zipfile.ZipFile(from_store, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", handler)
        archive.writestr("requirements.txt", "\n".join(["--no-index", *lines]))
        for wheel in wheels:
            archive.write(wheel, wheel.name)
    return file


def test_workers_import_what_the_file_asks_for(
    serve: Any,
    store: Any,
    tmp_path: Path,
    make_wheel: Callable[..., Path],
    failure: Callable[..., tuple[str, str]],
):

    anything = make_wheel(tmp_path, "anything", "1.5", {"anything.py": "answer = 42\n"})
    source = Path(typing_extensions.__file__).read_text()
    other = make_wheel(tmp_path, "typing_extensions", "99.0", {"typing_extensions.py": source})
    add(store, "forked.mar", [f"./{anything.name}", "numpy"], anything)
    add(store, "fresh.mar", [f"./{anything.name}", f"./{other.name}"], anything, other)
    add(store, "broken.mar", ["no-such-package-at-all"])
    harmful = make_wheel(
        tmp_path, "pyyaml", "99.0", {"yaml/__init__.py": "raise ImportError('no yaml today')\n"}
    )
    add(store, "harmful.mar", [f"./{harmful.name}"], harmful)
    server = serve(serving={"environments_directory": str(tmp_path / "cache")})

    assert "1 initial workers" in server.client.register("forked.mar")
    assert "1 initial workers" in server.client.register("fresh.mar")
    forked, fresh = (json.loads(server.client.predict(name)) for name in ("forked", "fresh"))
    for seen in (forked, fresh):
        assert (seen["anything"], seen["sum"]) == (42, 3.0)
        assert seen["file"].startswith(str(tmp_path / "cache"))
        assert seen["path"].index(str(Path(seen["file"]).parent)) < seen["path"].index(
            str(Path(typing_extensions.__file__).parent)
        )
    assert forked["typing_extensions"] == typing_extensions.__file__
    assert fresh["typing_extensions"].startswith(str(tmp_path / "cache"))

    (described,) = server.client.describe("forked")
    assert described["useVenv"] is True
    assert described["workers"][0]["environment"]["process"] == "forked"
    (described,) = server.client.describe("fresh")
    (worker,) = described["workers"]
    version = worker["environment"]["replaced"]
    assert version and version[0].startswith("typing-extensions 99.0 (the server's: ")
    assert worker["environment"]["process"] == "fresh"
    assert Path(psutil.Process(worker["pid"]).cmdline()[0]).is_relative_to(worker["environment"]["path"])

    status, details = failure(server.client.register, "broken.mar")
    assert status == "INVALID_ARGUMENT"
    assert "Custom pip package installation failed for model broken" in details
    assert "No matching distribution found for no-such-package-at-all" in details
    assert details.endswith("\norg.pytorch.serve.archive.model.ModelException")
    status, details = failure(server.client.register, "harmful.mar")
    assert status == "INTERNAL"
    assert (
        "satrap does not run with the packages of its requirements file: ImportError: no yaml today"
        in details
    )
    assert len(server.unpacked()) == 2, "nothing of the refused archives stays"
    assert [m["modelName"] for m in server.client.list_models()["models"]] == ["forked", "fresh"]

    server.client.scale("fresh", min_worker=0, max_worker=0, synchronous=True)
    server.client.unregister("fresh")
    assert server.client.predict("forked")


def test_nothing_is_installed_where_the_configuration_says_so(
    serve: Any, store: Any, tmp_path: Path, failure: Callable[..., tuple[str, str]]
):
    plain = "def handle(data, context):\n    return data and [b'plain'] * len(data)\n"
    add(store, "plain.mar", ["no-such-package-at-all"], handler=plain)
    cache = tmp_path / "cache"
    server = serve(serving={"environments_directory": str(cache), "install_requirements": False})
    server.client.register("plain.mar")
    assert server.client.predict("plain") == b"plain"
    assert "requirements.txt is not installed" in server.log()
    (described,) = server.client.describe("plain")
    assert described["useVenv"] is False
    assert "environment" not in described["workers"][0]
    assert not cache.exists()
