"""The server's metrics as lines of the log, for those that /metrics does not tell."""

from collections.abc import Sequence

from satrap.serving.metrics.definitions import Definitions
from satrap.serving.metrics.families import Labels
from satrap.serving.metrics.lines import MetricLines
from satrap.serving.metrics.torchserve import LEGACY, TORCHSERVE
from satrap.serving.observation import UNITS, Observation
from satrap.serving.request import Prediction, Request

__all__ = ["ServerLines", "named_labels"]

_HOST = (("Level", "Host"),)


def named_labels(model: str, version: str, hostname: str) -> Labels:
    """The labels of TorchServe's counters of a version, as requests name it: by its number, or not at all."""
    return (
        ("model_name", model),
        ("model_version", version or "default"),
        ("hostname", hostname),
    )


class ServerLines:
    """Writes what the server measured itself, and what it took from a handler."""

    def __init__(self, hostname: str, definitions: Definitions, *, with_legacy: bool) -> None:
        """Every line names this host; `with_legacy`: the counters `ts_` are written as well."""
        self._hostname, self._lines = hostname, MetricLines(hostname)
        given = TORCHSERVE if definitions.server is None else definitions.server
        names = {one.name for one in given} - (frozenset() if with_legacy else LEGACY)
        self._written = {one.name: one for one in TORCHSERVE if one.name in names}

    def write(self, name: str, value: float, labels: Labels, request_id: str = "") -> None:
        """One of TorchServe's metrics, if it is written."""
        definition = self._written.get(name)
        if definition is not None:
            self._lines.write(name, definition.unit, value, definition.type, labels, request_id)

    def write_batch(self, model: str, requests: Sequence[Request], predictions: Sequence[Prediction]) -> None:
        """A batch, request by request; what handlers reported has its lines already."""
        for request, prediction in zip(requests, predictions, strict=True):
            named = named_labels(model, request.query.version, self._hostname)
            queued, total = prediction.queue_seconds, prediction.queue_seconds + prediction.worker_seconds
            handler_ms = prediction.times.get("handler", 0.0)
            self.write("ts_inference_requests_total", 1.0, named, request.id)
            self.write("ts_inference_latency_microseconds", total * 1e6, named, request.id)
            self.write("ts_queue_latency_microseconds", queued * 1e6, named, request.id)
            self.write("QueueTime", queued * 1e3, _HOST, request.id)
            thread_ms = max(prediction.worker_seconds * 1e3 - handler_ms, 0.0)
            self.write("WorkerThreadTime", thread_ms, _HOST, request.id)
            labels = (("ModelName", model), ("Level", "Model"))
            self._lines.write("PredictionTime", UNITS["ms"], handler_ms, "gauge", labels, request.id)

    def write_observation(
        self, name: str, observation: Observation, labels: Labels, requests: Sequence[Request]
    ) -> None:
        """A handler's value under the name that it has in Prometheus."""
        place = observation.request
        of = requests[place] if place is not None and 0 <= place < len(requests) else requests[0]
        unit = UNITS.get(observation.unit, observation.unit)
        self._lines.write(name, unit, observation.value, observation.type, labels, of.id)
