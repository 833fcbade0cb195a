"""EmbeddingHandler in a real worker: requests that share a batch with a bad one get their answers."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from satrap.client import NO_RETRY, InferenceClient, ManagementClient
from satrap.errors import InvalidInputError, SatrapError
from satrap.serving.archive.package import package

pytestmark = pytest.mark.slow

CASE = "a_sum_prefix8_r1_b7"


class Total(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(embeddings, 1).sum(1)


def test_a_bad_request_of_a_batch_alone_gets_its_error(
    persia_data: Path, tmp_path: Path, satrap: Any
) -> None:
    case = persia_data / "golden" / CASE
    store = tmp_path / "store"
    store.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        torch.jit.save(torch.jit.script(Total()), tmp_path / "total.pt")
    package(model_name="total", version="1", serialized_file=tmp_path / "total.pt", export_path=store)
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
