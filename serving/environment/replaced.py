"""What an environment holds in another version than this process has loaded.

A fork of the template starts with the template's modules, so packages that come first in `sys.path` do not help
where a module of the same name is loaded already.
"""

import importlib.metadata
import sys
from collections.abc import Container
from pathlib import Path, PurePosixPath

__all__ = ["distributions", "replaced"]

_EXTENSIONS = (".py", ".so", ".pyd")


def distributions(packages: Path) -> dict[str, importlib.metadata.Distribution]:
    """The distributions in that site-packages directory, by normalised name."""
    found = importlib.metadata.distributions(path=[str(packages)])
    return {_normalised(each.metadata["Name"]): each for each in found}


def replaced(packages: Path, loaded: Container[str]) -> list[str]:
    """The distributions of `packages` that take the place of modules in `loaded`, in words, sorted.

    One that the server has in the same version takes nobody's place.
    """
    found = []
    for name, distribution in distributions(packages).items():
        servers = _server_version(name, packages)
        if servers != distribution.version and any(module in loaded for module in _modules(distribution)):
            found.append(f"{name} {distribution.version} (the server's: {servers or 'none of that name'})")
    return sorted(found)


def _server_version(name: str, packages: Path) -> str | None:
    path = [entry for entry in sys.path if entry != str(packages)]
    found = next(iter(importlib.metadata.distributions(name=name, path=path)), None)
    return found.version if found else None


def _modules(distribution: importlib.metadata.Distribution) -> set[str]:
    return {name for file in distribution.files or () if (name := _module(PurePosixPath(str(file))))}


def _module(file: PurePosixPath) -> str:
    """`a/b/c.py` is a.b.c, `a/__init__.py` is a, `a/b.cpython-311.so` is a.b; others are none."""
    if file.suffix not in _EXTENSIONS or file.is_absolute() or ".." in file.parts:
        return ""
    stem = file.name.partition(".")[0]
    parts = file.parts[:-1] if stem == "__init__" else (*file.parts[:-1], stem)
    return ".".join(parts) if all(part.isidentifier() for part in parts) else ""


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
