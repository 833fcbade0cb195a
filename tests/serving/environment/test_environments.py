"""Where environments are kept."""

import asyncio
import json
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import RequirementsError
from satrap.serving.environment.environments import default_cache
from satrap.serving.version_spec import RegisterParameters


def test_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "satrap/environments"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache/satrap/environments"


@pytest.fixture
def with_requirements(store: Any) -> Callable[[str], RegisterParameters]:
    """An archive with that requirements file, to be registered."""

    def add(text: str) -> RegisterParameters:
        files = {"handler.py": "def handle(data, context):\n    return data\n", "requirements.txt": text}
        document = {
            "runtime": "python",
            "model": {
                "modelName": "m",
                "modelVersion": "1",
                "handler": "handler.py",
                "requirementsFile": "requirements.txt",
            },
        }
        with zipfile.ZipFile(store.directory / "m.mar", "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
            for name, content in files.items():
                archive.writestr(name, content)
        return RegisterParameters(url="m.mar")

    return add


@pytest.mark.slow
def test_a_user_without_a_home_is_told_what_to_do(
    in_process: Any, open_service: Any, with_requirements: Any, monkeypatch: pytest.MonkeyPatch
):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    service = open_service()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(RequirementsError, match=r"Could not determine.*serving\.environments_directory"):
        in_process.run(service.register(with_requirements("")))
    assert service.catalog.list_models()["models"] == []


@pytest.mark.slow
def test_the_installer_ends_with_the_server(
    in_process: Any, open_service: Any, with_requirements: Any, tmp_path: Path, wait_until: Any
):
    """pip waits for an index that never answers; the server goes, and pip with it."""
    cache = tmp_path / "cache"
    service = open_service(environments_directory=str(cache))
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(30)
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        parameters = with_requirements(f"--index-url {url}\nsomething\n")

        async def register_and_close() -> socket.socket:
            registration = asyncio.ensure_future(service.register(parameters))
            connection, _ = await asyncio.to_thread(index.accept)
            await service.close()
            with pytest.raises(asyncio.CancelledError):
                await registration
            return connection

        with in_process.run(register_and_close()) as pip:
            pip.settimeout(30)
            while pip.recv(4096):
                pass
    wait_until(lambda: not [path for path in cache.iterdir() if path.is_dir()])
