"""The server's metrics: TorchServe's, whose names dashboards know, and satrap's own beside them.

What TorchServe counts for REST only is counted for gRPC as well. `docs/metrics.md` lists every name.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from satrap.errors import (
    DeadlineError,
    NoWorkerError,
    OverloadedError,
    SatrapError,
    WorkerDiedError,
    WorkerStartError,
)
from satrap.serving.metrics.definitions import Definition, Definitions
from satrap.serving.metrics.families import Distribution, Family, Labels, Number, Registry
from satrap.serving.metrics.handler_table import HandlerTable, help_text, metric_name
from satrap.serving.metrics.live import LiveVersion
from satrap.serving.metrics.server_lines import ServerLines, named_labels
from satrap.serving.metrics.text import text
from satrap.serving.metrics.torchserve import LEGACY, TORCHSERVE, warn_of_other_definitions
from satrap.serving.observation import PHASE, Observation
from satrap.serving.refusal import Refusal
from satrap.serving.request import OK, Prediction, Request
from satrap.serving.roster import WorkerState

__all__ = ["KEPT_SECONDS", "ServerMetrics"]

KEPT_SECONDS = 600.0
"""The metrics of a version that is gone stay so long, for whoever has not read them yet."""

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_REASONS: tuple[tuple[type[SatrapError], str], ...] = (
    (OverloadedError, "overloaded"),
    (DeadlineError, "deadline"),
    (NoWorkerError, "no worker"),
    (WorkerDiedError, "worker died"),
    (WorkerStartError, "worker start"),
)


@dataclass(slots=True)
class _Named:
    """TorchServe's counters of one version as requests name it: by its number, or not at all."""

    requests: Number
    latency: Number
    queue: Number


@dataclass(slots=True)
class _Version:
    """The values of one version, which every request changes: looked up once."""

    labels: Labels
    answered: dict[str, Number]
    request: Distribution
    queue: Distribution
    batch_size: Distribution
    handler: Distribution
    prediction: Number | None = None
    """Not before the first prediction: a model that never answered one took no time for it."""
    named: dict[str, _Named] = field(default_factory=dict)
    phases: dict[str, Distribution] = field(default_factory=dict)


