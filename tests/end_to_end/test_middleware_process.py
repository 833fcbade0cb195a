"""`satrap middleware` as PERSIA's embedding worker: its own process, found by address, replaceable."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from satrap.client import InferenceClient

pytestmark = pytest.mark.slow

CASE = "b_groups_prefix12_r2_b7"

CLIENT = """
import sys
import numpy as np
from persia.ctx import InferCtx
from persia.service import get_embedding_worker_services

batch = open(sys.argv[1], "rb").read()
with InferCtx(get_embedding_worker_services(), device_id=0) as context:
    context.wait_for_serving()
    dense, embeddings, labels = context.prepare_features(context.get_embedding_from_bytes(batch, 0))
    np.save(sys.argv[2], np.concatenate([tensor.flatten(1).numpy() for tensor in embeddings], axis=1))
    print([tensor.dtype for tensor in embeddings][0], [list(tensor.shape) for tensor in embeddings])
"""


@pytest.fixture
def case(persia_data: Path) -> Path:
    return persia_data / "golden" / CASE


@pytest.fixture
def global_config(satrap, case, tmp_path) -> Path:
    """Two embedding servers, listed in PERSIA's own section."""
    addresses = [
        satrap(
            "embedding-parameter-server",
            *("--port", "0", "--replica-index", str(index), "--replica-size", "2"),
            *("--checkpoint", case / "ckpt"),
        ).addresses[0]
        for index in range(2)
    ]
    path = tmp_path / "global_config.yml"
    path.write_text(
        f"common_config:\n  job_type: Infer\n  infer_config:\n    servers: {addresses}\n"
        f"    embedding_checkpoint: {case / 'ckpt'}\n"
    )
    return path


def start_middleware(satrap, case: Path, global_config: Path, *more: str):
    flags = ("--global-config", global_config, "--embedding-config", case / "embedding_config.yml")
    return satrap("embedding-worker", *flags, "--port", "0", *more)


def run_client(tmp_path: Path, case: Path, services: str) -> np.ndarray:
    (tmp_path / "client.py").write_text(CLIENT)
    subprocess.run(
        [sys.executable, "-m", "satrap.cli", "exec", "client.py", case / "batch.bin", "out.npy"],
        cwd=tmp_path,
        env={**os.environ, "EMBEDDING_WORKER_SERVICE": services},
        check=True,
        timeout=90,
    )
    return np.load(tmp_path / "out.npy")


def test_a_persia_client_gets_persias_tensors_and_a_dead_middleware_is_skipped(
    satrap, case, global_config, persia_tensors, tmp_path
):
    first = start_middleware(satrap, case, global_config)
    second = start_middleware(satrap, case, global_config)
    assert first.line.endswith(": 2 shards")
    services = f"{first.addresses[0]},{second.addresses[0]}"
    np.testing.assert_array_equal(run_client(tmp_path, case, services), persia_tensors(case))
    first.kill()
    np.testing.assert_array_equal(run_client(tmp_path, case, services), persia_tensors(case))
    assert second.stop() == 0


def test_a_worker_uses_the_middleware_that_it_is_told(
    satrap, case, global_config, archiver, persia_handler, total, persia_tensors, tmp_path
):
    middleware = start_middleware(satrap, case, global_config)
    store = tmp_path / "store"
    archiver(store, "deepctr", version="1.0", serialized=total, handler=persia_handler)
    serving = satrap(
        *("serving", "--model-store", store, "--models", "deepctr.mar"),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
        env={**os.environ, "EMBEDDING_WORKER_SERVICE": middleware.addresses[0]},
    )
    with InferenceClient(serving.addresses[0]) as client:
        answer = client.infer("deepctr", (case / "batch.bin").read_bytes())
    np.testing.assert_allclose(answer, persia_tensors(case).astype(np.float32).sum(1), rtol=1e-5)
