"""Which devices a version's workers get, as TorchServe gives them: GPUs by turns, or the CPU."""

import logging
from collections.abc import Sequence

__all__ = ["choose_devices", "device_of"]

log = logging.getLogger("satrap.serving")


def choose_devices(
    name: str, device_type: str | None, device_ids: Sequence[int], gpus: int
) -> tuple[int, ...]:
    """The indices of a version's GPUs; empty: its workers run on the CPU.

    What its config file asks for and this machine does not have is a warning in the log.

    Args:
        name: The version's, for the log.
        device_type: `cpu`, `gpu` or `neuron`; None: a GPU where there is one, as in TorchServe.
        device_ids: Only these; empty: all.
        gpus: How many this machine has.
    """
    if device_type == "cpu":
        return ()
    if device_type == "neuron":
        log.warning("%s: deviceType neuron is not served here, its workers run on the CPU", name)
        return ()
    if gpus == 0:
        if device_type == "gpu":
            log.warning("%s: deviceType is gpu and there is no GPU, its workers run on the CPU", name)
        return ()
    absent = [device for device in device_ids if device >= gpus]
    present = tuple(device for device in device_ids if device < gpus)
    if absent:
        log.warning(
            "%s: deviceIds %s are not there: this machine has %d, its workers use %s",
            *(name, absent, gpus, list(present) or "all"),
        )
    return present or tuple(range(gpus))


def device_of(devices: Sequence[int], worker: int) -> int | None:
    """The GPU of a worker with that number, which keeps it when it is started again; None: the CPU."""
    return devices[worker % len(devices)] if devices else None
