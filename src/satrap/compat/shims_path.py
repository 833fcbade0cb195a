"""Where the shims are, and how they come to be found: one more folder on the import path, nothing else.

`shims/` holds the plain packages `persia` and `ts`, which re-export what is in satrap. It is no package itself,
so that they have these very names.
"""

from pathlib import Path

__all__ = ["SHIMS", "put_first"]

SHIMS = Path(__file__).parent / "shims"
"""The folder to have on `sys.path` so that `import persia` and `import ts` find satrap's."""


def put_first(path: list[str]) -> None:
    """Move or add the shims to the front of an import path such as `sys.path`."""
    shims = str(SHIMS)
    path[:] = [shims, *(entry for entry in path if entry != shims)]
