"""From the bytes of a request to what a handler finds in `data`, as TorchServe decodes them."""

import json
import logging
from typing import Any

__all__ = ["decode_input"]

log = logging.getLogger("satrap.serving.worker")


def decode_input(value: bytearray, content_type: str) -> Any:
    """Objects from `application/json`, text from `text/*`, and any other type, or none, as it is.

    Parameters of the type (`; charset=utf-8`) say nothing: both are read as UTF-8. What cannot be decoded is passed
    on as it is, with a warning in the log: the handler says what it thinks of it.
    """
    if not content_type:
        return value
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return json.loads(value.decode())
        if kind.startswith("text/"):
            return value.decode()
    except (ValueError, RecursionError) as error:
        log.warning("an input of type %s is passed on undecoded: %s", kind, error)
    return value
