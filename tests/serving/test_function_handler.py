"""Handlers made of functions: the model-servers style."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import satrap.serving
from satrap.errors import ArchiveError
from satrap.serving.context import Context, RequestProcessor
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.function_handler import FunctionHandler, handler_factory


class Scaled(torch.nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return x * self.factor


def context(folder: Path, config: dict[str, Any] | None = None, **model: str) -> Context:
    return Context("m", str(folder), {"model": model}, 4, None, "0", model_yaml_config=config)


def initialized(folder: Path, /, config: dict[str, Any] | None = None, **functions: Any) -> Any:
    handler = handler_factory(**{"init_function": Scaled, **functions})()
    handler.initialize(context(folder, config))
    return handler


def ask(handler: FunctionHandler, *rows: dict[str, Any]) -> Any:
    assert handler.context is not None
    handler.context.request_processor = [RequestProcessor({}) for _ in rows]
    return handler.handle(list(rows), handler.context)


def png(color: tuple[int, ...] = (255, 0, 51), mode: str = "RGB", size: tuple[int, int] = (2, 2)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "png")
    return file.getvalue()


def half_an_image() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "png")
    return file.getvalue()[: len(file.getvalue()) // 2]


def test_the_factory_is_found_under_its_names() -> None:
    assert satrap.serving.handler_factory is handler_factory
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = satrap.serving.nothing


def test_the_class_belongs_to_the_module_that_asks() -> None:
    assert handler_factory(Scaled).__module__ == __name__
    namespace: dict[str, Any] = {"__name__": "theirs", "factory": handler_factory, "Scaled": Scaled}
    exec("handler = factory(init_function=Scaled)", namespace)
    assert namespace["handler"].__module__ == "theirs"


def test_weights_come_from_the_checkpoint(tmp_path: Path) -> None:
    torch.save({"factor": torch.tensor(3.0)}, tmp_path / "weights.pt")
    handler = handler_factory(Scaled, factor=1.0)()
    handler.initialize(context(tmp_path, serializedFile="weights.pt"))
    assert not handler.model.training
    assert ask(handler, {"data": bytearray(b"[1, 2]")}) == [[3.0, 6.0]]


def test_an_empty_checkpoint_leaves_the_weights_to_the_function(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    handler = handler_factory(Scaled, None, None, None, None, 5.0)()
    handler.initialize(context(tmp_path, serializedFile="weights.pt"))
    assert ask(handler, {"data": b"[1]"}) == [[5.0]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "is not in the archive"), (b"no weights", "cannot be loaded into Scaled"), ("other", "factor")],
)
def test_a_bad_checkpoint_is_named(tmp_path: Path, content: Any, reason: str) -> None:
    if content == "other":
        torch.save({"other": torch.tensor(3.0)}, tmp_path / "weights.pt")
    elif content is not None:
        (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(ArchiveError, match=rf"(?s)^weights\.pt: .*{reason}"):
        handler_factory(Scaled)().initialize(context(tmp_path, serializedFile="weights.pt"))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"init_function must return a torch\.nn\.Module, not int"):
        handler_factory(lambda: 3)().initialize(context(tmp_path))


def test_requests_go_through_the_functions_one_by_one_and_the_model_together(tmp_path: Path) -> None:
    seen: list[Any] = []

    def before(value: Any) -> torch.Tensor:
        seen.append(value)
        return torch.tensor(value["x"], dtype=torch.float32)

    def after(output: torch.Tensor) -> tuple[float, str]:
        return output.sum().item(), "summed"

    handler = initialized(tmp_path, preprocess_function=before, postprocess_function=after, factor=2.0)
    rows = [{"body": {"x": [1, 2]}}, {"data": b'{"x": [3, 4]}'}, {"body": {"x": [1, 1, 1]}}]
    assert ask(handler, *rows) == [[6.0, "summed"], [14.0, "summed"], [6.0, "summed"]]
    assert seen == [{"x": [1, 2]}, {"x": [3, 4]}, {"x": [1, 1, 1]}]
    assert handler.model.batches == [2, 1], "equal shapes together, others alone"
    assert "HandlerTime" in [observed.name for observed in handler.context.metrics.take()]


def test_a_request_that_fails_has_its_own_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def before(value: Any) -> torch.Tensor:
        if value == 0:
            raise PredictionException("no zeros", 422)
        return torch.tensor([1.0 / (value - 1)])

    def after(output: torch.Tensor) -> float:
        if output.item() > 0.9:
            raise PredictionException("too much", 409)
        return output.item()

    handler = initialized(tmp_path, preprocess_function=before, postprocess_function=after)
    caplog.set_level(logging.ERROR)
    zero, one, two, three = ask(handler, *({"data": str(n)} for n in range(4)))
    assert (zero.message, zero.error_code) == ("no zeros", 422)
    assert (one.message, one.error_code) == ("Prediction failed", 503)
    assert (two.message, two.error_code) == ("too much", 409)
    assert three == 0.5
    assert "ZeroDivisionError" in caplog.text
    assert handler.model.batches == [2]
    errors = ask(handler, {"data": "0"}, {"data": "1"})
    assert [error.error_code for error in errors] == [422, 503], "none is left for the model"


def test_inputs_are_decoded_by_what_they_are(tmp_path: Path) -> None:
    seen: list[Any] = []

    def before(value: Any) -> torch.Tensor:
        seen.append(value)
        return torch.zeros(1)

    array = io.BytesIO()
    np.save(array, np.arange(3))
    text = "hello"
    inputs = [
        png(),
        png((9, 9, 9, 9), "RGBA"),
        array.getvalue(),
        b"[1, 2]",
        '{"a": 1}',
        text,
        b"\x01\x02",
        [3],
    ]
    ask(initialized(tmp_path, preprocess_function=before), *({"any name": value} for value in inputs))
    assert [(image.mode, image.getpixel((0, 0))) for image in seen[:2]] == [
        ("RGB", (255, 0, 51)),
        ("RGB", (9, 9, 9)),
    ]
    assert seen[2].tolist() == [0, 1, 2]
    assert seen[3:] == [[1, 2], {"a": 1}, text, b"\x01\x02", [3]]
    bitmap = io.BytesIO()
    Image.new("RGB", (1, 1), (1, 2, 3)).save(bitmap, "pcx")  # it begins as JSON may: with a new line
    ask(initialized(tmp_path, preprocess_function=before), {"data": bitmap.getvalue()}, {"data": b"\nbytes"})
    assert seen[-2].getpixel((0, 0)) == (1, 2, 3)
    assert seen[-1] == b"\nbytes"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (png(), "the input is an image, and the model has no preprocess_function"),
        ("words", "the input is text, and"),
        ({"a": 1}, "the input is an object, and"),
        (b"\x00\xff", "the input is bytes, and"),
        ([[1], [1, 2]], "the input cannot become a tensor"),
        (b"\x93NUMPY\x01\x00broken", "not a NumPy file that can be read"),
        (half_an_image(), "not an image that can be read"),
        (png(size=(20_000, 20_000), mode="1", color=(0,)), "exceeds limit"),
        (json.dumps({"py/object": "os.system"}), "the input is an object, and"),
    ],
)
def test_what_cannot_be_a_sample_is_refused(tmp_path: Path, value: Any, reason: str) -> None:
    handler = initialized(tmp_path)
    good, bad = ask(handler, {"data": [1.0]}, {"data": value})
    assert good == [1.0]
    assert (reason in bad.message, bad.error_code) == (True, 400)


def test_a_request_without_inputs_is_refused(tmp_path: Path) -> None:
    for row in ({}, {"a": b"1", "b": b"2"}, {"data": b"", "more": b""}):
        (refused,) = ask(initialized(tmp_path), row)
        assert refused.error_code == 400


class Two(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"sum": x.sum(1), "both": (x, x + 1)}


def test_outputs_of_several_tensors_are_taken_apart(tmp_path: Path) -> None:
    handler = initialized(tmp_path, init_function=Two)
    assert ask(handler, {"data": [1.0, 2.0]}, {"data": [3.0, 4.0]}) == [
        {"sum": 3.0, "both": [[1.0, 2.0], [2.0, 3.0]]},
        {"sum": 7.0, "both": [[3.0, 4.0], [4.0, 5.0]]},
    ]


class Wrong(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


def test_an_output_that_is_not_per_sample_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (error,) = ask(initialized(tmp_path, init_function=Wrong), {"data": [1.0]})
    assert (error.message, error.error_code) == ("Prediction failed", 503)
    assert "the model's output of shape () is not for 1 samples" in caplog.text


class Picky(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 7:
            raise MemoryError
        return x @ torch.ones(2, 1)


def test_samples_that_the_model_cannot_take_fail_alone(tmp_path: Path) -> None:
    handler = initialized(tmp_path, init_function=Picky)
    first, wrong, last = ask(handler, {"data": [1.0, 2.0]}, {"data": [1.0, 2.0, 3.0]}, {"data": [2.0, 2.0]})
    assert (first, last) == ([3.0], [4.0])
    assert wrong.error_code == 503
    with pytest.raises(MemoryError):
        ask(handler, {"data": [1.0] * 7})


def test_the_directory_is_prepared_once_for_all_workers(tmp_path: Path) -> None:
    steps: list[str] = []
    functions = {
        "install_packages": lambda: steps.append("install"),
        "unpack_dependencies": lambda: steps.append("unpack"),
    }
    initialized(tmp_path, **functions)
    initialized(tmp_path, **functions)
    assert steps == ["install", "unpack"]


def test_a_preparation_that_failed_is_tried_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def install() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        initialized(tmp_path, install_packages=install)
    initialized(tmp_path, install_packages=install)
    assert len(calls) == 2


@pytest.mark.parametrize("limit", [0, -1, "much", True])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(ArchiveError, match=r"system\.maxGPUMemory is .*, not a number of megabytes"):
        initialized(tmp_path, {"system": {"maxGPUMemory": limit}})


def test_a_limit_on_the_gpu_says_nothing_on_the_cpu(tmp_path: Path) -> None:
    handler = initialized(tmp_path, {"system": {"maxGPUMemory": 500, "extraFiles": "x.tar.gz"}})
    assert handler.device == torch.device("cpu")
