"""What a serving process's metrics need of its configuration, and what is looked at now and then."""

import asyncio
import time
from pathlib import Path

from satrap.config.global_config import ServingConfig
from satrap.serving.metrics.definitions import Definitions, read_definitions
from satrap.serving.metrics.server_metrics import ServerMetrics
from satrap.serving.metrics.system import SystemReader

__all__ = ["definitions_of", "keep_current"]


def definitions_of(config: ServingConfig) -> Definitions:
    """What `metrics_config` says.

    Raises:
        ConfigError: the file cannot be used.
    """
    if not config.metrics_config:
        return Definitions()
    return read_definitions(Path(config.metrics_config), auto_detect=config.metrics_auto_detect)


async def keep_current(metrics: ServerMetrics, config: ServingConfig) -> None:
    """Look at the machine, and for versions that are gone, every `system_metrics_seconds`, until it is cancelled."""
    system = SystemReader() if config.system_metrics else None
    try:
        while True:
            for reading in await asyncio.to_thread(system.read) if system else ():
                metrics.set_system(reading.name, reading.value, reading.device)
            metrics.sweep(time.monotonic())
            await asyncio.sleep(config.system_metrics_seconds)
    finally:
        if system is not None:
            system.close()
