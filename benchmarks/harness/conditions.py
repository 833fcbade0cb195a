"""On what a run was made: without it a figure says nothing."""

import datetime
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

import satrap

__all__ = ["conditions"]

_PACKAGES = ("numpy", "torch", "grpcio", "protobuf")


def conditions() -> dict[str, str | int | float | dict[str, str]]:
    """Machine, versions, commit, load and time, as they are now."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "satrap": f"{satrap.__version__} ({_commit()})",
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "load_average": os.getloadavg()[0],
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    if shutil.which("git") is None:
        return "commit unknown"
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "commit unknown"
