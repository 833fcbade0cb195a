"""What TorchServe's modules offer besides classes of handlers: functions, and metrics made by hand."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from satrap.compat.text_streamer import TextIteratorStreamerBatch
from satrap.compat.torchserve import (
    deprecated,
    emit_metrics,
    get_yaml_config,
    send_intermediate_predict_response,
)
from satrap.compat.torchserve_metrics import (
    Dimension,
    FileMetrics,
    Metric,
    MetricEncoder,
    StoredMetrics,
    Units,
)
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.handler_metrics import MetricsCacheKeyError, MetricsCacheValueError, MetricTypes


def test_a_part_of_an_answer_goes_to_the_worker() -> None:
    context = Context("m", "/", {}, 2, None, "0")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    with pytest.raises(RuntimeError, match="while the handler answers a batch"):
        send_intermediate_predict_response(["a", "b"], {0: "id"}, "message", 200, context)
    sent: list[Any] = []
    context.send_part = lambda values, places: sent.append((values, list(places)))
    send_intermediate_predict_response(["a", "b"], {1: "id"}, "message", 200, context)
    assert sent == [(["a", "b"], [1])]


def test_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [1, 2]")
    assert get_yaml_config(tmp_path / "config.yaml") == {"a": [1, 2]}


def test_what_is_deprecated_says_so() -> None:
    @deprecated("1.0", "the_new")
    def the_old(x: int) -> int:
        return x + 1

    with pytest.warns(PendingDeprecationWarning, match=r"the_old is deprecated in 1\.0 and moved to the_new"):
        assert the_old(1) == 2


def test_metrics_made_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metric = Metric("Size", 3, "MB", [Dimension("Level", "Host"), Dimension("n", 1)], "request-1")
    assert str(metric).startswith("Size.Megabytes:3|#Level:Host,n:1|#hostname:")
    assert str(metric).endswith(",request-1")
    document = json.loads(json.dumps(metric, cls=MetricEncoder))
    assert (document["MetricName"], document["Value"], document["Unit"]) == ("Size", 3, "Megabytes")
    assert document["Dimensions"] == [{"Name": "Level", "Value": "Host"}, {"Name": "n", "Value": 1}]
    with pytest.raises(TypeError):
        json.dumps(object(), cls=MetricEncoder)
    emit_metrics([metric])
    metric.update(4)
    metric.reset()
    assert [message.split("|")[0] for message in caplog.messages] == [
        *("[METRICS]Size.Megabytes:3", "[METRICS]Size.Megabytes:4.0", "[METRICS]Size.Megabytes:0.0")
    ]
    assert Units().units["ms"] == "Milliseconds"


def test_a_store_for_tests_of_handlers() -> None:
    store = StoredMetrics({0: "id"}, "m")
    store.add_counter("c", 1)
    assert (store.model_name, store.request_ids, len(store.take())) == ("m", {0: "id"}, 1)


def test_metrics_that_a_file_declares(tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(
        yaml.safe_dump({"model_metrics": {"gauge": [{"name": "G", "unit": "ms", "dimensions": ["Level"]}]}})
    )
    metrics = FileMetrics(file)
    metrics.initialize_cache()
    metric = metrics.get_metric("G", MetricTypes.GAUGE)
    assert (metric.unit, metric.dimension_names) == ("ms", ["Level"])


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, MetricsCacheValueError),
        ([1], MetricsCacheValueError),
        ({"model_metrics": {"sum": [{"name": "G", "unit": "ms", "dimensions": []}]}}, MetricsCacheKeyError),
        ({"model_metrics": {"gauge": [{"name": "G", "unit": "ms"}]}}, MetricsCacheKeyError),
    ],
)
def test_a_file_that_declares_none(document: Any, error: type[Exception], tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(error):
        FileMetrics(file).initialize_cache()


class _Streamer:
    """What transformers' has, as far as it is used: tokens in, pieces of text out."""

    def __init__(self, tokenizer: Any, skip_prompt: bool, timeout: float | None, **given: Any) -> None:
        self.pieces: list[str] = []
        self.tokenizer = tokenizer

    def put(self, value: torch.Tensor) -> None:
        self.pieces.append(self.tokenizer(value))

    def end(self) -> None:
        self.pieces.append("end")

    def __iter__(self) -> Any:
        return iter(self.pieces)


def test_texts_of_a_batch_as_they_are_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = ModuleType("transformers")
    transformers.TextIteratorStreamer = _Streamer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    streamer = TextIteratorStreamerBatch(lambda tokens: str(tokens.tolist()), 2)
    streamer.put(torch.tensor([[1], [2]]))
    streamer.end()
    assert list(streamer) == [[{"text": "[[1]]"}, {"text": "[[2]]"}], [{"text": "end"}, {"text": "end"}]]
    with pytest.raises(ValueError, match=r"for 2 texts was given tokens of shape \(3,\)"):
        streamer.put(torch.zeros(3))


def test_a_streamer_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="transformers"):
        TextIteratorStreamerBatch(None, 1)
