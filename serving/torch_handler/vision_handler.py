"""TorchServe's `VisionHandler`: requests with images, batches of tensors."""

import base64
import binascii
import io
from typing import Any

import torch
from PIL import Image

from satrap.serving.context import Context
from satrap.serving.prediction import PredictionException
from satrap.serving.torch_handler.refusals import RefusingHandler, per_request, row_value
from satrap.serving.torch_handler.timing import timed

__all__ = ["VisionHandler"]


class VisionHandler(RefusingHandler):
    """A subclass has `image_processing`, which makes a tensor of an image of Pillow.

    A request's input is called `data` or `body` and is an image file, the same in base64 (text), or numbers (lists of
    lists, from JSON), which are taken as the tensor. A request without an image is refused with a 400; the others of
    its batch are answered.
    """

    def initialize(self, context: Context) -> None:
        """Load the model; `limit_max_image_pixels` false lifts Pillow's limit on the size of images."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None

    @timed
    def preprocess(self, data: Any) -> torch.Tensor:
        """One tensor of all images.

        Raises:
            PredictionException: no request has an image, or their tensors differ in shape.
        """
        return self.stacked(self.accepted(data, self.tensor_of))

    def tensor_of(self, row: Any) -> torch.Tensor:
        """One request's tensor.

        Raises:
            PredictionException: it has no image, or one that cannot be processed.
        """
        value = row_value(row)
        if isinstance(value, str):
            try:
                value = base64.b64decode(value, validate=False)
            except binascii.Error as error:
                raise PredictionException(f"the input is text, but not base64: {error}", 400) from error
        if isinstance(value, bytes | bytearray):
            tensor: torch.Tensor = per_request(self.image_processing, _opened(value))  # type: ignore[attr-defined]
            return tensor
        try:
            return torch.as_tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PredictionException(
                f"the input is neither an image file nor a list of numbers: {error}", 400
            ) from error

    def stacked(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """One batch on the handler's device.

        Raises:
            PredictionException: the tensors differ in shape.
        """
        shapes = sorted({tuple(tensor.shape) for tensor in tensors})
        if len(shapes) > 1:
            raise PredictionException(
                f"the images of a batch come in {len(shapes)} shapes ({shapes[0]}, {shapes[1]}...): they need one, "
                "which image_processing can give them; or serve with batch_size 1",
                400,
            )
        return torch.stack(tensors).to(self.device)


def _opened(data: bytes | bytearray) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # every format has its own ways to be wrong: OSError, SyntaxError, struct.error, ...
        raise PredictionException(f"the input is not an image that can be read: {error}", 400) from error
    return image
