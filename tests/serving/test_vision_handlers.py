"""TorchServe's image handlers: what they take, what they refuse, and what they answer."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from satrap.serving.context import Context, RequestProcessor
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.image_classifier import ImageClassifier
from satrap.serving.torch_handler.image_segmenter import ImageSegmenter
from satrap.serving.torch_handler.micro_batching import MicroBatching
from satrap.serving.torch_handler.object_detector import ObjectDetector
from satrap.serving.torch_handler.vision_handler import VisionHandler

LABELS = {"0": "red", "1": "green", "2": "blue"}


def png(color: str = "red", size: tuple[int, int] = (224, 224)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "png")
    return file.getvalue()


def context(folder: Path, **properties: Any) -> Context:
    made = Context("m", str(folder), {"model": {}}, 4, None, "0")
    made.system_properties.update(properties)
    return made


def initialized(handler: Any, folder: Path, model: Any = None, labels: Any = LABELS) -> Any:
    (folder / "index_to_name.json").write_text(json.dumps(labels))
    handler.initialize(context(folder))
    handler.model = model
    return handler


def ask(handler: Any, *rows: Any) -> Any:
    handler.context.request_processor = [RequestProcessor({}) for _ in rows]
    return handler.handle(list(rows), handler.context)


def color_scores(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(2, 3))


def test_the_most_probable_classes_in_order(tmp_path: Path) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores)
    (answer,) = ask(handler, {"data": bytearray(png("blue"))})
    assert next(iter(answer)) == "blue"
    # The model's scores are the normalised colours themselves.
    scores = torch.tensor([(0 - 0.485) / 0.229, (0 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    expected = dict(zip(("red", "green", "blue"), torch.softmax(scores, 0).tolist(), strict=True))
    assert answer == pytest.approx(expected, abs=1e-5)
    assert list(answer.values()) == sorted(answer.values(), reverse=True)
    handler.set_max_result_classes(1)
    assert handler.get_max_result_classes() == 1
    assert [list(one) for one in ask(handler, {"body": png("red")})] == [["red"]]


def test_classes_without_labels_are_their_numbers(tmp_path: Path) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores, {"0": "red"})
    (answer,) = ask(handler, {"data": png("green")})
    assert sorted(answer) == ["1", "2", "red"]


@pytest.mark.parametrize(
    "value",
    [
        png(),
        bytearray(png()),
        base64.b64encode(png()).decode(),
        ImageClassifier.image_processing(Image.open(io.BytesIO(png()))).tolist(),
    ],
    ids=["bytes", "bytearray", "base64", "numbers"],
)
@pytest.mark.parametrize("key", ["data", "body"])
def test_an_image_may_come_in_several_forms(value: Any, key: str, tmp_path: Path) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores)
    (answer,) = ask(handler, {key: value})
    assert next(iter(answer)) == "red"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"data": b"no image"}, "the input is not an image that can be read"),
        ({"data": png()[:100]}, "the input is not an image that can be read"),
        ({"data": "bm8="}, "the input is not an image that can be read"),
        ({"data": "no"}, "the input is text, but not base64"),
        ({"data": {"a": 1}}, "the input is neither an image file nor a list of numbers"),
        ({"data": [[1], [1, 2]]}, "the input is neither an image file nor a list of numbers"),
        ({"image": png()}, "the request needs an input 'data' or 'body' that is not empty; it has 'image'"),
        ({"data": b""}, "the request needs an input 'data' or 'body'"),
        ({}, "it has none"),
        ({"\udc89PNG\r\n": b"1"}, "it has bytes that were read as a form: send a file by `curl -T`"),
        ({f"field {n}": b"1" for n in range(9)}, "'field 5', and 3 more"),
        ({"n" * 1000: b"1"}, "it has 'nnnnnnnnnnnnnnnnn...nnnnnnnnnnnnnnnnnn'"),
    ],
)
def test_a_request_without_an_image_alone_is_refused(row: Any, reason: str, tmp_path: Path) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores)
    first, refused, last = ask(handler, {"data": png("red")}, row, {"data": png("blue")})
    assert (next(iter(first)), next(iter(last))) == ("red", "blue")
    assert isinstance(refused, PredictionException)
    assert (reason in refused.message, refused.error_code) == (True, 400)


def test_where_all_are_refused_each_has_its_own_reason(tmp_path: Path) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores)
    one, two = ask(handler, {"data": b"no image"}, {"other": b""})
    assert "not an image" in one.message
    assert "it has 'other'" in two.message


def test_an_image_that_cannot_be_processed_alone_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores)
    handler.image_processing = lambda image: {2: torch.ones(3, 2, 2)}[image.width]
    good, bad = ask(handler, {"data": png(size=(2, 2))}, {"data": png(size=(3, 2))})
    assert len(good) == 3
    assert (bad.message, bad.error_code) == ("Prediction failed", 503)
    assert "KeyError: 3" in caplog.text


def test_errors_of_the_model_are_the_batchs(tmp_path: Path) -> None:
    def failing(images: torch.Tensor) -> torch.Tensor:
        raise PredictionException("the model is tired", 429)

    with pytest.raises(PredictionException, match="tired"):
        ask(initialized(ImageClassifier(), tmp_path, failing), {"data": png()}, {"data": b"no image"})


class AsIs(VisionHandler):
    def image_processing(self, image: Image.Image) -> torch.Tensor:
        return torch.zeros(1, *image.size)

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        return data.flatten(1).sum(1).tolist()


def test_images_of_several_shapes_are_named(tmp_path: Path) -> None:
    handler = initialized(AsIs(), tmp_path, lambda images: images + 1)
    assert ask(handler, {"data": png(size=(2, 3))}) == [6.0], "image_processing may be a method"
    with pytest.raises(PredictionException, match=r"2 shapes \(\(1, 2, 3\), \(1, 4, 4\)\.\.\.\)"):
        ask(handler, {"data": png(size=(2, 3))}, {"data": png(size=(4, 4))})


def test_the_limit_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    handler = initialized(AsIs(), tmp_path, lambda images: images)
    (refused,) = ask(handler, {"data": png(size=(9, 9))})
    assert "exceeds limit" in refused.message
    handler.model = None
    handler.initialize(context(tmp_path, limit_max_image_pixels=False))
    handler.model = lambda images: images
    assert ask(handler, {"data": png(size=(9, 9))}) == [0.0]


def test_parts_of_a_batch_at_the_same_time(tmp_path: Path) -> None:
    handler = initialized(ImageClassifier(), tmp_path, color_scores)
    handler.handle = MicroBatching(handler, micro_batch_size=2)
    colors = ["red", "green", "blue", "red", "blue"]
    answers = ask(handler, *({"data": png(color)} for color in colors))
    assert [next(iter(answer)) for answer in answers] == colors
    with pytest.raises(PredictionException, match="not an image"):
        ask(handler, {"data": png()}, {"data": b"no image"})
    handler.handle.shutdown()


def test_boxes_with_labels_and_scores(tmp_path: Path) -> None:
    found = [
        {
            "boxes": torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]),
            "labels": torch.tensor([1, 2]),
            "scores": torch.tensor([0.75, 0.25]),
        }
    ]
    sizes: list[Any] = []

    def detect(images: Any) -> Any:
        sizes.extend(tuple(image.shape) for image in images)
        return {}, found * len(images)

    handler = initialized(ObjectDetector(), tmp_path, detect)
    expected = [{"green": [0.0, 1.0, 2.0, 3.0], "score": 0.75}]
    assert ask(handler, {"data": png(size=(2, 3))}, {"data": png(size=(5, 4))}) == [expected, expected]
    assert sizes == [(3, 3, 2), (3, 4, 5)], "detectors take images of several sizes"
    handler.threshold = 0.2
    handler.model = lambda images: found
    (both,) = ask(handler, {"data": png()})
    assert [box["score"] for box in both] == [0.75, 0.25]


def test_the_class_of_each_pixel(tmp_path: Path) -> None:
    scores = torch.log(torch.tensor([[[[0.75, 0.25]], [[0.25, 0.75]]]]))
    handler = initialized(ImageSegmenter(), tmp_path, lambda images: {"out": scores})
    ((row,),) = ask(handler, {"data": png()})
    assert row == [pytest.approx([0.0, 0.75]), pytest.approx([1.0, 0.75])]
