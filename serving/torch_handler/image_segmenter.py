"""TorchServe's `image_segmenter`: an image in, the most probable class of each pixel out."""

from typing import Any

import torch

from satrap.serving.torch_handler.image_transforms import imagenet_transforms
from satrap.serving.torch_handler.vision_handler import VisionHandler

__all__ = ["ImageSegmenter"]


class ImageSegmenter(VisionHandler):
    """Answers an image with a list of rows of pixels, each `[class, probability]`.

    The model returns `{"out": [images, classes, height, width]}`, as torchvision's do.
    """

    image_processing = imagenet_transforms()

    def postprocess(self, data: Any) -> list[Any]:
        """One nested list `[height][width][2]` per image."""
        best = torch.softmax(data["out"], dim=1).max(dim=1)
        pixels: list[Any] = torch.stack([best.indices.to(best.values.dtype), best.values], dim=3).tolist()
        return pixels
