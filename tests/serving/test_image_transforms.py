"""Images become the same tensors as by torchvision: against values computed here, pixel by pixel, from its rules."""

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from satrap.serving.torch_handler.image_transforms import (
    CenterCrop,
    Compose,
    Normalize,
    Resize,
    ToRGB,
    ToTensor,
    imagenet_transforms,
    tensor_transforms,
)


def image(width: int, height: int, seed: int = 1) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def shrunk(row: np.ndarray, length: int) -> np.ndarray:
    """One row of pixels, resized with a triangle filter over the area of each new pixel."""
    scale = len(row) / length
    support = max(scale, 1.0)
    result = np.empty((length, *row.shape[1:]))
    for place in range(length):
        center = (place + 0.5) * scale
        first, last = max(0, int(center - support + 0.5)), min(len(row), int(center + support + 0.5))
        weights = np.array([max(0.0, 1 - abs((x + 0.5 - center) / support)) for x in range(first, last)])
        result[place] = np.tensordot(weights / weights.sum(), row[first:last].astype(float), 1)
    return np.clip(np.round(result), 0, 255)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((40, 30), (16, 12)),
        ((30, 40), (12, 16)),
        ((41, 30), (16, 12)),
        ((31, 97), (12, 37)),
        ((12, 12), (12, 12)),
    ],
)
def test_the_shorter_edge_is_resized(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    given = image(*size)
    resized = Resize(12)(given)
    assert resized.size == wanted
    across = np.stack([shrunk(row, wanted[0]) for row in np.asarray(given)])
    expected = np.stack([shrunk(column, wanted[1]) for column in across.swapaxes(0, 1)], axis=1)
    assert np.abs(np.asarray(resized).astype(float) - expected).max() <= 1, "Pillow counts in fixed point"


def test_both_edges_are_resized_to_height_and_width() -> None:
    assert Resize((5, 7))(image(20, 20)).size == (7, 5)
    given = image(7, 5)
    assert Resize((5, 7))(given) is given


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (10, 13), (11, 9)])
def test_the_middle_is_cut_out(size: tuple[int, int]) -> None:
    given = image(*size)
    # Half a pixel is rounded to the even one, as Python does.
    left, top = (round((length - 8) / 2) for length in size)
    expected = np.asarray(given)[top : top + 8, left : left + 8]
    assert np.array_equal(np.asarray(CenterCrop(8)(given)), expected)


def test_what_an_image_lacks_is_black() -> None:
    cut = np.asarray(CenterCrop((6, 4))(image(9, 3)))
    assert cut.shape == (6, 4, 3)
    assert not cut[0].any()
    assert not cut[-2:].any(), "of an odd number of rows the bottom gets one more"
    assert np.array_equal(cut[1:4], np.asarray(image(9, 3))[:, 2:6])


def test_bytes_become_fractions_and_other_types_stay() -> None:
    given = image(3, 2)
    tensor = ToTensor()(given)
    assert tensor.shape == (3, 2, 3)
    assert tensor.dtype == torch.float32
    assert tensor[2, 1, 0].item() == np.float32(given.getpixel((0, 1))[2]) / np.float32(255)  # type: ignore[index]
    assert ToTensor()(Image.new("L", (2, 2), 255)).tolist() == [[[1.0, 1.0], [1.0, 1.0]]]
    assert ToTensor()(Image.new("1", (1, 1), 1)).tolist() == [[[1.0]]]
    assert ToTensor()(Image.new("I", (1, 1), 70_000)).tolist() == [[[70_000]]]
    assert ToTensor()(Image.new("F", (1, 1), 0.5)).tolist() == [[[0.5]]]
    assert ToTensor()(np.full((1, 2, 3), 51, np.uint8)).shape == (3, 1, 2)


def test_mean_and_deviation_are_per_channel() -> None:
    tensor = torch.tensor([[[1.0, 0.5]], [[0.25, 0.0]]])
    assert Normalize([0.5, 0.25], [0.5, 0.125])(tensor).tolist() == [[[1.0, 0.0]], [[0.0, -2.0]]]
    with pytest.raises(TypeError, match=r"not torch\.uint8"):
        Normalize([0.5], [0.5])(torch.zeros(1, 1, 1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="deviation of 0"):
        Normalize([0.5], [0.0])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_image_gets_three_channels(mode: str) -> None:
    assert imagenet_transforms()(image(300, 260).convert(mode)).shape == (3, 224, 224)
    assert tensor_transforms()(image(30, 26).convert(mode)).shape == (3, 26, 30)
    given = image(3, 3)
    assert ToRGB()(given) is given


def test_imagenets_values() -> None:
    given = image(256, 256)
    tensor = imagenet_transforms()(given)
    pixel = given.getpixel((16 + 10, 16 + 20))
    assert isinstance(pixel, tuple)
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        assert math.isclose(tensor[channel, 20, 10], (pixel[channel] / 255 - mean) / std, abs_tol=1e-6)


def test_torchvision_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        def __init__(self, *arguments: Any) -> None:
            self.arguments = arguments

    module = ModuleType("torchvision.transforms")
    for name in ("Resize", "CenterCrop", "ToTensor", "Normalize"):
        setattr(module, name, type(name, (Theirs,), {}))
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.transforms", module)
    pipeline = imagenet_transforms()
    assert isinstance(pipeline, Compose)
    assert [(type(step).__name__, getattr(step, "arguments", None)) for step in pipeline.transforms] == [
        ("ToRGB", None),
        ("Resize", (256,)),
        ("CenterCrop", (224,)),
        ("ToTensor", ()),
        ("Normalize", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ]
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    ours = imagenet_transforms()
    assert isinstance(ours, Compose)
    assert isinstance(ours.transforms[1], Resize), "an import that fails leaves ours"
