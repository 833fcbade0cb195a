"""Builds native/benchmarks and runs its cases, which measure the table without Python."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.processes import ChildFailedError

__all__ = ["build", "run_case"]

_ROOT = Path(__file__).resolve().parents[2]
_TARGET = "table_benchmark"


def build(folder: Path) -> Path:
    """Build the program, optimised, in `folder`; what is there already is only brought up to date.

    Raises:
        ChildFailedError: CMake or the compiler fails; the text ends with what they said.
    """
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake = shutil.which("cmake", path=tools)
    if cmake is None:
        raise ChildFailedError("cmake is missing: `make setup` installs it into .venv")
    options = ("-DSATRAP_PYTHON=OFF", "-DSATRAP_BENCHMARKS=ON", "-DCMAKE_BUILD_TYPE=Release")
    environ = {**os.environ, "PATH": tools}
    for command in (
        [cmake, "-S", str(_ROOT), "-B", str(folder), "-G", "Ninja", *options],
        [cmake, "--build", str(folder), "--target", _TARGET],
    ):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ChildFailedError(f"cmake failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return folder / "native" / "benchmarks" / _TARGET


def run_case(
    program: Path, case: str, flags: dict[str, int | float], on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run one case with `--name value` flags, its tables in a folder in shared memory; returns what it measured.

    Raises:
        ChildFailedError: it fails; the text ends with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="satrap-bench-", dir="/dev/shm") as folder:
        command = [str(program), case, "--folder", folder]
        command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        said: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            try:
                for line in child.stderr:
                    said.append(line)
                    on_progress(f"{case}: {line.strip()}")
                output = child.stdout.read()
            except BaseException:
                child.kill()
                raise
        if child.returncode != 0:
            raise ChildFailedError(f"{_TARGET} {case} failed:\n{''.join(said[-10:])}")
    measured: dict[str, Any] = json.loads(output)
    return measured
