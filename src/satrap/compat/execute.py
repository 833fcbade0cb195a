"""`satrap exec`: a script run by Python itself, with the shims first on its import path."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from satrap.compat.shims_path import put_first

__all__ = ["Execution", "execute", "plan"]


@dataclass(frozen=True, slots=True)
class Execution:
    """The process to become: an argument list and an environment."""

    arguments: list[str]
    environment: dict[str, str]


def plan(script: str, args: Sequence[str], environ: Mapping[str, str], folder: str) -> Execution:
    """Say how to run `script` with the import path [shims, the script's folder, PYTHONPATH, ...].

    `PYTHONPATH` can only add entries behind the script's folder, so that folder is given in it as well and
    Python is told (`-P`) not to put it first. Processes that the script starts inherit the shims, as they would
    see an installed `persia`.

    Args:
        script: A path, or `-` for standard input.
        args: What the script finds in `sys.argv[1:]`.
        environ: The environment to run in.
        folder: The absolute path of the script's folder.
    """
    given = environ.get("PYTHONPATH")
    path = given.split(os.pathsep) if given else []
    put_first(path)
    safe_path = []
    # A folder with the separator in its name cannot be in PYTHONPATH: then it is first and the shims second.
    if os.pathsep not in folder:
        path.insert(1, folder)
        safe_path = ["-P"]
    return Execution(
        arguments=[sys.executable, *safe_path, script, *args],
        environment={**environ, "PYTHONPATH": os.pathsep.join(path)},
    )


def execute(script: str, args: Sequence[str]) -> NoReturn:
    """Become `python SCRIPT ARGS`: this process is replaced, so everything is as Python does it.

    That holds for `sys.argv`, `__main__`, exit statuses, tracebacks, signals, and for a script that is `-` or
    is not there. `persia` and `ts` are satrap's.
    """
    folder = Path.cwd() if script == "-" else Path(script).resolve().parent
    execution = plan(script, args, os.environ, str(folder))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, execution.arguments, execution.environment)  # noqa: S606 - no shell is wanted
