"""Predictions say how old what they were made from is, whoever wrote the handler."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from satrap import rpc
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.archive.package import package

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASE = "b_groups_prefix12_r2_b7"
HOUR_MS = 3_600_000

# The model's batch is looked up on a thread that the handler started: what it says is heard by nobody.
THREADED = """
import os
from concurrent.futures import ThreadPoolExecutor
from satrap.middleware import open_lookup

class Handler:
    def initialize(self, context):
        self.lookup = open_lookup(["satrap:local"], os.environ)
        self.pool = ThreadPoolExecutor(1)

    def handle(self, data, context):
        return [str(len(self.pool.submit(self.lookup.lookup, bytes(each["batch"])).result())) for each in data]
"""


class Total(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([embedding.flatten(1).float() for embedding in embeddings], 1).sum(1)


@pytest.fixture
def archives(store: Any, tmp_path: Path) -> str:
    """The handler that needs no code, PERSIA's of both ages, and one that looks up on a thread of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        torch.jit.save(torch.jit.script(Total()), tmp_path / "total.pth")
    handlers = {
        "ours": None,
        "later": ROOT / "tests" / "data" / "handlers" / "later.py",
        "older": ROOT / "tests" / "data" / "handlers" / "older.py",
    }
    for name, source in handlers.items():
        given: dict[str, Any] = {}
        if source is not None:
            given["handler"] = str(shutil.copy(source, tmp_path / f"{name}.py"))
        package(
            model_name=name,
            version="1",
            serialized_file=tmp_path / "total.pth",
            export_path=store.directory,
            **given,
        )
    store.add("threaded.mar", THREADED, name="threaded")
    return "all"


def test_every_handlers_answers_say_how_old_their_rows_are(
    persia_data: Path, store: Any, archives: str, fake_shards: Any, satrap: Any
) -> None:
    case = persia_data / "golden" / CASE
    shards = fake_shards(2)
    running = satrap(
        *("serving", "--embedding-config", case / "embedding_config.yml", "--models", archives),
        *("--model-store", store.directory, "--shards", ",".join(shard.address for shard in shards)),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    batch = (case / "batch.bin").read_bytes()
    with rpc.channel(running.addresses[0]) as channel:
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)

        def marks(model: str) -> dict[str, str]:
            request = inference_pb2.PredictionsRequest(model_name=model, input={"batch": batch})
            _, call = stub.Predictions.with_call(request, timeout=30)
            return {key: value for key, value in call.trailing_metadata() if key.startswith("satrap-")}

        for model in ("ours", "later", "older", "threaded"):
            shards[0].age_ms = shards[1].age_ms = None
            assert marks(model) == {}
            shards[0].age_ms, shards[1].age_ms = 2 * HOUR_MS, HOUR_MS
            said = marks(model)
            if model == "threaded":
                assert said == {}
                continue
            assert list(said) == ["satrap-staleness-ms"]
            assert 2 * HOUR_MS <= int(said["satrap-staleness-ms"]) < 3 * HOUR_MS
