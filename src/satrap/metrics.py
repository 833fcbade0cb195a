"""An embedding server's state in Prometheus' text format, over HTTP.

Every number is what Status says at the moment of the scrape, so metrics, `satrap status` and the RPC cannot disagree.
`docs/operations.md` lists the names. A registry of its own: what else lives in the process is not told.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from satrap.errors import UnavailableError
from satrap.protos import embedding_pb2 as pb
from satrap.tls import Tls

__all__ = ["MetricsServer", "StatusCollector", "families"]

_LABELS = ("namespace", "replica_index")

_UPDATE_GAUGES = (
    ("applied_sequence", "Sequence of the last packet that is wholly applied."),
    ("newest_sequence", "Sequence of the newest packet seen in the directory."),
    ("packets_behind", "Packets seen and not applied."),
    ("clock_skew_seconds", "How far the trainer's clock was seen ahead of this machine's."),
)
_UPDATE_COUNTERS = (
    ("applied_packets", "Packets applied since start."),
    ("applied_rows", "Rows written by packets since start."),
    ("erased_rows", "Rows erased by packets since start."),
    ("quarantined_packets", "Packets refused since start."),
    ("skipped_packets", "Packets passed over since start."),
    ("unmarked_packets", "Packets of PERSIA's applied without a marker since start."),
)
_COUNTERS = (
    ("lookups", "lookups", "Signs looked up since start, by RPC (attached processes count their own)."),
    ("missing", "lookups_missing", "Signs looked up that no table holds."),
    ("dim_mismatch", "lookups_dim_mismatch", "Signs looked up that a table of another dim holds."),
)


def families(status: pb.StatusResponse, namespace: str, now_ns: int) -> Iterator[Metric]:
    """Everything there is to tell; `now_ns` is nanoseconds since the epoch."""
    labels = (namespace, str(status.replica_index))

    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"satrap_{name}", text, labels=_LABELS)
        family.add_metric(labels, value)
        return family

    def counter(name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"satrap_{name}", text, labels=_LABELS)
        family.add_metric(labels, value)
        return family

    yield gauge("ready", "1 if lookups are answered.", status.state == pb.STATE_READY)
    for field, name, text in _COUNTERS:
        yield counter(name, text, getattr(status, field))
    rows = GaugeMetricFamily("satrap_table_rows", "Rows of a table.", labels=(*_LABELS, "dim"))
    size = GaugeMetricFamily(
        "satrap_table_bytes", "Memory of a table, all counted.", labels=(*_LABELS, "dim")
    )
    for table in status.tables:
        rows.add_metric((*labels, str(table.dim)), table.rows)
        size.add_metric((*labels, str(table.dim)), table.bytes)
    yield from (rows, size)
    if not status.HasField("updates"):
        return
    updates = status.updates
    for name, text in _UPDATE_GAUGES:
        yield gauge(f"update_{name}", text, getattr(updates, name))
    for name, text in _UPDATE_COUNTERS:
        yield counter(f"update_{name}", text, getattr(updates, name))
    yield gauge("update_held", "1 while a hold keeps the stream.", updates.HasField("hold"))
    if updates.newest_event_ns:
        age = max(now_ns - updates.newest_event_ns, 0) / 1e9
        yield gauge("update_newest_event_age_seconds", "Age of the newest event that is applied.", age)
    yield _visible(updates.visible_seconds, labels)
    alarms = GaugeMetricFamily(
        "satrap_update_alarm", "1 for each alarm that is raised.", labels=(*_LABELS, "code")
    )
    for code in sorted({alarm.code for alarm in updates.alarms}):
        alarms.add_metric((*labels, code), 1)
    yield alarms


def _visible(histogram: pb.Histogram, labels: Iterable[str]) -> Metric:
    family = HistogramMetricFamily(
        "satrap_update_visible_seconds",
        "From a packet's publication to its last row in the table.",
        labels=_LABELS,
    )
    buckets = [
        (repr(float(bound)), float(count))
        for bound, count in zip(histogram.bounds, histogram.counts, strict=False)
    ]
    family.add_metric(tuple(labels), [*buckets, ("+Inf", float(histogram.count))], sum_value=histogram.sum)
    return family


class StatusCollector(Collector):
    """Asks for the state at each scrape."""

    def __init__(self, status: Callable[[], pb.StatusResponse], namespace: str) -> None:
        self._status, self._namespace = status, namespace

    def collect(self) -> Iterable[Metric]:
        """What a scrape gets."""
        return families(self._status(), self._namespace, time.time_ns())


def _https(tls: Tls | None) -> Mapping[str, Any]:
    if tls is None:
        return {}
    return {
        "certfile": tls.certificate,
        "keyfile": tls.private_key,
        "client_cafile": tls.authority or None,
        "client_auth_required": bool(tls.authority),
    }


class MetricsServer:
    """Answers GET /metrics at an address, on threads of its own, from `start` to `close`."""

    def __init__(
        self,
        host: str,
        port: int,
        status: Callable[[], pb.StatusResponse],
        namespace: str,
        tls: Tls | None = None,
    ) -> None:
        """Port 0 picks a free one. `status` may be called from any thread at any time.

        With `tls` it is HTTPS, and who asks shows a certificate of its authority.
        """
        self._host, self._port, self._tls = host, port, tls
        self._registry = CollectorRegistry()
        self._registry.register(StatusCollector(status, namespace))
        self._running: tuple[WSGIServer, Thread] | None = None

    def start(self) -> int:
        """Listen; returns the port.

        Raises:
            UnavailableError: the port is taken, or the address is not this machine's.
        """
        try:
            self._running = start_http_server(self._port, self._host, self._registry, **_https(self._tls))
        except OSError as error:
            raise UnavailableError(
                f"metrics cannot be served at {self._host}:{self._port} ({error.strerror or error}): change "
                "embedding_server.metrics_port, to which each server adds its replica index, or set it to 0"
            ) from error
        return self._running[0].server_port

    def close(self) -> None:
        """Stop listening. May be called again, and without a start."""
        if self._running is not None:
            server, thread = self._running
            self._running = None
            server.shutdown()
            server.server_close()
            thread.join()
