"""TorchServe's `image_classifier`: an image in, the most probable classes out."""

from typing import Any

import torch

from satrap.serving.label_mapping import map_class_to_label
from satrap.serving.torch_handler.image_transforms import imagenet_transforms
from satrap.serving.torch_handler.timing import timed
from satrap.serving.torch_handler.vision_handler import VisionHandler

__all__ = ["ImageClassifier"]


class ImageClassifier(VisionHandler):
    """Answers an image with `{label: probability}` of its `topk` classes, the most probable first.

    The model returns one score per class; labels come from the archive's `index_to_name.json`, without which they are
    the classes' numbers.
    """

    topk = 5
    image_processing = imagenet_transforms()

    def set_max_result_classes(self, topk: int) -> None:
        """How many classes an answer has."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """How many classes an answer has; fewer where the model has fewer."""
        return self.topk

    @timed
    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """One dict per image."""
        scores = torch.softmax(data, dim=1)
        probabilities, classes = torch.topk(scores, min(self.topk, scores.shape[1]), dim=1)
        return list(map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist()))
