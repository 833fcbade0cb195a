"""Finding classes by where they are defined: handlers and models are named by their modules."""

import importlib
import inspect
from types import ModuleType
from typing import Any

__all__ = ["import_class", "list_classes_from_module"]


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that the module itself defines, by name: those that it merely imports are not among them.

    Args:
        module: Where to look.
        parent_class: Only those that derive from it.
    """
    # By attribute and not by identity: one class under two names counts once.
    found = {
        id(value): value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__
    }
    return [c for c in found.values() if parent_class is None or issubclass(c, parent_class)]


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class of that name, `package.module.Class`.

    Args:
        class_name: Its name, with the module unless `module_prefix` is the module.
        module_prefix: What stands before the module.

    Raises:
        ImportError: there is no such module, or no such class in it.
    """
    path, _, name = (class_name or "").rpartition(".")
    module_name = ".".join(part for part in (module_prefix, path) if part)
    if not name or not module_name:
        raise ImportError(f"{class_name!r} names no class: it is package.module.Class")
    found = getattr(importlib.import_module(module_name), name, None)
    if found is None:
        raise ImportError(f"there is no class {name!r} in module {module_name!r}")
    return found
