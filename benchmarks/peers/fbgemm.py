"""Embedding bags with known row numbers as peers: torch's of this environment, FBGEMM's in one of its own.

FBGEMM's operators are built for one version of torch each, so they get an environment where the two agree.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["REQUIREMENTS", "NotInstalledError", "install", "measure_bags"]

REQUIREMENTS = ("torch==2.13.0", "fbgemm-gpu-cpu==1.8.0", "numpy==2.4.6")

_SCRIPT = Path(__file__).with_name("embedding_bags.py")


class NotInstalledError(Exception):
    """FBGEMM cannot be used here; the text is what pip or the import said."""


def install(environment: Path) -> Path:
    """Make a virtual environment with FBGEMM in it, unless it is there already; returns its interpreter.

    Raises:
        NotInstalledError: pip fails, or the package cannot be imported.
    """
    python = environment / "bin" / "python"
    stamp = environment / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing FBGEMM into {environment} (once; torch is some hundred MB)", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [str(environment / "bin" / "pip"), "install", "-qq", *REQUIREMENTS],
        [str(python), "-c", "import fbgemm_gpu"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise NotInstalledError(lines[-1] if lines else f"{command[0]} failed")
    stamp.write_text(wanted)
    return python


def measure_bags(python: Path, flags: Mapping[str, int | float]) -> dict[str, dict[str, list[float]]]:
    """ns/id of every round, by draw and way, of the bags that an interpreter has.

    Raises:
        NotInstalledError: the measurement fails there.
    """
    command = [str(python), str(_SCRIPT)]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise NotInstalledError(lines[-1] if lines else "no reason given")
    result: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
    return result
