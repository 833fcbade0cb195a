"""The machine's processors, memory, disk and GPUs, as TorchServe names them: a few reads of /proc, no process.

The first value of CPUUtilization is the mean since the machine was started; each later one since the one before.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from satrap.errors import UnavailableError
from satrap.serving.metrics.gpus import GpuReading, Gpus

__all__ = [
    "CpuTimes",
    "Reading",
    "SystemReader",
    "cpu_times",
    "cpu_utilization",
    "disk_metrics",
    "gpu_metrics",
    "memory_metrics",
]

log = logging.getLogger("satrap.serving")

_MEGABYTE, _GIGABYTE = 1024**2, 1024**3


@dataclass(frozen=True)
class CpuTimes:
    """Ticks of all processors together since the machine was started."""

    busy: int
    total: int


def cpu_times(stat: str) -> CpuTimes:
    """From /proc/stat's text.

    Raises:
        ValueError: it has no first line of all processors.
    """
    label, _, rest = stat.partition("\n")[0].partition(" ")
    if label != "cpu":
        raise ValueError("/proc/stat does not begin with the line of all processors")
    user, nice, system, idle, iowait, *more = (int(word) for word in rest.split())
    busy = user + nice + system + sum(more[:3])  # irq, softirq, steal; guests are in user already
    return CpuTimes(busy, busy + idle + iowait)


def cpu_utilization(before: CpuTimes, now: CpuTimes) -> float:
    """Percent of the time between that processors were busy; 0 where no time has passed."""
    passed = now.total - before.total
    return 100.0 * max(now.busy - before.busy, 0) / passed if passed > 0 else 0.0


def memory_metrics(meminfo: str) -> dict[str, float]:
    """Used, available (megabytes) and utilization (percent), from /proc/meminfo's text.

    Raises:
        ValueError: a line that is needed is missing.
    """
    kilobytes: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            kilobytes[name] = int(words[0])
    try:
        total, available = kilobytes["MemTotal"], kilobytes["MemAvailable"]
    except KeyError as error:
        raise ValueError(f"/proc/meminfo has no line {error}") from None
    used = total - available
    return {
        "MemoryUsed": used * 1024 / _MEGABYTE,
        "MemoryAvailable": available * 1024 / _MEGABYTE,
        "MemoryUtilization": 100.0 * used / total if total else 0.0,
    }


def disk_metrics(path: str) -> dict[str, float]:
    """Used, available (gigabytes) and utilization (percent) of the file system at `path`.

    As `df` counts: what only root may use is neither used nor available.

    Raises:
        OSError: there is none.
    """
    disk = os.statvfs(path)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    available = disk.f_bavail * disk.f_frsize
    return {
        "DiskUsage": used / _GIGABYTE,
        "DiskAvailable": available / _GIGABYTE,
        "DiskUtilization": 100.0 * used / (used + available) if used + available else 0.0,
    }


@dataclass(frozen=True)
class Reading:
    """One of TorchServe's metrics of the machine; `device` is a GPU's number."""

    name: str
    value: float
    device: int | None = None


class SystemReader:
    """Reads now and then what has become of the machine."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        disk: str = "/",
        open_gpus: Callable[[], Gpus | None] = Gpus.open,
    ) -> None:
        """Nothing is read before the first `read`."""
        self._proc, self._disk, self._open_gpus = proc, disk, open_gpus
        self._before = CpuTimes(0, 0)
        self._gpus: Gpus | None = None
        self._is_gpu_asked = False
        self._absent: set[str] = set()

    def read(self) -> list[Reading]:
        """What there is to tell; what cannot be read is left out, and is logged once.

        Files of /proc never wait for a disk, but a GPU's driver may take milliseconds.
        """
        return [
            *self._part("processors", self._cpu),
            *self._part("memory", lambda: memory_metrics((self._proc / "meminfo").read_text())),
            *self._part("disk", lambda: disk_metrics(self._disk)),
            *self._gpu_readings(),
        ]

    def close(self) -> None:
        """Let go of what is open."""
        if self._gpus is not None:
            self._gpus.close()
            self._gpus = None

    def _cpu(self) -> dict[str, float]:
        before, self._before = self._before, cpu_times((self._proc / "stat").read_text())
        return {"CPUUtilization": cpu_utilization(before, self._before)}

    def _part(self, what: str, read: Callable[[], dict[str, float]]) -> list[Reading]:
        try:
            return [Reading(name, value) for name, value in read().items()]
        except (OSError, ValueError) as error:
            self._complain(what, error)
            return []

    def _gpu_readings(self) -> list[Reading]:
        try:
            if not self._is_gpu_asked:
                self._is_gpu_asked = True
                self._gpus = self._open_gpus()
            return gpu_metrics(self._gpus.read()) if self._gpus is not None else []
        except UnavailableError as error:
            self._complain("GPUs", error)
            return []

    def _complain(self, what: str, error: Exception) -> None:
        if what not in self._absent:
            self._absent.add(what)
            log.warning("there are no metrics of this machine's %s: %s", what, error)


def gpu_metrics(gpus: Iterable[GpuReading]) -> list[Reading]:
    """What TorchServe tells of GPUs: memory in megabytes, utilization in percent."""
    readings: list[Reading] = []
    for gpu in gpus:
        share = 100.0 * gpu.used_bytes / gpu.total_bytes if gpu.total_bytes else 0.0
        readings.append(Reading("GPUMemoryUsed", gpu.used_bytes / _MEGABYTE, gpu.device))
        readings.append(Reading("GPUMemoryUtilization", share, gpu.device))
        if gpu.utilization is not None:
            readings.append(Reading("GPUUtilization", gpu.utilization, gpu.device))
    return readings
