"""From the handler's name to the function that answers a batch.

    module                 a module of the archive: its function `handle`, or else its one class
    module.py, dir/module.py   the same
    module:name            that function, or that class
    package.module:Class   anything importable, e.g. satrap.serving.handler:EmbeddingHandler
    image_classifier       a handler that comes with satrap, unless the archive has a file of that name

A function is called as `function(data, context)` and once with `data=None` when it is loaded. A class is built
without arguments and needs `initialize(context)` and `handle(data, context)`.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from satrap.serving.context import Context
from satrap.serving.handler_classes import list_classes_from_module

__all__ = ["EntryPoint", "HandlerError", "load_entry_point"]

EntryPoint = Callable[[Any, Context], Any]

_OURS = "satrap.serving.torch_handler"
"""Where TorchServe's built-in handlers live here, one module each."""

BUILT_IN = frozenset(
    {
        "base_handler",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "text_handler",
        "vision_handler",
    }
)
"""The names by which TorchServe's handlers are found without a file."""

_ABSENT = {
    "dali_handler": "nvidia-dali",
    "dali_image_classifier": "nvidia-dali",
    "trt_llm_handler": "tensorrt_llm",
    "vllm_handler": "vllm",
}
"""Handlers of TorchServe that are made for one package, which satrap does not serve."""


class HandlerError(Exception):
    """The handler's name leads to nothing that can answer requests."""


def load_entry_point(handler: str, directory: Path, context: Context) -> EntryPoint:
    """Import the handler, initialise it, and return what answers a batch.

    `directory` is the archive's and is already first in `sys.path`. Whatever the handler raises passes through.

    Raises:
        HandlerError: there is no such module, function or class, or the class lacks a method.
    """
    module_name, _, attribute = handler.partition(":")
    module = _import(module_name, directory)
    target = getattr(module, attribute or "handle", None)
    if attribute and target is None:
        raise HandlerError(
            f"module {module.__name__!r} has no {attribute!r}, which handler {handler!r} names"
        )
    if target is None or inspect.isclass(target):
        return _initialized(target or _one_class(module), context)
    if not callable(target):
        raise HandlerError(
            f"{attribute or 'handle'!r} in module {module.__name__!r} is not a function or a class"
        )
    entry: EntryPoint = target
    entry(None, context)
    return entry


def _import(name: str, directory: Path) -> ModuleType:
    path = Path(name.removesuffix(".py"))
    module = path.name if name.endswith(".py") or len(path.parts) > 1 else name
    folder = directory / path.parent if (directory / path.parent / f"{module}.py").exists() else directory
    own_file = folder / f"{module}.py"
    if not own_file.exists() and module in BUILT_IN:
        return importlib.import_module(f"{_OURS}.{module}")
    if not own_file.exists() and module in _ABSENT:
        raise HandlerError(
            f"TorchServe's {module!r} is made for the package {_ABSENT[module]} and is not part of satrap: "
            "put a handler for it into the archive"
        )
    if folder != directory:
        sys.path.insert(0, str(folder))
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "ts":
            raise HandlerError(
                f"handler {name!r} imports {error.name!r}, which satrap does not have: docs/handlers.md lists "
                "what it has of TorchServe's modules"
            ) from error
        if error.name != module.partition(".")[0]:
            raise
        raise HandlerError(
            f"there is no module {module!r} for handler {name!r}, neither in the archive nor installed"
        ) from error
    if own_file.exists() and Path(imported.__file__ or "") != own_file:
        raise HandlerError(
            f"the archive's {module}.py is hidden by {imported.__file__}, which was imported before: rename it"
        )
    return imported


def _one_class(module: ModuleType) -> type:
    classes = list_classes_from_module(module)
    # A model file in the model-servers style may define its model's classes beside the one that the factory made.
    made = [c for c in classes if getattr(c, "is_made_by_factory", False)]
    if len(made) == 1:
        return made[0]
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "none"
        raise HandlerError(
            "Expected only one class in custom service code or a function entry point "
            f"(module {module.__name__!r} defines {found})"
        )
    return classes[0]


def _initialized(handler_class: type, context: Context) -> EntryPoint:
    for method in ("initialize", "handle"):
        if not callable(getattr(handler_class, method, None)):
            raise HandlerError(f"class {handler_class.__name__} has no method {method!r}")
    service = handler_class()
    service.initialize(context)
    entry: EntryPoint = service.handle
    return entry
