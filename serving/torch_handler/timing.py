"""`timed`: how long a handler's steps take, where its config file asks for it."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["timed"]


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Report how long a handler's method takes as `ts_handler_<method>`, in milliseconds.

    Only where the archive's config file says `handler: {profile: true}`. Work on a GPU is waited for.
    """

    @functools.wraps(method)
    def wrapped(self: Any, *arguments: Any, **keywords: Any) -> Any:
        context = getattr(self, "context", None)
        config = getattr(context, "model_yaml_config", None) or {}
        options = config.get("handler")
        if not (isinstance(options, dict) and options.get("profile")):
            return method(self, *arguments, **keywords)
        started = time.perf_counter()
        result = method(self, *arguments, **keywords)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        elapsed_ms = (time.perf_counter() - started) * 1000
        self.context.metrics.add_time(f"ts_handler_{method.__name__}", elapsed_ms)
        return result

    return wrapped
