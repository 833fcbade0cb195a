"""GPUs by the driver's own library (NVML), if this machine has it: no process, no other package.

https://docs.nvidia.com/deploy/nvml-api/
"""

import ctypes
from dataclasses import dataclass
from typing import Self

from satrap.errors import UnavailableError

__all__ = ["LIBRARY", "GpuReading", "Gpus"]

LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class GpuReading:
    """One GPU: percent of the last moments in which it worked, and bytes of its memory."""

    device: int
    utilization: float | None
    used_bytes: int
    total_bytes: int


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """The library, from `open` to `close`. Its calls may take milliseconds: not for an event loop."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Take over a library that is initialised."""
        self._library = library

    @classmethod
    def open(cls, name: str = LIBRARY) -> Self | None:
        """Load the library and initialise it; None where the machine has no such driver.

        Raises:
            UnavailableError: the driver is there and cannot be used.
        """
        try:
            library = ctypes.CDLL(name)
        except OSError:
            return None
        _check("nvmlInit_v2", library.nvmlInit_v2())
        return cls(library)

    def read(self) -> list[GpuReading]:
        """All GPUs as they are now; one that does not tell its utilization has none.

        Raises:
            UnavailableError: the driver does not answer.
        """
        count = ctypes.c_uint()
        _check("nvmlDeviceGetCount_v2", self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        return [self._read(device) for device in range(count.value)]

    def close(self) -> None:
        """Let go of the driver."""
        self._library.nvmlShutdown()

    def _read(self, device: int) -> GpuReading:
        handle = ctypes.c_void_p()
        found = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(device), ctypes.byref(handle))
        _check("nvmlDeviceGetHandleByIndex_v2", found)
        memory, utilization = _Memory(), _Utilization()
        _check("nvmlDeviceGetMemoryInfo", self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)))
        told = self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(utilization))
        return GpuReading(device, None if told else float(utilization.gpu), memory.used, memory.total)


def _check(call: str, status: int) -> None:
    if status:
        raise UnavailableError(
            f"the NVIDIA driver answered {call} with error {status}: does nvidia-smi work?"
        )
