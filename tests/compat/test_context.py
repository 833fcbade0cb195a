"""PERSIA's contexts: what a handler gets from them, in which shapes and dtypes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from satrap.client import IDTypeFeature, IDTypeFeatureWithSingleID, Label, NonIDTypeFeature, PersiaBatch
from satrap.compat.context import InferCtx, PreprocessMode, TrainCtx, eval_ctx
from satrap.compat.embedding_client import PersiaEmbeddingClientPyClass, PyPersiaBatchData
from satrap.compat.services import get_embedding_worker_services, get_middleware_services
from satrap.errors import BatchError, InvalidInputError


def batch() -> PersiaBatch:
    return PersiaBatch(
        [
            IDTypeFeatureWithSingleID("user", np.array([1, 2], np.uint64)),
            IDTypeFeature("raw_history", [np.array([7, 5, 7, 9], np.uint64), np.array([], np.uint64)]),
        ],
        [NonIDTypeFeature(np.full((2, 3), 0.5, np.float32)), NonIDTypeFeature(np.array([3, 4]))],
        [Label(np.array([[1.0], [0.0]], np.float32))],
        requires_grad=False,
        meta=b"about it",
    )


def check_features(dense: list[torch.Tensor], embeddings: list[torch.Tensor], *, requires_grad: bool) -> None:
    assert [(tensor.dtype, tuple(tensor.shape)) for tensor in dense] == [
        (torch.float32, (2, 3)),
        (torch.int64, (2,)),
    ]
    assert torch.equal(dense[0], torch.full((2, 3), 0.5))
    summed, raw = embeddings
    assert (summed.dtype, raw.dtype) == (torch.float16, torch.float16)
    assert torch.equal(summed, torch.tensor([[1.0] * 4, [2.0] * 4], dtype=torch.float16))
    # Three places for each sample; the mask is last.
    expected = [[[7.0] * 4 + [1], [5.0] * 4 + [1], [7.0] * 4 + [1]], [[0.0] * 5] * 3]
    assert torch.equal(raw, torch.tensor(expected, dtype=torch.float16))
    assert [tensor.requires_grad for tensor in embeddings] == [requires_grad] * 2
    assert not any(tensor.requires_grad for tensor in dense)


def test_inference(lookups: list[Any]) -> None:
    with InferCtx(["satrap:local"], device_id=None) as ctx:
        found = ctx.get_embedding_from_bytes(batch().to_bytes(), None)
        dense, embeddings, labels = ctx.prepare_features(found)
        check_features(dense, embeddings, requires_grad=False)
        assert labels is None
        assert ctx.current_batch is found
        assert found.consume_all_meta_data() == b"about it"
        again = ctx.prepare_features(ctx.get_embedding_from_bytes(batch().to_arrow()))
        check_features(again[0], again[1], requires_grad=False)
        again = ctx.prepare_features(ctx.get_embedding_from_data(batch()))
        check_features(again[0], again[1], requires_grad=False)
        assert not lookups[0].closed
    assert lookups[0].addresses == ["satrap:local"]
    assert lookups[0].closed


def test_evaluation_has_labels(lookups: list[Any]) -> None:
    with eval_ctx(addresses=["satrap:local"]) as ctx:
        assert ctx.preprocess_mode is PreprocessMode.EVAL
        dense, embeddings, labels = ctx.prepare_features(ctx.get_embedding_from_data(batch()))
    check_features(dense, embeddings, requires_grad=False)
    (label,) = labels
    assert torch.equal(label, torch.tensor([[1.0], [0.0]]))
    assert not label.requires_grad


def test_forward(lookups: list[Any]) -> None:
    class Model(torch.nn.Module):
        def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
            return dense[0].sum(1) + embeddings[0].float().sum(1)

    with InferCtx(["satrap:local"], Model()) as ctx:
        output, labels = ctx.forward(ctx.get_embedding_from_data(batch()))
    assert output.tolist() == [5.5, 9.5]
    assert labels is None
    with InferCtx(["satrap:local"]) as ctx, pytest.raises(TypeError, match="needs a model"):
        ctx.forward(ctx.get_embedding_from_data(batch()))


@pytest.mark.parametrize("is_training", [False, True])
def test_oldest_form(lookups: list[Any], is_training: bool) -> None:
    client = PersiaEmbeddingClientPyClass(0, ["satrap:local"])
    found = client.batch_to_device_dirct(batch().to_bytes(), 0)
    (dense, embeddings), labels = TrainCtx().prepare_features(found, is_training=is_training)
    check_features(dense, embeddings, requires_grad=is_training)
    assert (labels is not None) == is_training


def test_a_client_without_services_looks_nothing_up(lookups: list[Any]) -> None:
    client = PersiaEmbeddingClientPyClass(0, [])
    assert lookups == []
    with pytest.raises(InvalidInputError, match="no middleware services"):
        client.batch_to_device_dirct(batch().to_bytes(), 0)


@pytest.mark.parametrize("data", [b"", b"no batch", bytes(7)])
def test_bytes_that_are_no_batch(lookups: list[Any], data: bytes) -> None:
    with InferCtx(["satrap:local"]) as ctx, pytest.raises(BatchError):
        ctx.get_embedding_from_bytes(data)


def test_waiting_is_bounded_by_the_global_config(
    lookups: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSIA_GLOBAL_CONFIG", raising=False)
    InferCtx(["satrap:local"]).wait_for_serving()
    (tmp_path / "global_config.yml").write_text("middleware: {startup_timeout_seconds: 2.5}\n")
    monkeypatch.setenv("PERSIA_GLOBAL_CONFIG", str(tmp_path / "global_config.yml"))
    InferCtx(["satrap:local"]).wait_for_serving()
    assert [lookup.waited for lookup in lookups] == [[60.0], [2.5]]


def test_services(monkeypatch: pytest.MonkeyPatch, lookups: list[Any]) -> None:
    for variable in ("EMBEDDING_WORKER_SERVICE", "MIDDLEWARE_SERVICE"):
        monkeypatch.delenv(variable, raising=False)
    assert get_embedding_worker_services() == ["embedding_worker:8887"]
    assert get_middleware_services() == ["middleware:8887"]
    monkeypatch.setenv("EMBEDDING_WORKER_SERVICE", "a:1, b:2")
    monkeypatch.setenv("MIDDLEWARE_SERVICE", "satrap:local")
    assert get_embedding_worker_services() == ["a:1", "b:2"]
    assert get_middleware_services() == ["satrap:local"]
    InferCtx(["a:1,b:2", "c:3"])
    assert lookups[-1].addresses == ["a:1", "b:2", "c:3"]


def test_batch_data_that_does_not_fit() -> None:
    data = PyPersiaBatchData()
    with pytest.raises(BatchError, match="call add_sparse first"):
        data.to_bytes()
    data.add_sparse([("a", [np.array([1], np.uint64)] * 2)])
    data.add_dense([np.zeros((3, 1), np.float32)])
    with pytest.raises(BatchError, match="3 samples, but 'a' has 2"):
        data.to_bytes()
    data = PyPersiaBatchData()
    data.add_sparse([("a", [np.array([1], np.uint64)] * 2), ("b", [np.array([1], np.uint64)])])
    with pytest.raises(BatchError, match="feature 'b': 1 samples, but 'a' has 2"):
        data.to_bytes()
    with pytest.raises(BatchError, match="must be uint64"):
        data.add_sparse([("c", [np.array([1])])])
