"""TorchServe's `object_detector`: an image in, boxes with labels and scores out."""

from typing import Any

import torch

from satrap.serving.label_mapping import map_class_to_label
from satrap.serving.torch_handler.image_transforms import tensor_transforms
from satrap.serving.torch_handler.vision_handler import VisionHandler

__all__ = ["ObjectDetector"]


class ObjectDetector(VisionHandler):
    """Answers an image with a list of `{label: box, "score": score}`, those with a score of `threshold` or more.

    The model takes images (one tensor, or a list where they differ in size) and returns a dict with `boxes`, `labels`
    and `scores` for each, as torchvision's detectors do; of a pair, as TorchScript makes of it, the second counts.
    """

    image_processing = tensor_transforms()
    threshold = 0.5

    def stacked(self, tensors: list[torch.Tensor]) -> Any:
        """One tensor, or a list where the images differ in size: detectors take both."""
        if len({tensor.shape for tensor in tensors}) > 1:
            return [tensor.to(self.device) for tensor in tensors]
        return super().stacked(tensors)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        if isinstance(data, list):
            with torch.inference_mode():
                return self.model(data, *args, **kwargs)
        return super().inference(data, *args, **kwargs)

    def postprocess(self, data: Any) -> list[Any]:
        """One list per image."""
        detections = data[1] if isinstance(data, tuple) else data
        return [self._found(detection) for detection in detections]

    def _found(self, detection: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        kept = detection["scores"] >= self.threshold
        boxes, labels, scores = (detection[key][kept].tolist() for key in ("boxes", "labels", "scores"))
        return [
            {**map_class_to_label([[box]], self.mapping, [[label]])[0], "score": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
