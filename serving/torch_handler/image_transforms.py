"""From an image to the tensor that a vision model takes: torchvision's transforms, or the same with Pillow alone.

`imagenet_transforms` and `tensor_transforms` choose. The classes here have torchvision's names, arguments and results
for images of Pillow.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = [
    "CenterCrop",
    "Compose",
    "Normalize",
    "Resize",
    "ToRGB",
    "ToTensor",
    "imagenet_transforms",
    "tensor_transforms",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TYPES = {"I": np.int32, "I;16": np.int16, "F": np.float32}
"""Pillow's modes that do not hold bytes."""


class ToRGB:
    """Converts to three channels: grey images, palettes and transparency are common, and models know none of them."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """The same image, or a new one."""
        return image if image.mode == "RGB" else image.convert("RGB")


class Resize:
    """Resizes bilinearly: to (height, width), or the shorter edge to one length with the aspect kept."""

    def __init__(self, size: int | Sequence[int]) -> None:
        """`size` in pixels."""
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        """The same image if it has the size, otherwise a new one."""
        width, height = image.size
        if isinstance(self.size, int):
            short, long = sorted((width, height))
            longer = int(self.size * long / short)
            target = (self.size, longer) if width <= height else (longer, self.size)
        else:
            target = (self.size[1], self.size[0])
        return image if target == image.size else image.resize(target, Image.Resampling.BILINEAR)


class CenterCrop:
    """Cuts out the middle; what an image lacks is filled with zeros."""

    def __init__(self, size: int | Sequence[int]) -> None:
        """`size` in pixels: (height, width), or one length for both."""
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])

    def __call__(self, image: Image.Image) -> Image.Image:
        """An image of exactly that size."""
        height, width = self.size
        left, top = _margin(image.width, width), _margin(image.height, height)
        return image.crop((left, top, left + width, top + height))


def _margin(length: int, wanted: int) -> int:
    """Where the crop begins; negative where the image is too small."""
    return round((length - wanted) / 2) if length >= wanted else -((wanted - length) // 2)


class ToTensor:
    """An image as `[channels, height, width]`: bytes become float32 from 0 to 1, other types stay what they are."""

    def __call__(self, image: Image.Image | np.ndarray[Any, Any]) -> torch.Tensor:
        """A tensor with memory of its own."""
        if isinstance(image, np.ndarray):
            array = image
        else:
            array = np.array(image, _TYPES.get(image.mode, np.uint8))
            if image.mode == "1":
                array = array * np.uint8(255)
        if array.ndim == 2:
            array = array[:, :, None]
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        return tensor.to(torch.float32).div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts a mean and divides by a standard deviation, each per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """One number per channel.

        Raises:
            ValueError: a standard deviation is zero.
        """
        if 0 in std:
            raise ValueError("a standard deviation of 0 cannot be divided by")
        self.mean, self.std = mean, std

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """A new tensor.

        Raises:
            TypeError: it is not of floating-point numbers.
        """
        if not tensor.is_floating_point():
            raise TypeError(f"only floating-point tensors can be normalised, not {tensor.dtype}")
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
        return tensor.sub(mean).div_(std)


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        """In the order in which they are applied."""
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        """What the last one returns."""
        for transform in self.transforms:
            image = transform(image)
        return image


def imagenet_transforms() -> Callable[[Any], Any]:
    """What ImageNet's classifiers are given: 256 pixels for the shorter edge, the middle 224 x 224, normalised."""
    source = _torchvision() or _OURS
    return Compose(
        [
            ToRGB(),
            source["Resize"](256),
            source["CenterCrop"](224),
            source["ToTensor"](),
            source["Normalize"](IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def tensor_transforms() -> Callable[[Any], Any]:
    """What detectors are given: the image as it is, from 0 to 1."""
    source = _torchvision() or _OURS
    return Compose([ToRGB(), source["ToTensor"]()])


_OURS: dict[str, Callable[..., Any]] = {
    "Resize": Resize,
    "CenterCrop": CenterCrop,
    "ToTensor": ToTensor,
    "Normalize": Normalize,
}


def _torchvision() -> dict[str, Callable[..., Any]] | None:
    """What torchvision has for it, or None where it is not installed or not for this torch."""
    try:
        module = importlib.import_module("torchvision.transforms")
    except (ImportError, RuntimeError, OSError):  # a build for another torch fails in its own ways
        return None
    return {name: getattr(module, name) for name in _OURS}
