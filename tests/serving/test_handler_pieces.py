"""What handlers are built with: timed steps, micro-batches, compiled models, classes found by name."""

import threading
from types import ModuleType
from typing import Any

import pytest
import torch

from satrap.errors import ArchiveError
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.handler_classes import import_class, list_classes_from_module
from satrap.serving.observation import PHASE
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.base_handler import BaseHandler
from satrap.serving.torch_handler.compilation import PT2Backend, check_valid_pt2_backend, compiled
from satrap.serving.torch_handler.micro_batching import MicroBatching
from satrap.serving.torch_handler.timing import timed


class Steps(BaseHandler):
    def preprocess(self, data: Any) -> Any:
        return [value + 1 for value in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        if 13 in data:
            raise ValueError("unlucky")
        return [value * 10 for value in data]

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        return [f"{value}" for value in data]

    def describe_handle(self) -> Any:
        return {"about": "steps"}


def context(config: dict[str, Any] | None = None) -> Context:
    return Context("m", "/", {"model": {}}, 4, None, "0", model_yaml_config=config)


def names(made: Context) -> list[str]:
    return [observed.name for observed in made.metrics.take() if observed.name != PHASE]


def test_steps_are_timed_where_the_config_file_asks() -> None:
    for config, expected in [
        (None, ["HandlerTime"]),
        ({"handler": {"profile": False}}, ["HandlerTime"]),
        ({"handler": "mine"}, ["HandlerTime"]),
        ({"handler": {"profile": True}}, ["ts_handler_postprocess", "HandlerTime"]),
    ]:
        made = context(config)
        assert Steps().handle([1], made) == ["20"]
        assert names(made) == expected


def test_micro_batches_keep_the_order() -> None:
    handler, made = Steps(), context()
    batching = MicroBatching(handler, micro_batch_size=3, parallelism={"inference": 4})
    assert batching.parallelism == {"inference": 4}
    assert batching(list(range(10, 12)), made) == ["110", "120"]
    assert batching([*range(12)], made) == [f"{10 * (n + 1)}" for n in range(12)]
    assert batching([], made) == []
    assert names(made) == ["HandlerTime"] * 3
    made.request_processor = [RequestProcessor({"describe": "True"})]
    assert batching([1], made) == [{"about": "steps"}]
    batching.shutdown()


def test_an_error_of_a_part_is_the_batchs_and_the_next_batch_is_answered() -> None:
    batching = MicroBatching(Steps(), micro_batch_size=1)
    with pytest.raises(ValueError, match="unlucky"):
        batching([11, 12, 13], context())
    assert batching([1], context()) == ["20"]
    batching.parallelism = {"preprocess": 2}
    assert batching([1], context()) == ["20"], "threads may be set between batches"
    batching.shutdown()


def test_steps_run_at_the_same_time_for_different_parts() -> None:
    seen: list[tuple[int | None, str]] = []
    second_is_prepared = threading.Event()

    class Overlapping(Steps):
        def preprocess(self, data: Any) -> Any:
            seen.append((batching.get_micro_batch_idx(), threading.current_thread().name.split("_")[0]))
            if batching.get_micro_batch_idx() == 1:
                second_is_prepared.set()
            return data

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            assert second_is_prepared.wait(20), "the second part waits for the first"
            return data

    batching = MicroBatching(Overlapping())
    assert batching([1, 2], context()) == ["1", "2"]
    assert sorted(seen) == [(0, "preprocess"), (1, "preprocess")]
    assert batching.get_micro_batch_idx() is None
    batching.shutdown()


@pytest.mark.parametrize(
    ("size", "parallelism", "reason"),
    [(0, None, "micro_batch_size is 0"), (1, {"handle": 1}, "'handle'"), (1, {"inference": 0}, "is 0")],
)
def test_micro_batches_that_cannot_be(size: int, parallelism: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MicroBatching(Steps(), size, parallelism)


class Explaining(Steps):
    def get_insights(self, tensor: Any, raw: Any, target: int) -> Any:
        return [(tensor, raw, target)]

    def preprocess(self, data: Any) -> Any:
        return "tensor"


def test_explanations_are_the_handlers_own() -> None:
    made = context()
    made.request_processor = [RequestProcessor({"explain": "True"})]
    assert Explaining().handle([{"data": "raw", "target": 2}], made) == [("tensor", "raw", 2)]
    with pytest.raises(PredictionException, match="explains nothing") as caught:
        Steps().handle([1], made)
    assert caught.value.error_code == 501


@pytest.mark.parametrize(
    "pt2",
    [
        None,
        {"compile": {"enable": False}},
        {"compile": {"enable": True, "backend": "gcc"}},
        "gcc",
        {"export": {}},
    ],
)
def test_a_model_that_is_not_to_be_compiled_stays(pt2: Any) -> None:
    model = torch.nn.Linear(1, 1)
    assert compiled(model, pt2, "m") is model


@pytest.mark.parametrize(
    ("pt2", "arguments"),
    [
        (
            {"compile": {"enable": True, "backend": "eager", "mode": "default"}},
            {"backend": "eager", "mode": "default"},
        ),
        ({"compile": {"enable": True}}, {}),
        ("eager", {"backend": "eager"}),
        ({"backend": "eager"}, {"backend": "eager"}),
    ],
)
def test_a_model_that_is(pt2: Any, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **given: (model, given))
    assert compiled("model", pt2, "m") == ("model", arguments)


@pytest.mark.slow
def test_a_compiled_model_answers_the_same() -> None:
    model = torch.nn.Linear(2, 1)
    data = torch.ones(3, 2)
    made = compiled(model, "eager", "m")
    assert made is not model
    assert torch.equal(made(data), model(data))


@pytest.mark.parametrize(
    ("pt2", "reason"), [(3, "pt2 in its config file is 3"), ({"compile": 1}, r"pt2\.compile .* is 1")]
)
def test_a_wrong_pt2(pt2: Any, reason: str) -> None:
    with pytest.raises(ArchiveError, match=f"m: {reason}"):
        compiled("model", pt2, "m")


def test_backends_are_torchserves(caplog: pytest.LogCaptureFixture) -> None:
    assert PT2Backend("inductor") == "inductor"
    assert check_valid_pt2_backend("inductor")
    assert not check_valid_pt2_backend("gcc")
    assert "gcc is not a supported backend" in caplog.text


def test_classes_of_a_module() -> None:
    module = ModuleType("classes")
    exec(
        "from collections import OrderedDict\nclass A: pass\nclass B(A): pass\nalias = A\n"
        "for c in (A, B): c.__module__ = 'classes'",
        module.__dict__,
    )
    assert [c.__name__ for c in list_classes_from_module(module)] == ["A", "B"], "imported ones do not count"
    assert list_classes_from_module(module, module.B) == [module.B]


def test_a_class_by_its_name() -> None:
    assert import_class("collections.OrderedDict").__name__ == "OrderedDict"
    assert import_class("abc.Sized", "collections").__name__ == "Sized"
    assert import_class("OrderedDict", "collections").__name__ == "OrderedDict"
    for name, prefix in [
        ("", None),
        ("Alone", None),
        ("collections.Nothing", None),
        ("no_such_module.A", None),
    ]:
        with pytest.raises(ImportError):
            import_class(name, prefix)
