"""PERSIA's oldest tutorial from end to end: its handler in a real worker, its client under `satrap exec`.

The tutorial's steps are archive (by the real archiver), serve, infer, and register a new version of the dense
model; the rows behind it are a golden checkpoint, so the answers are PERSIA's.
"""

import json
import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import satrap.protos

pytestmark = pytest.mark.slow

CASE = "b_groups_prefix12_r2_b7"
HANDLERS = Path(__file__).parents[1] / "data" / "handlers"


class Tower(torch.nn.Module):
    """PERSIA's models of that age take one dense tensor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, dense: torch.Tensor, embeddings: list[torch.Tensor]) -> torch.Tensor:
        total = dense.sum(1)
        for embedding in embeddings:
            total = total + embedding.flatten(1).float().sum(1)
        return self.factor * total


def archive(store: Path, folder: Path, factor: float, version: str, file_name: str) -> None:
    model_path = folder / f"deepctr_v{version}.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated, not gone
        torch.jit.script(Tower(factor)).save(model_path)
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    command = [archiver, "--model-name", "deepctr", "--version", version, "--serialized-file", model_path]
    command += ["--handler", HANDLERS / "older.py", "--export-path", folder, "-f"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TMPDIR": str(folder)})
    (folder / "deepctr.mar").rename(store / file_name)


CLIENT = """
import json, sys
import grpc
import numpy as np
import inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc
from persia.prelude import PersiaEmbeddingClientPyClass, PyPersiaBatchData

inference_address, management_address, samples_path = sys.argv[1:]
samples = json.load(open(samples_path))
client = PersiaEmbeddingClientPyClass(0, [])
data = PyPersiaBatchData()
data.add_dense([np.array(samples["dense"], np.float32)])
data.add_sparse([(name, [np.array(ids, np.uint64) for ids in lists]) for name, lists in samples["ids"]])
payload = client.batch_to_bytes(data)

inference = inference_pb2_grpc.InferenceAPIsServiceStub(grpc.insecure_channel(inference_address))
management = management_pb2_grpc.ManagementAPIsServiceStub(grpc.insecure_channel(management_address))

def infer():
    request = inference_pb2.PredictionsRequest(model_name="deepctr", input={"batch": payload})
    lines = inference.Predictions(request).prediction.decode("utf-8").splitlines()
    print(json.dumps([float(line.strip().replace(",", "")) for line in lines[1:-1]]))

infer()
params = {
    "url": "/workspace/model/deepctr_new.mar",
    "initial_workers": 1,
    "synchronous": True,
    "model_name": "deepctr",
}
management.RegisterModel(management_pb2.RegisterModelRequest(**params))
infer()
management.SetDefault(management_pb2.SetDefaultRequest(model_name="deepctr", model_version="20"))
infer()
"""


def test_tutorial(persia_data: Path, tmp_path: Path, satrap: Any) -> None:
    case = persia_data / "golden" / CASE
    store = tmp_path / "store"
    store.mkdir()
    archive(store, tmp_path, 1.0, "1.0", "deepctr.mar")
    archive(store, tmp_path, 2.0, "20", "deepctr_new.mar")
    running = satrap(
        *("up", "--embedding-config", case / "embedding_config.yml", "--checkpoint", case / "ckpt"),
        *("--model-store", store, "--models", "deepctr.mar", "--shards", "2"),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    dense, totals = write_samples(case, tmp_path / "samples.json")
    result = run_client(tmp_path, *running.addresses[:2])
    assert result.returncode == 0, result.stderr + running.log.read_text()
    first, registered, switched = map(json.loads, result.stdout.splitlines())
    # A new version becomes the default by SetDefault, not by being registered.
    np.testing.assert_allclose(first, dense + totals, rtol=1e-5)
    np.testing.assert_allclose(registered, first, rtol=1e-6)
    np.testing.assert_allclose(switched, 2 * (dense + totals), rtol=1e-5)
    # The handler asks for device 0, as the tutorial does.
    assert running.log.read_text().count("device 0 means the CPU") <= 2


def write_samples(case: Path, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write the case's samples for the client; return the sums of dense features and of PERSIA's embeddings."""
    described = json.loads((case / "expected.json").read_text())
    arrays = np.load(case / "expected.npz")
    size = described["batch_size"]
    dense = np.random.default_rng(7).random((size, 4), np.float32)
    totals = np.zeros(size, np.float32)
    ids = []
    for place, feature in enumerate(described["features"]):
        offsets = arrays[f"f{place}_offsets"]
        samples = np.split(arrays[f"f{place}_ids"], offsets[1:-1])
        ids.append((feature["feature"], [sample.tolist() for sample in samples]))
        rows = arrays[f"f{place}_emb_f16"].astype(np.float32)
        if feature["kind"] == "raw":
            index = arrays[f"f{place}_index"].reshape(size, -1)
            totals += rows[index].sum((1, 2)) + (index != 0).sum(1)
        else:
            totals += rows.sum(1)
    path.write_text(json.dumps({"dense": dense.tolist(), "ids": ids}))
    return dense.sum(1), totals


def run_client(folder: Path, inference: str, management: str) -> subprocess.CompletedProcess[str]:
    protos = Path(satrap.protos.__file__).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{protos}", f"-I{sysconfig.get_paths()['purelib']}"),
        *(f"--python_out={folder}", f"--grpc_python_out={folder}"),
        *(str(protos / "inference.proto"), str(protos / "management.proto")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "client.py").write_text(CLIENT)
    return subprocess.run(
        [sys.executable, "-m", "satrap.cli", "exec", "client.py", inference, management, "samples.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
