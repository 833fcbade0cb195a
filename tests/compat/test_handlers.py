"""Handlers as PERSIA's tutorials of both ages have users write them, run through the shims."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from satrap.client import IDTypeFeatureWithSingleID, NonIDTypeFeature, PersiaBatch
from satrap.errors import BatchError
from satrap.serving.context import Context

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

LATER = """
import torch
from persia.ctx import InferCtx
from persia.service import get_embedding_worker_services
from ts.torch_handler.base_handler import BaseHandler

device_id = 0 if torch.cuda.is_available() else None

class ScoreHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.ctx = InferCtx(get_embedding_worker_services(), device_id=device_id)
        self.ctx.wait_for_serving()

    def preprocess(self, data):
        found = self.ctx.get_embedding_from_bytes(bytes(data[0].get("batch")), device_id)
        return self.ctx.prepare_features(found)

    def inference(self, data, *args, **kwargs):
        dense, embeddings, _ = data
        with torch.no_grad():
            return self.model(dense, embeddings)

    def postprocess(self, data):
        return [data.reshape(-1).tolist()]
"""

OLDER = """
import os
import torch
from persia.ctx import TrainCtx
from persia.prelude import PersiaEmbeddingClientPyClass
from ts.torch_handler.base_handler import BaseHandler

class ScoreHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.client = PersiaEmbeddingClientPyClass(0, [os.environ["MIDDLEWARE_SERVICE"]])
        self.ctx = TrainCtx()

    def preprocess(self, data):
        found = self.client.batch_to_device_dirct(bytes(data[0].get("batch")), 0)
        model_input, _ = self.ctx.prepare_features(found, is_training=False)
        return model_input

    def inference(self, data, *args, **kwargs):
        dense, embeddings = data
        with torch.no_grad():
            return self.model(dense, embeddings)

    def postprocess(self, data):
        return [data.reshape(-1).tolist()]
"""


class ListModel(torch.nn.Module):
    def forward(self, dense: list[torch.Tensor], embeddings: list[torch.Tensor]) -> torch.Tensor:
        return dense[0].sum(1) + embeddings[0].float().sum(1)


class TensorModel(torch.nn.Module):
    def forward(self, dense: torch.Tensor, embeddings: list[torch.Tensor]) -> torch.Tensor:
        return dense.sum(1) + embeddings[0].float().sum(1)


def batch() -> bytes:
    return PersiaBatch(
        [IDTypeFeatureWithSingleID("user", np.array([1, 2], np.uint64))],
        [NonIDTypeFeature(np.full((2, 2), 0.25, np.float32))],
        requires_grad=False,
    ).to_bytes()


def load(source: str, model: torch.nn.Module, folder: Path) -> Any:
    torch.jit.save(torch.jit.script(model), folder / "model.pth")
    namespace: dict[str, Any] = {"__name__": "score_handler"}
    exec(compile(source, "score_handler.py", "exec"), namespace)
    handler = namespace["ScoreHandler"]()
    manifest = {"model": {"modelName": "m", "serializedFile": "model.pth"}}
    handler.initialize(Context("m", str(folder), manifest, 1, None, "0.1.0"))
    return handler


@pytest.mark.parametrize(
    ("source", "model"), [(LATER, ListModel()), (OLDER, ListModel()), (OLDER, TensorModel())]
)
def test_handlers_run_unchanged(
    shims: None,
    lookups: list[Any],
    source: str,
    model: torch.nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "MIDDLEWARE_SERVICE", "satrap:local")
    monkeypatch.setitem(os.environ, "EMBEDDING_WORKER_SERVICE", "satrap:local")
    handler = load(source, model, tmp_path)
    assert lookups[0].addresses == ["satrap:local"]
    assert handler.handle([{"batch": bytearray(batch())}], handler.context) == [[4.5, 8.5]]
    with pytest.raises(BatchError):
        handler.handle([{"batch": bytearray(batch()[:40])}], handler.context)


def test_the_names_are_ours(shims: None) -> None:
    import persia
    import ts.context
    import ts.torch_handler.base_handler
    import ts.utils.util

    import satrap.client
    import satrap.compat.context
    import satrap.serving.context
    import satrap.serving.prediction
    import satrap.serving.torch_handler.base_handler

    assert persia.ctx.InferCtx is satrap.compat.context.InferCtx
    assert persia.embedding.data.PersiaBatch is satrap.client.PersiaBatch
    assert persia.logger.get_default_logger().name == "persia"
    assert ts.context.Context is satrap.serving.context.Context
    assert ts.utils.util.PredictionException is satrap.serving.prediction.PredictionException
    base_handler = satrap.serving.torch_handler.base_handler.BaseHandler
    assert ts.torch_handler.base_handler.BaseHandler is base_handler
    with pytest.raises(AttributeError, match="module 'persia' has no attribute 'nothing'"):
        _ = persia.nothing
