"""What a request's input is, told from its bytes: handlers made of functions get values, not files."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from satrap.serving.prediction import PredictionException

__all__ = ["decoded", "kind_of"]

_NUMPY_MAGIC = b"\x93NUMPY"
_JSON_BEGINS = b'[{"-0123456789tfn \t\r\n'


def decoded(value: Any) -> Any:
    """What an input is, by its first bytes: JSON, a NumPy file, an image; otherwise text stays text and bytes bytes.

    Raises:
        PredictionException: it begins like a NumPy file or an image, and cannot be read as one.
    """
    if isinstance(value, str):
        return _json_or(value, lambda: value)
    if not isinstance(value, bytes | bytearray):
        return value
    if value.startswith(_NUMPY_MAGIC):
        try:
            return torch.from_numpy(np.load(io.BytesIO(value), allow_pickle=False))
        except (ValueError, TypeError, EOFError) as error:
            raise PredictionException(
                f"the input is not a NumPy file that can be read: {error}", 400
            ) from error
    if value[:1] and value[0] in _JSON_BEGINS:
        return _json_or(value, lambda: _image_or(value))
    return _image_or(value)


def _json_or(text: str | bytes | bytearray, otherwise: Callable[[], Any]) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise()


def _image_or(value: bytes | bytearray) -> Any:
    try:
        return Image.open(io.BytesIO(value)).convert("RGB")
    except UnidentifiedImageError:  # none of Pillow's formats
        return value
    except MemoryError:
        raise
    except Exception as error:  # every format has its own ways to be wrong
        raise PredictionException(f"the input is not an image that can be read: {error}", 400) from error


def kind_of(value: Any) -> str:
    """What `decoded` has made of an input, in words for its sender."""
    if isinstance(value, Image.Image):
        return "an image"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, dict) else "bytes"
