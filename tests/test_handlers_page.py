"""docs/handlers.md: its example is a handler, and the names that it lists are there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from satrap.compat.shims_path import SHIMS
from satrap.serving.archive.manifest import DEVICE_TYPES
from satrap.serving.archive.warmup import Warmup, read_warmup
from satrap.serving.context import Context
from satrap.serving.handler_metrics import HandlerMetrics
from satrap.serving.worker.handler_loading import BUILT_IN

PAGE = (Path(__file__).parent.parent / "docs/handlers.md").read_text()


def test_the_example_is_a_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModuleType("model")
    model.MyNetwork = lambda in_dim: torch.nn.Identity()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model", model)
    monkeypatch.syspath_prepend(SHIMS)
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace = {"__name__": "example"}
    try:
        exec(source, namespace)
    finally:
        sys.modules.pop("base_handler", None)
    handler = namespace["handler"]()  # type: ignore[operator]
    handler.initialize(Context("m", str(tmp_path), {"model": {}}, 2, None, "0"))
    assert handler.handle([{"data": b"[1.0, 3.0, 2.0]"}, {"data": [5.0, 1.0, 1.0]}], handler.context) == [
        1,
        0,
    ]


def test_the_example_of_a_warm_up_is_one(tmp_path: Path) -> None:
    (document,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "warmup.json").write_text(document)
    (tmp_path / "kitten.jpg").write_bytes(b"\xff\xd8")
    assert read_warmup(tmp_path, "warmup.json") == Warmup(
        (
            {"body": (b'{"text": "hello"}', "application/json")},
            {"data": (b"\xff\xd8", "")},
        ),
        repeat=3,
    )


def test_every_handler_that_is_there_is_listed() -> None:
    assert [name for name in BUILT_IN if f"`{name}`" not in PAGE] == []


def test_the_names_of_the_context_and_its_metrics_are_there() -> None:
    context = Context("m", "/", {}, 1, None, "0")
    section = PAGE[PAGE.index("## The context") : PAGE.index("## Handlers that are there")]
    names = {name for name in re.findall(r"`([a-z_]+)(?:\(|`)", section) if name != "ts"}
    known = set(context.system_properties) | {"get_", "message", "send_intermediate_predict_response"}
    assert {name for name in names if not hasattr(context, name)} <= known
    metrics = PAGE[PAGE.index("## Metrics") : PAGE.index("## The model-servers style")]
    for name in re.findall(r"`((?:add|get)_[a-z_]+)`", metrics):
        assert hasattr(HandlerMetrics, name)


def test_the_device_types_are_listed() -> None:
    assert all(f"`{kind}`" in PAGE for kind in DEVICE_TYPES)
