"""A PERSIA client script with stubs of its own, under `satrap exec`, beside satrap.client in the same process."""

import json
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import satrap.protos
from satrap.batch import Batch
from satrap.protos import inference_pb2, inference_pb2_grpc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `inference_pb2` and `inference_pb2_grpc` as a TorchServe user generates them."""
    folder = tmp_path_factory.mktemp("stubs")
    protos = Path(satrap.protos.__file__).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{protos}", f"-I{sysconfig.get_paths()['purelib']}"),
        *(f"--python_out={folder}", f"--grpc_python_out={folder}"),
        *(str(protos / "inference.proto"), str(protos / "management.proto")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class _Lengths(inference_pb2_grpc.InferenceAPIsServiceServicer):
    """Answers, for each sample of a batch, how many ids it has; keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def Predictions(self, request: Any, context: grpc.ServicerContext) -> Any:
        batch = Batch.from_bytes(request.input["batch"])
        self.batches.append(batch)
        lengths = sum(np.diff(feature.offsets.astype(float)) for feature in batch.id_features)
        return inference_pb2.PredictionResponse(prediction=json.dumps(lengths.tolist(), indent=2).encode())


@pytest.fixture
def served() -> Iterator[tuple[str, _Lengths]]:
    servicer = _Lengths()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    inference_pb2_grpc.add_InferenceAPIsServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address, servicer
    server.stop(0).wait()


def run(folder: Path, script: str, *arguments: str) -> str:
    (folder / "client.py").write_text(textwrap.dedent(script))
    result = subprocess.run(
        [sys.executable, "-m", "satrap.cli", "exec", "client.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_persia_client(stubs: Path, served: tuple[str, _Lengths], tmp_path: Path) -> None:
    address, servicer = served
    out = run(
        tmp_path,
        """
        import sys
        sys.path.append(sys.argv[2])
        import grpc
        import numpy as np
        import inference_pb2
        import inference_pb2_grpc
        from persia.embedding.data import IDTypeFeature, IDTypeFeatureWithSingleID, NonIDTypeFeature, PersiaBatch

        batch = PersiaBatch(
            [
                IDTypeFeatureWithSingleID("user", np.array([5, 6, 7], dtype=np.uint64)),
                IDTypeFeature("tags", [np.array(ids, dtype=np.uint64) for ids in ([1, 2], [], [3, 3, 4])]),
            ],
            non_id_type_features=[NonIDTypeFeature(np.zeros((3, 2), dtype=np.float32))],
            requires_grad=False,
        )
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(grpc.insecure_channel(sys.argv[1]))
        request = inference_pb2.PredictionsRequest(model_name="m", input={"batch": batch.to_bytes()})
        lines = stub.Predictions(request).prediction.decode("utf-8").splitlines()
        print([float(line.strip().replace(",", "")) for line in lines[1:-1]])

        from satrap.client import InferenceClient
        with InferenceClient(sys.argv[1]) as client:
            print(client.infer("m", batch).tolist())
        print(sorted({"torch", "persia", "ts"} & set(sys.modules)))
        """,
        address,
        str(stubs),
    )
    assert out.splitlines() == ["[3.0, 1.0, 4.0]", "[3.0, 1.0, 4.0]", "['persia']"]
    by_stubs, by_client = servicer.batches
    assert [feature.name for feature in by_stubs.id_features] == ["user", "tags"]
    for left, right in zip(by_stubs.id_features, by_client.id_features, strict=True):
        np.testing.assert_array_equal(left.values, right.values)


def test_oldest_client(stubs: Path, served: tuple[str, _Lengths], tmp_path: Path) -> None:
    address, servicer = served
    out = run(
        tmp_path,
        """
        import sys
        sys.path.append(sys.argv[2])
        import grpc
        import numpy as np
        import inference_pb2
        import inference_pb2_grpc
        from persia.prelude import PersiaEmbeddingClientPyClass, PyPersiaBatchData

        client = PersiaEmbeddingClientPyClass(0, [])
        data = PyPersiaBatchData()
        data.add_dense([np.ones((2, 4), np.float32)])
        data.add_sparse([(f"feature_{i}", [np.arange(i + 1).astype(np.uint64)] * 2) for i in range(3)])
        payload = client.batch_to_bytes(data)
        assert payload == data.to_bytes()
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(grpc.insecure_channel(sys.argv[1]))
        request = inference_pb2.PredictionsRequest(model_name="m", input={"batch": payload})
        print(stub.Predictions(request).prediction.decode())
        print("torch" in sys.modules)
        """,
        address,
        str(stubs),
    )
    assert out == "[\n  6.0,\n  6.0\n]\nFalse\n"
    (batch,) = servicer.batches
    assert [feature.name for feature in batch.id_features] == ["feature_0", "feature_1", "feature_2"]
    assert not batch.requires_grad
    (dense,) = batch.non_id_features
    assert dense.name is None
    np.testing.assert_array_equal(dense.data, np.ones((2, 4), np.float32))
