"""Which device PERSIA's `device_id` means here."""

import functools
import logging

import torch

from satrap.errors import InvalidInputError

__all__ = ["device_of"]

log = logging.getLogger(__name__)


def device_of(device_id: int | None) -> torch.device:
    """The GPU of that number; None or a negative number means the CPU.

    Device 0, which PERSIA's tutorials pass everywhere, means the CPU on a machine without a GPU.

    Raises:
        InvalidInputError: there is no such GPU.
    """
    if device_id is None or device_id < 0:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device_id < count:
        return torch.device("cuda", device_id)
    if device_id == 0:
        _say_once_that_the_cpu_is_used()
        return torch.device("cpu")
    raise InvalidInputError(
        f"device_id {device_id}: this machine has {count} GPUs, numbered from 0; None means the CPU"
    )


@functools.cache
def _say_once_that_the_cpu_is_used() -> None:
    log.warning("there is no GPU on this machine: device 0 means the CPU (this is said once)")
