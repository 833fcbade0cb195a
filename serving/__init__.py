"""TorchServe's serving: a frontend with TorchServe's APIs, model archives, and forked workers that run handlers.

`satrap.serving.server` runs it; `satrap.serving.handler`, `.torch_handler`, `.context` and `.prediction` are what
handlers import. Importing this package imports none of them; `handler_factory` is imported when it is first used.
"""

import importlib
from typing import Any

__all__ = ["handler_factory"]


def __getattr__(name: str) -> Any:
    if name == "handler_factory":
        return importlib.import_module("satrap.serving.torch_handler.function_handler").handler_factory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
