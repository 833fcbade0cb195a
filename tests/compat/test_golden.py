"""PERSIA's own results through its names: real servers, real checkpoints, tensors compared bit by bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from satrap.compat.context import InferCtx, TrainCtx
from satrap.compat.embedding_client import PersiaEmbeddingClientPyClass
from satrap.errors import UnavailableError, UnknownFeatureError

pytestmark = pytest.mark.slow

CASES = [
    "a_defaults_r1_b1",
    "a_sum_prefix8_r1_b7",
    "b_groups_prefix12_r2_b7",
    "b_shared_group_r1_b7",
    "c_hashstack_prefix8_r1_b7",
]


def expected_tensors(case: Path) -> list[np.ndarray]:
    """What PERSIA hands to a model for the case, from its worker's answer."""
    described = json.loads((case / "expected.json").read_text())
    arrays = np.load(case / "expected.npz")
    tensors = []
    for place, feature in enumerate(described["features"]):
        rows = arrays[f"f{place}_emb_f16"]
        if feature["kind"] == "raw":
            index = arrays[f"f{place}_index"].reshape(described["batch_size"], -1)
            rows = np.concatenate([rows[index], (index != 0)[..., None].astype(np.float16)], axis=2)
        tensors.append(rows)
    return tensors


def check(tensors: list[torch.Tensor], case: Path) -> None:
    expected = expected_tensors(case)
    assert len(tensors) == len(expected)
    for tensor, rows in zip(tensors, expected, strict=True):
        assert tensor.dtype == torch.float16
        np.testing.assert_array_equal(tensor.numpy(), rows)


@pytest.mark.parametrize("name", CASES)
def test_golden_results(
    name: str, persia_data: Path, tmp_path: Path, satrap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = persia_data / "golden" / name
    replicas = json.loads((case / "expected.json").read_text())["replica_size"]
    config = case / "embedding_config.yml"
    (tmp_path / "empty.yml").write_text("{}\n")
    servers = [
        satrap(
            *("embedding-server", "--global-config", tmp_path / "empty.yml", "--embedding-config", config),
            *("--replica-index", str(index), "--replica-size", str(replicas), "--port", "0"),
            *("--checkpoint", case / "ckpt"),
        ).addresses[0]
        for index in range(replicas)
    ]
    global_config = tmp_path / "global_config.yml"
    global_config.write_text(
        f"common_config: {{infer_config: {{servers: {json.dumps(servers)}, embedding_checkpoint: ''}}}}\n"
    )
    middleware = satrap(
        *("middleware", "--global-config", global_config, "--embedding-config", config, "--port", "0")
    ).addresses[0]
    monkeypatch.setenv("PERSIA_GLOBAL_CONFIG", str(global_config))
    monkeypatch.setenv("PERSIA_EMBEDDING_CONFIG", str(config))
    batch = (case / "batch.bin").read_bytes()

    # An address where nobody listens is skipped.
    for addresses in (["satrap:local"], [middleware], ["127.0.0.1:9", middleware]):
        with InferCtx(addresses) as ctx:
            ctx.wait_for_serving()
            _, embeddings, _ = ctx.prepare_features(ctx.get_embedding_from_bytes(batch))
            check(embeddings, case)
    client = PersiaEmbeddingClientPyClass(0, ["satrap:local"])
    (_, embeddings), _ = TrainCtx().prepare_features(
        client.batch_to_device_dirct(batch, 0), is_training=False
    )
    check(embeddings, case)


def test_errors_have_their_facts(
    persia_data: Path, tmp_path: Path, satrap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = persia_data / "golden" / "a_defaults_r1_b1"
    (tmp_path / "empty.yml").write_text("{}\n")
    server = satrap(
        *("embedding-server", "--global-config", tmp_path / "empty.yml"),
        *("--embedding-config", case / "embedding_config.yml", "--port", "0"),
        *("--replica-index", "0", "--replica-size", "1", "--checkpoint", case / "ckpt"),
    )
    global_config = tmp_path / "global_config.yml"
    global_config.write_text(
        f"common_config: {{infer_config: {{servers: ['{server.addresses[0]}'], embedding_checkpoint: ''}}}}\n"
        "middleware: {startup_timeout_seconds: 0.5, local_lookup: false}\n"
    )
    monkeypatch.setenv("PERSIA_GLOBAL_CONFIG", str(global_config))
    monkeypatch.setenv("PERSIA_EMBEDDING_CONFIG", str(case / "embedding_config.yml"))
    with InferCtx(["satrap:local"]) as ctx:
        ctx.wait_for_serving()
        with pytest.raises(UnknownFeatureError) as unknown:
            ctx.get_embedding_from_bytes((persia_data / "batch_b7.bin").read_bytes())
        assert unknown.value.feature == "user_id"

        server.kill()
        with pytest.raises(UnavailableError, match=server.addresses[0]):
            ctx.get_embedding_from_bytes((case / "batch.bin").read_bytes())
        with pytest.raises(UnavailableError, match=rf"shard 0 of 1 at {server.addresses[0]}"):
            ctx.wait_for_serving()