class ServerMetrics:
    """Is told what happens (`satrap.serving.observer`), and tells `/metrics`. Belongs to the frontend's loop."""

    def __init__(
        self,
        *,
        hostname: str,
        mode: str = "prometheus",
        definitions: Definitions = Definitions(),  # noqa: B008  frozen
        live: Callable[[], Iterable[LiveVersion]] = tuple,
    ) -> None:
        """Begin with every name and no values.

        `mode` is TorchServe's: "prometheus" tells all, "legacy" tells its three `ts_` counters and logs the rest,
        "log" logs all. `live` are the versions that are there when it is called.
        """
        self._hostname, self._mode, self._live = hostname, mode, live
        self._lines = (
            ServerLines(hostname, definitions, with_legacy=mode != "legacy") if mode != "prometheus" else None
        )
        self._told = None if definitions.server is None else {one.name for one in definitions.server}
        warn_of_other_definitions(definitions)
        self.registry = registry = Registry()
        self._torchserve = {one.name: _declare(registry, one) for one in TORCHSERVE}
        host = (("Level", "Host"), ("Hostname", hostname))
        self._queue_time = self._torchserve["QueueTime"].labels(*host)
        self._thread_time = self._torchserve["WorkerThreadTime"].labels(*host)
        self._statuses = {kind: self._torchserve[f"Requests{kind}XX"].labels(*host) for kind in (2, 4, 5)}
        self._requests = registry.counter("satrap_requests_total", "Requests that reached a version.")
        self._failures = registry.counter(
            "satrap_request_failures_total", "Requests that got an error, by reason."
        )
        self._refused_requests = registry.counter(
            "satrap_refused_requests_total", "Requests that were refused before an API had them, by reason."
        )
        self._request_seconds = registry.histogram(
            "satrap_request_seconds", "From a request's arrival to its answer."
        )
        self._queue_seconds = registry.histogram(
            "satrap_queue_seconds", "From a request's arrival until a worker got it."
        )
        self._batch_size = registry.histogram("satrap_batch_size", "Requests in a batch.", _SIZES)
        self._handler_seconds = registry.histogram(
            "satrap_handler_seconds", "A handler's whole call, for a batch."
        )
        self._phase_seconds = registry.histogram(
            PHASE, "Parts of a handler's call that it reported, for a batch."
        )
        self._stale = registry.counter("satrap_stale_answers_total", "Answers that were marked as stale.")
        self._staleness = registry.gauge(
            "satrap_staleness_seconds", "Age of the newest event in the last answer's embeddings."
        )
        self._waiting = registry.gauge("satrap_queue_length", "Requests that wait for a worker.")
        self._workers = registry.gauge("satrap_workers", "Workers by state.")
        self._refused = registry.counter(
            "satrap_refused_observations_total", "Values of handlers' metrics that were not taken."
        ).labels()
        self._handlers = HandlerTable(registry, hostname, definitions)
        self._prediction_time = registry.get("PredictionTime")
        self._versions: dict[tuple[str, str], _Version] = {}
        self._gone_since: dict[tuple[str, str], float] = {}

    # ---- Observer ----

    def answered(
        self,
        model: str,
        version: str,
        worker: int,
        requests: Sequence[Request],
        predictions: Sequence[Prediction],
        observations: Sequence[Observation],
    ) -> None:
        """Part of `Observer`."""
        if requests[0].query.is_description:
            return
        values = self._version(model, version)
        first = predictions[0]
        handler_ms = first.times.get("handler", 0.0)
        for request, prediction in zip(requests, predictions, strict=True):
            query = request.query
            named = values.named.get(query.version) or self._name(values, model, query.version)
            queued, total = prediction.queue_seconds, prediction.queue_seconds + prediction.worker_seconds
            named.requests.value += 1
            named.latency.value += total * 1e6
            named.queue.value += queued * 1e6
            values.answered[query.protocol].value += 1
            values.request.observe(total)
            values.queue.observe(queued)
            if prediction.code != OK:
                self._failed(values, "handler")
        values.batch_size.observe(len(requests))
        values.handler.observe(handler_ms / 1e3)
        if values.prediction is None:
            values.prediction = self._prediction(model)
        values.prediction.value = handler_ms
        self._queue_time.value = queued * 1e3
        self._thread_time.value = max(first.worker_seconds * 1e3 - handler_ms, 0.0)
        if first.staleness_ms is not None:
            self._staleness.labels(*values.labels).value = first.staleness_ms / 1e3
        stale = sum(prediction.is_stale for prediction in predictions)
        if stale:
            self._stale.labels(*values.labels).value += stale
        for observation in observations:
            self._observe(values, model, observation, requests)
        if self._lines is not None:
            self._lines.write_batch(model, requests, predictions)

    def failed(self, model: str, version: str, request: Request, error: SatrapError | None) -> None:
        """Part of `Observer`."""
        query = request.query
        if query.is_description:
            return
        values = self._version(model, version)
        named = values.named.get(query.version) or self._name(values, model, query.version)
        named.requests.value += 1
        values.answered[query.protocol].value += 1
        self._failed(values, _reason(error))
        if self._lines is not None:
            labels = named_labels(model, query.version, self._hostname)
            self._lines.write("ts_inference_requests_total", 1.0, labels, request.id)

    def loaded(self, model: str, version: str, worker: int, seconds: float) -> None:
        """Part of `Observer`."""
        labels = (
            ("WorkerName", f"W-{worker}-{model}_{version}"),
            ("Level", "Host"),
            ("Hostname", self._hostname),
        )
        milliseconds = round(seconds * 1e3, 3)
        self._torchserve["WorkerLoadTime"].labels(*labels).value = milliseconds
        if self._lines is not None:
            self._lines.write("WorkerLoadTime", milliseconds, labels)

    # ---- calls and the machine ----

    def count_call(self, status: int) -> None:
        """A call of any API has ended with this HTTP status, or what would be that over REST."""
        kind = 2 if status < 400 else 4 if status < 500 else 5
        self._statuses[kind].value += 1
        if self._lines is not None:
            self._lines.write(f"Requests{kind}XX", 1.0, (("Level", "Host"),))

    def count_refused(self, api: str, reason: Refusal) -> None:
        """A request by `rest` or `grpc` was refused before an API had it; `count_call` hears of it as well."""
        self._refused_requests.labels(("api", api), ("reason", reason)).value += 1

    def set_system(self, name: str, value: float, device: int | None = None) -> None:
        """The machine's metric of TorchServe's name is this now; `device` is a GPU's number."""
        where = (("Level", "Host"),) if device is None else (("Level", "Host"), ("DeviceId", str(device)))
        self._torchserve[name].labels(*where, ("Hostname", self._hostname)).value = value
        if self._lines is not None:
            self._lines.write(name, value, where)

    # ---- what is told ----

    def render(self, names: Sequence[str] = ()) -> bytes:
        """Prometheus' text; of `names` only, if there are any."""
        if self._mode == "log":
            return b""
        self._look_around()
        self._refused.value = float(self._handlers.refused)
        return text((family for family in self.registry if self._is_told(family.name)), names)

    def sweep(self, now: float) -> None:
        """Drop the values of versions that have been gone for `KEPT_SECONDS`; `now` is of a monotonic clock."""
        live = list(self._live())
        there = {(one.model, one.version) for one in live}
        for key in there:
            self._gone_since.pop(key, None)
        for key in self._versions.keys() - there:
            self._gone_since.setdefault(key, now)
        gone = {key for key, since in self._gone_since.items() if now - since >= KEPT_SECONDS}
        if gone:
            self._forget(gone, {model for model, _ in there | (self._versions.keys() - gone)})
        workers = {f"W-{number}-{one.model}_{one.version}" for one in live for number in one.numbers}
        self._torchserve["WorkerLoadTime"].forget(lambda labels: dict(labels)["WorkerName"] not in workers)

    def _is_told(self, name: str) -> bool:
        if self._mode == "legacy":
            return name in LEGACY
        return self._told is None or name not in self._torchserve or name in self._told

    def _look_around(self) -> None:
        """Queues and workers as they are."""
        self._waiting.forget(lambda _: True)
        self._workers.forget(lambda _: True)
        for one in self._live():
            labels = _labels(one.model, one.version)
            self._waiting.labels(*labels).value += one.waiting
            for state in WorkerState:
                count = self._workers.labels(*labels, ("state", state.lower()))
                count.value += one.workers.get(state, 0)

    def _forget(self, gone: set[tuple[str, str]], models: set[str]) -> None:
        """Drop these versions' values; what all versions of a model share stays for the `models` that are left."""
        for key in gone:
            del self._gone_since[key]
            self._versions.pop(key, None)
        dropped = {_labels(*key) for key in gone}
        for family in self.registry:
            if family.name.startswith("satrap_"):
                family.forget(lambda labels: labels[:2] in dropped)
        models_gone = frozenset(model for model, _ in gone if model not in models)
        named = {*gone, *((model, "default") for model in models_gone)}
        for name in LEGACY:
            self._torchserve[name].forget(lambda labels: (labels[0][1], labels[1][1]) in named)
        self._handlers.forget(models_gone)

    # ---- one version ----

    def _version(self, model: str, version: str) -> _Version:
        values = self._versions.get((model, version))
        if values is None:
            labels = _labels(model, version)
            values = self._versions[model, version] = _Version(
                labels,
                {api: self._requests.labels(*labels, ("api", api)) for api in ("grpc", "rest")},
                self._request_seconds.labels(*labels),
                self._queue_seconds.labels(*labels),
                self._batch_size.labels(*labels),
                self._handler_seconds.labels(*labels),
            )
        return values

    def _prediction(self, model: str) -> Number:
        assert self._prediction_time is not None
        value = self._prediction_time.labels(
            ("ModelName", model), ("Level", "Model"), ("Hostname", self._hostname)
        )
        assert isinstance(value, Number)
        return value

    def _name(self, values: _Version, model: str, version: str) -> _Named:
        labels = named_labels(model, version, self._hostname)
        named = values.named[version] = _Named(
            *(
                self._torchserve[name].labels(*labels)
                for name in (
                    "ts_inference_requests_total",
                    "ts_inference_latency_microseconds",
                    "ts_queue_latency_microseconds",
                )
            )
        )
        return named

    def _failed(self, values: _Version, reason: str) -> None:
        self._failures.labels(*values.labels, ("reason", reason)).value += 1

    def _observe(
        self, values: _Version, model: str, observation: Observation, requests: Sequence[Request]
    ) -> None:
        if observation.name == PHASE:
            ((_, phase),) = observation.dimensions
            seconds = values.phases.get(phase)
            if seconds is None:
                seconds = self._phase_seconds.labels(*values.labels, ("phase", phase))
                values.phases[phase] = seconds
            seconds.observe(observation.value)
            return
        labels = self._handlers.observe(model, observation)
        if labels is not None and self._lines is not None:
            self._lines.write_observation(metric_name(observation.name), observation, labels, requests)


def _declare(registry: Registry, definition: Definition) -> Family[Number]:
    make = registry.counter if definition.type == "counter" else registry.gauge
    return make(definition.name, help_text(definition.type, definition.unit))


def _labels(model: str, version: str) -> Labels:
    return (("model", model), ("version", version))


def _reason(error: SatrapError | None) -> str:
    if error is None:
        return "abandoned"
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "other")
