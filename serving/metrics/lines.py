"""Metrics as lines of the log, in the form that TorchServe's log has and that collectors of logs read."""

import logging
import time
from collections.abc import Iterable

__all__ = ["MetricLines"]

log = logging.getLogger("satrap.serving.metrics")


class MetricLines:
    """Writes `name.unit:value|#dimension:value,...|#type:GAUGE|#hostname:host,seconds[,request id]`."""

    def __init__(self, hostname: str) -> None:
        """Every line names this host."""
        self._hostname = hostname

    def write(
        self,
        name: str,
        unit: str,
        value: float,
        kind: str,
        labels: Iterable[tuple[str, str]],
        request_id: str = "",
    ) -> None:
        """One line; a label `Hostname` stands at the end with the time."""
        dimensions = ",".join(f"{key}:{given}" for key, given in labels if key.lower() != "hostname")
        end = f"{self._hostname},{int(time.time())}" + (f",{request_id}" if request_id else "")
        log.info("%s.%s:%s|#%s|#type:%s|#hostname:%s", name, unit, value, dimensions, kind.upper(), end)
