"""TorchServe's own metrics of the server: their names, and how a metrics file may change them."""

import logging

from satrap.serving.metrics.definitions import Definition, Definitions

__all__ = ["LEGACY", "TORCHSERVE", "warn_of_other_definitions"]

log = logging.getLogger("satrap.serving")

_HOST = ("Level", "Hostname")
_MODEL = ("model_name", "model_version", "hostname")
_GPU = ("Level", "DeviceId", "Hostname")

TORCHSERVE = (
    Definition("counter", "Requests2XX", "Count", _HOST),
    Definition("counter", "Requests4XX", "Count", _HOST),
    Definition("counter", "Requests5XX", "Count", _HOST),
    Definition("counter", "ts_inference_requests_total", "Count", _MODEL),
    Definition("counter", "ts_inference_latency_microseconds", "Microseconds", _MODEL),
    Definition("counter", "ts_queue_latency_microseconds", "Microseconds", _MODEL),
    Definition("gauge", "QueueTime", "Milliseconds", _HOST),
    Definition("gauge", "WorkerThreadTime", "Milliseconds", _HOST),
    Definition("gauge", "WorkerLoadTime", "Milliseconds", ("WorkerName", *_HOST)),
    Definition("gauge", "CPUUtilization", "Percent", _HOST),
    Definition("gauge", "MemoryUsed", "Megabytes", _HOST),
    Definition("gauge", "MemoryAvailable", "Megabytes", _HOST),
    Definition("gauge", "MemoryUtilization", "Percent", _HOST),
    Definition("gauge", "DiskUsage", "Gigabytes", _HOST),
    Definition("gauge", "DiskUtilization", "Percent", _HOST),
    Definition("gauge", "DiskAvailable", "Gigabytes", _HOST),
    Definition("gauge", "GPUMemoryUtilization", "Percent", _GPU),
    Definition("gauge", "GPUMemoryUsed", "Megabytes", _GPU),
    Definition("gauge", "GPUUtilization", "Percent", _GPU),
)
"""In the order of TorchServe's file."""

LEGACY = frozenset(definition.name for definition in TORCHSERVE if definition.name.startswith("ts_"))
"""Those that TorchServe tells at `/metrics` in its mode "legacy"; it logs the others."""


def warn_of_other_definitions(definitions: Definitions) -> None:
    """The names of the server's metrics and their labels are what they are; a file may leave some out."""
    ours = {definition.name: definition for definition in TORCHSERVE}
    for given in definitions.server or ():
        known = ours.get(given.name)
        if known is None:
            log.warning("serving.metrics_config: ts_metrics names %s, which no server has", given.name)
        elif (given.type, given.dimensions) != (known.type, known.dimensions):
            log.warning(
                "serving.metrics_config: %s stays a %s with the dimensions %s",
                *(given.name, known.type, ", ".join(known.dimensions)),
            )
