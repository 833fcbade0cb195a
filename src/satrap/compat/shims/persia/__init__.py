"""PERSIA's names, as far as clients and handlers use them, for satrap's own implementation."""

import importlib
from types import ModuleType

_MODULES = ("ctx", "embedding", "logger", "prelude", "service")


def __getattr__(name: str) -> ModuleType:
    # As in PERSIA, `import persia` is enough for `persia.ctx`; but a client's machine needs no torch, which that
    # imports, so a module is loaded when it is used.
    if name in _MODULES:
        return importlib.import_module(f"persia.{name}")
    raise AttributeError(f"module 'persia' has no attribute {name!r}")
