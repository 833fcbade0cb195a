"""Handlers as PERSIA's tutorials of both ages have users write them, run through the shims."""

import importlib
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

HANDLERS = Path(__file__).parents[1] / "data" / "handlers"


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


def load(name: str, model: torch.nn.Module, folder: Path) -> Any:
    torch.jit.save(torch.jit.script(model), folder / "model.pth")
    namespace: dict[str, Any] = {"__name__": "score_handler"}
    exec(compile((HANDLERS / name).read_text(), name, "exec"), namespace)
    handler = namespace["ScoreHandler"]()
    manifest = {"model": {"modelName": "m", "serializedFile": "model.pth"}}
    handler.initialize(Context("m", str(folder), manifest, 1, None, "0.1.0"))
    return handler


@pytest.mark.parametrize(
    ("name", "model"), [("later.py", ListModel()), ("older.py", ListModel()), ("older.py", TensorModel())]
)
def test_handlers_run_unchanged(
    shims: None,
    lookups: list[Any],
    name: str,
    model: torch.nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "MIDDLEWARE_SERVICE", "satrap:local")
    monkeypatch.setitem(os.environ, "EMBEDDING_WORKER_SERVICE", "satrap:local")
    handler = load(name, model, tmp_path)
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


def test_every_name_of_torchserve_that_handlers_import(shims: None) -> None:
    for module, names in {
        "ts.context": "Context RequestProcessor",
        "ts.handler_utils.hf_batch_streamer": "TextIteratorStreamerBatch",
        "ts.handler_utils.micro_batching": "MicroBatching",
        "ts.handler_utils.text_utils": "get_tokenizer ngrams_iterator",
        "ts.handler_utils.timer": "timed",
        "ts.handler_utils.utils": "import_class send_intermediate_predict_response",
        "ts.metrics.caching_metric": "CachingMetric",
        "ts.metrics.dimension": "Dimension",
        "ts.metrics.metric": "Metric",
        "ts.metrics.metric_abstract": "MetricAbstract",
        "ts.metrics.metric_cache_abstract": "MetricCacheAbstract",
        "ts.metrics.metric_cache_errors": "MetricsCacheKeyError MetricsCacheTypeError MetricsCacheValueError",
        "ts.metrics.metric_cache_yaml_impl": "MetricsCacheYamlImpl",
        "ts.metrics.metric_encoder": "MetricEncoder",
        "ts.metrics.metric_type_enum": "MetricTypes",
        "ts.metrics.metrics_store": "MetricsStore",
        "ts.metrics.unit": "Units",
        "ts.protocol.otf_message_handler": "send_intermediate_predict_response",
        "ts.service": "PredictionException emit_metrics",
        "ts.torch_handler.base_handler": "BaseHandler",
        "ts.torch_handler.image_classifier": "ImageClassifier",
        "ts.torch_handler.image_segmenter": "ImageSegmenter",
        "ts.torch_handler.object_detector": "ObjectDetector",
        "ts.torch_handler.text_classifier": "TextClassifier",
        "ts.torch_handler.text_handler": "TextHandler",
        "ts.torch_handler.vision_handler": "VisionHandler",
        "ts.utils.util": "CLEANUP_REGEX PT2Backend PredictionException check_valid_pt2_backend deprecated "
        "get_yaml_config list_classes_from_module load_label_mapping map_class_to_label",
        "ts": "__version__",
        "base_handler": "handler_factory",
    }.items():
        found = importlib.import_module(module)
        assert sorted(found.__all__) == sorted(names.split()) or module in ("ts.context", "ts.service")
        for name in names.split():
            assert hasattr(found, name), (module, name)
