"""The gateway of examples/, run as its README says, in front of a real server."""

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

GATEWAY = Path(__file__).parents[2] / "examples" / "gateway"

RANKER = """
from satrap.batch import decode

class Ranker:
    # The score is the price, so the dearest comes first.
    def initialize(self, context):
        pass

    def handle(self, data, context):
        answers = []
        for request in data:
            batch = decode(bytes(request["batch"]))
            ((name, prices),) = batch.non_id_features()
            answers.append([float(price) for price in prices[:, 0]])
        return answers
"""

CLASSIFIER = """
import json

def handle(data, context):
    return None if data is None else [json.dumps({"bytes": len(request["data"])}) for request in data]
"""


def write_archive(folder: Path, name: str, source: str) -> None:
    model = {"modelName": name, "handler": "handler.py", "modelVersion": "1.0"}
    with zipfile.ZipFile(folder / f"{name}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("handler.py", source)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_archive(folder, "ranker", RANKER)
    write_archive(folder, "classifier", CLASSIFIER)
    return folder


@pytest.fixture(scope="module")
def gateway(satrap_module, store) -> Iterator[str]:
    """The gateway's url; it listens on a socket that the kernel chose and that it inherits."""
    models = ("--model-store", store, "--models", "ranker.mar,classifier.mar")
    ports = ("--grpc-inference-port", "0", "--grpc-management-port", "0")
    inference = satrap_module("serving", *models, *ports).addresses[0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "app:create_app", "--app-dir", str(GATEWAY)),
                *("--fd", str(listener.fileno()), "--log-level", "warning"),
            ],
            env={**os.environ, "SATRAP_INFERENCE": inference},
            pass_fds=[listener.fileno()],
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait(30)


def test_a_ranking(gateway: str) -> None:
    prices = {"desk": 120, "chair": 45, "lamp": 80}
    request = {
        "user": "ada",
        "seen": ["sofa"],
        "candidates": [{"item": item, "price": price} for item, price in prices.items()],
    }
    answer = httpx.post(f"{gateway}/rank", json=request, timeout=30)
    assert answer.status_code == 200
    assert [ranked["item"] for ranked in answer.json()] == ["desk", "lamp", "chair"]


def test_a_file(gateway: str) -> None:
    answer = httpx.post(f"{gateway}/classify", files={"data": b"12345"}, timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"bytes": 5})


def test_many_at_once(gateway: str) -> None:
    def ask(number: int) -> int:
        answer = httpx.post(f"{gateway}/classify", files={"data": b"x" * number}, timeout=30)
        return int(answer.json()["bytes"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(1, 33))) == list(range(1, 33))


def test_health(gateway: str) -> None:
    assert httpx.get(f"{gateway}/health").json() == {"model_server": "Healthy"}


def test_a_request_that_says_too_little(gateway: str) -> None:
    answer = httpx.post(f"{gateway}/rank", json={"user": "ada", "candidates": []})
    assert answer.status_code == 422
    assert "candidates" in answer.text


def test_a_model_server_that_is_away() -> None:
    code = (
        "import asyncio, httpx; from app import create_app\n"
        "app = create_app('127.0.0.1:1')\n"
        "async def ask():\n"
        "    async with app.router.lifespan_context(app):\n"
        "        transport = httpx.ASGITransport(app)\n"
        "        async with httpx.AsyncClient(transport=transport, base_url='http://gateway') as client:\n"
        "            answer = await client.get('/health')\n"
        "            print(answer.status_code, answer.headers['retry-after'])\n"
        "asyncio.run(ask())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=GATEWAY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "503 1\n", done.stderr
