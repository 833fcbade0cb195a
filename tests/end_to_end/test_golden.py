"""PERSIA's own answers, through the whole: checkpoint, shards, middleware, worker, TorchServe's gRPC."""

import numpy as np
import pytest

from satrap.client import InferenceClient
from satrap.serving.archive.package import package

# Another number of shards than PERSIA had changes nothing, except for raw features with a hash stack: of the rows that
# its rounds write to one place PERSIA keeps the last replica's, so that case runs with as many as PERSIA had.
CASES = {
    "a_defaults_r1_b1": 2,
    "a_sum_prefix8_r1_b7": 3,
    "b_groups_prefix12_r2_b7": 1,
    "b_shared_group_r1_b7": 2,
    "c_hashstack_prefix8_r1_b7": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shards"), CASES.items())
def test_served_values_are_persias_bit_for_bit(
    name, shards, persia_data, persia_tensors, satrap, concatenate, tmp_path
):
    case = persia_data / "golden" / name
    package(model_name="flat", version="1.0", serialized_file=concatenate, export_path=tmp_path)
    running = satrap(
        "up",
        *("--embedding-config", case / "embedding_config.yml", "--checkpoint", case / "ckpt"),
        *("--model-store", tmp_path, "--models", "flat.mar", "--shards", str(shards)),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    with InferenceClient(running.addresses[0]) as client:
        answer = client.infer("flat", (case / "batch.bin").read_bytes())
    expected = persia_tensors(case)
    np.testing.assert_array_equal(
        answer.reshape(expected.shape).astype(np.float32), expected.astype(np.float32)
    )
    assert running.stop() == 0
