"""How many processors and GPUs this process may use: what TorchServe starts workers by."""

import math
import os
import re
from pathlib import Path

__all__ = ["available_gpus", "available_processors"]


def available_processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The processors that this process may run on, or fewer where a container's share of time is smaller."""
    count = len(os.sched_getaffinity(0))
    share = _share(cgroup)
    return count if share is None else max(1, min(count, math.ceil(share)))


def _share(cgroup: Path) -> float | None:
    """How many processors' time the control group allows; None: no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()  # version 1
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # `max`, or -1
        return None
    return int(quota) / int(period)


def available_gpus(devices: Path = Path("/dev")) -> int:
    """The NVIDIA GPUs that this machine, or container, has."""
    return sum(bool(re.fullmatch(r"nvidia\d+", entry.name)) for entry in devices.iterdir())
