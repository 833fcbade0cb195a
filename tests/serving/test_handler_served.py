"""EmbeddingHandler in a real worker: requests that share a batch with a bad one get their answers."""

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from satrap import rpc
from satrap.batch import Batch
from satrap.client import NO_RETRY, InferenceClient, ManagementClient
from satrap.errors import InvalidInputError, SatrapError
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.archive.package import package

pytestmark = pytest.mark.slow

CASE = "a_sum_prefix8_r1_b7"
HANDLERS = Path(__file__).parents[1] / "data" / "handlers"


class Total(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(embeddings, 1).sum(1)


@pytest.mark.parametrize("handler", [{}, {"handler": str(HANDLERS / "later.py")}], ids=["ours", "persia's"])
def test_answers_of_a_server_that_is_gone_are_marked_stale(
    persia_data: Path, tmp_path: Path, satrap: Any, handler: dict[str, str]
) -> None:
    case = persia_data / "golden" / CASE
    archive_of_totals(tmp_path, **handler)
    shard = satrap("embedding-server", "--port", "0", "--checkpoint", case / "ckpt")
    config = tmp_path / "global_config.yaml"
    config.write_text("middleware:\n  orphan_grace_seconds: 60\n")
    running = satrap(
        *("serving", "--global-config", config, "--embedding-config", case / "embedding_config.yml"),
        *("--model-store", tmp_path, "--shards", shard.addresses[0]),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    with ManagementClient(running.addresses[1]) as manager:
        manager.register("total.mar")
    request = inference_pb2.PredictionsRequest(
        model_name="total", input={"batch": (case / "batch.bin").read_bytes()}
    )
    with rpc.channel(running.addresses[0]) as channel:
        predict = inference_pb2_grpc.InferenceAPIsServiceStub(channel).Predictions

        def is_stale() -> bool:
            answer, call = predict.with_call(request)
            assert answer == first
            return ("satrap-stale", "1") in [tuple(item) for item in call.trailing_metadata()]

        first = predict(request)
        assert not is_stale()
        shard.kill()
        deadline = time.monotonic() + 10
        while not is_stale():
            assert time.monotonic() < deadline


def archive_of_totals(store: Path, **handler: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        torch.jit.save(torch.jit.script(Total()), store / "total.pt")
    package(model_name="total", version="1", serialized_file=store / "total.pt", export_path=store, **handler)


def test_a_bad_request_of_a_batch_alone_gets_its_error(
    persia_data: Path, tmp_path: Path, satrap: Any
) -> None:
    case = persia_data / "golden" / CASE
    store = tmp_path / "store"
    store.mkdir()
    archive_of_totals(store)
    running = satrap(
        *("up", "--embedding-config", case / "embedding_config.yml", "--checkpoint", case / "ckpt"),
        *("--model-store", store, "--shards", "1"),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    inference, management = running.addresses[:2]
    with ManagementClient(management) as manager:
        # The first request leaves alone; those that came meanwhile are one batch, at the latest after the delay.
        manager.register("total.mar", batch_size=4, max_batch_delay=300)
    good = (case / "batch.bin").read_bytes()
    requests = [good, good[:-40], good.replace(b"f1", b"fx"), good]

    def infer(data: bytes) -> np.ndarray | SatrapError:
        with InferenceClient(inference, retry=NO_RETRY) as client:
            try:
                return client.infer("total", data)
            except SatrapError as error:
                return error

    with ThreadPoolExecutor(len(requests)) as pool:
        first, cut, unknown, last = pool.map(infer, requests)
    arrays = np.load(case / "expected.npz")
    expected = sum(arrays[f"f{place}_emb_f16"].astype(np.float32).sum(1) for place in range(3))
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    np.testing.assert_allclose(last, expected, rtol=1e-5)
    assert isinstance(cut, InvalidInputError)
    assert "at byte" in str(cut)
    assert isinstance(unknown, InvalidInputError)
    assert "'fx'" in str(unknown)

    with InferenceClient(inference) as client:
        np.testing.assert_array_equal(client.infer("total", Batch.from_bytes(good).to_arrow()), first)
    assert with_pyarrow(running.process.pid) == []


def with_pyarrow(pid: int) -> list[list[str]]:
    """Which processes below that one have pyarrow loaded. Embedding servers read Arrow files, and are left out."""
    return [
        process.cmdline()
        for process in psutil.Process(pid).children(recursive=True)
        if "embedding-server" not in process.cmdline()
        and any("libarrow" in mapped.path for mapped in process.memory_maps())
    ]
