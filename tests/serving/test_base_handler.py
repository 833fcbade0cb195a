"""BaseHandler's contract: what it loads, from which files, and how it answers."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from satrap.errors import ArchiveError
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.torch_handler.base_handler import BaseHandler

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Doubled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def context_for(folder: Path, config: dict[str, Any] | None = None, **model: str) -> Context:
    manifest = {"model": {"modelName": "m", **model}}
    return Context("m", str(folder), manifest, 1, None, "0.1.0", model_yaml_config=config)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model"])
def test_any_serialized_file_is_torchscript_and_warns_of_nothing(tmp_path: Path, name: str) -> None:
    torch.jit.save(torch.jit.script(Doubled()), tmp_path / name)
    handler = BaseHandler()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handler.initialize(context_for(tmp_path, serializedFile=name))
    assert handler.initialized
    assert not handler.model.training
    assert handler.device == torch.device("cpu")
    assert handler.map_location == "cpu"
    assert handler.model_pt_path == str(tmp_path / name)
    assert handler.handle([[1.0, 2.0]], handler.context) == [[2.0, 4.0]]


@pytest.mark.parametrize("suffix", [".onnx", ".so"])
def test_other_kinds_of_models_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(b"x")
    with pytest.raises(ArchiveError, match=rf"model\{suffix}: a \{suffix} model needs a handler"):
        BaseHandler().initialize(context_for(tmp_path, serializedFile=f"model{suffix}"))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"gone\.pt: the manifest's serializedFile is not in the archive"):
        BaseHandler().initialize(context_for(tmp_path, serializedFile="gone.pt"))
    (tmp_path / "bad.pt").write_bytes(b"no model")
    with pytest.raises(ArchiveError, match=r"bad\.pt: cannot be loaded"):
        BaseHandler().initialize(context_for(tmp_path, serializedFile="bad.pt"))
    with pytest.raises(ArchiveError, match=r"net\.py: the manifest's modelFile is not in the archive"):
        BaseHandler().initialize(context_for(tmp_path, modelFile="net.py"))


EAGER = """
import torch
from torch.nn import Linear  # an imported class is not the model

class Tripled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return x * self.factor
"""


def write_module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_eager_model_with_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "eager_net", EAGER, monkeypatch)
    torch.save({"factor": torch.tensor(3.0)}, tmp_path / "state.pt")
    handler = BaseHandler()
    handler.initialize(context_for(tmp_path, modelFile="eager_net.py", serializedFile="state.pt"))
    assert not handler.model.training
    assert handler.handle([[1.0]], handler.context) == [[3.0]]


def test_eager_state_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "eager_net2", EAGER, monkeypatch)
    torch.save({"other": torch.tensor(3.0)}, tmp_path / "state.pt")
    with pytest.raises(ArchiveError, match=r"(?s)state\.pt: cannot be loaded.*other"):
        BaseHandler().initialize(context_for(tmp_path, modelFile="eager_net2.py", serializedFile="state.pt"))


@pytest.mark.parametrize(("text", "count"), [("", "0: none"), ("class A: pass\nclass B: pass\n", "2: A, B")])
def test_eager_file_has_one_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: str
) -> None:
    write_module(tmp_path, "eager_many", text, monkeypatch)
    with pytest.raises(ArchiveError, match=f"exactly one class, this one has {count}"):
        BaseHandler().initialize(context_for(tmp_path, modelFile="eager_many.py"))


@pytest.mark.parametrize(
    ("document", "mapping"),
    [
        ({"0": "cat", "1": "dog"}, {"0": "cat", "1": "dog"}),
        ({"0": ["n01", "cat"]}, {"0": "cat"}),
        ({"object_type_names": ["cat", "dog"]}, {"0": "cat", "1": "dog"}),
    ],
)
def test_label_mapping(tmp_path: Path, document: dict[str, Any], mapping: dict[str, str]) -> None:
    (tmp_path / "index_to_name.json").write_text(json.dumps(document))
    handler = BaseHandler()
    handler.initialize(context_for(tmp_path))
    assert handler.mapping == mapping
    assert handler.model is None


@pytest.mark.parametrize("text", ["{", "[]", '{"0": 1}', '{"0": []}'])
def test_bad_label_mapping_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "index_to_name.json").write_text(text)
    with pytest.raises(ArchiveError, match=r"^index_to_name\.json: "):
        BaseHandler().initialize(context_for(tmp_path))


def test_model_config_reaches_the_handler(tmp_path: Path) -> None:
    handler = BaseHandler()
    handler.initialize(context_for(tmp_path, config={"mine": 1}))
    assert handler.model_yaml_config == {"mine": 1}
    assert handler.mapping is None


class Steps(BaseHandler):
    def preprocess(self, data: Any) -> Any:
        return [row["x"] for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return [x + 1 for x in data]

    def postprocess(self, data: Any) -> list[Any]:
        return [f"<{x}>" for x in data]

    def describe_handle(self) -> Any:
        return {"about": "steps"}


def test_steps_are_overridden_and_their_time_is_reported(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    assert Steps().handle([{"x": 1}, {"x": 2}], context) == ["<2>", "<3>"]
    *phases, observed = context.metrics.take()
    assert [phase.dimensions for phase in phases] == [
        (("phase", step),) for step in ("preprocess", "inference", "postprocess")
    ]
    assert observed.name == "HandlerTime"
    assert observed.unit == "ms"
    assert observed.value >= 0


def test_describe_is_answered_without_the_model(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    context.request_processor = [RequestProcessor({"describe": "True"})]
    assert Steps().handle([{}], context) == [{"about": "steps"}]
