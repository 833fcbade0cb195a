"""Metrics as Prometheus reads them: scraped over HTTP and parsed by its own parser."""

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from satrap.errors import UnavailableError
from satrap.metrics import MetricsServer, families
from satrap.protos import embedding_pb2 as pb

NOW = 1_700_000_000_000_000_000
LABELS = {"namespace": "default", "replica_index": "1"}


def status(**updates) -> pb.StatusResponse:
    answer = pb.StatusResponse(
        state=pb.STATE_READY,
        replica_index=1,
        replica_size=2,
        lookups=1000,
        missing=20,
        dim_mismatch=3,
        tables=[pb.TableStatus(dim=8, rows=100, bytes=4096), pb.TableStatus(dim=16, rows=7, bytes=8192)],
    )
    if updates:
        answer.updates.CopyFrom(pb.UpdateStatus(**updates))
    return answer


FOLLOWING = status(
    applied_sequence=41,
    newest_sequence=44,
    packets_behind=3,
    newest_event_ns=NOW - 2_500_000_000,
    alarms=[pb.Alarm(code="gap", message="42 is missing", since_ns=1), pb.Alarm(code="held")],
    hold=pb.Hold(keep_through=41),
    applied_packets=40,
    applied_rows=4000,
    erased_rows=5,
    quarantined_packets=2,
    skipped_packets=1,
    unmarked_packets=6,
    visible_seconds=pb.Histogram(bounds=[0.05, 0.2, 1], counts=[10, 30, 39], count=40, sum=12.5),
    clock_skew_seconds=0.25,
)


@pytest.fixture
def scrape():
    servers = []

    def start(answer) -> dict[tuple[str, tuple], float]:
        server = MetricsServer("127.0.0.1", 0, answer if callable(answer) else lambda: answer, "default")
        port = server.start()
        servers.append(server)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in found
                found[key] = sample.value
        return found

    yield start
    for server in servers:
        server.close()


def of(found, name, **more):
    return found[name, tuple(sorted({**LABELS, **more}.items()))]


def test_everything_is_told(scrape, monkeypatch):
    monkeypatch.setattr("satrap.metrics.time.time_ns", lambda: NOW)
    found = scrape(FOLLOWING)
    expected = {
        "satrap_ready": 1,
        "satrap_lookups_total": 1000,
        "satrap_lookups_missing_total": 20,
        "satrap_lookups_dim_mismatch_total": 3,
        "satrap_update_applied_sequence": 41,
        "satrap_update_newest_sequence": 44,
        "satrap_update_packets_behind": 3,
        "satrap_update_newest_event_age_seconds": 2.5,
        "satrap_update_applied_packets_total": 40,
        "satrap_update_applied_rows_total": 4000,
        "satrap_update_erased_rows_total": 5,
        "satrap_update_quarantined_packets_total": 2,
        "satrap_update_skipped_packets_total": 1,
        "satrap_update_unmarked_packets_total": 6,
        "satrap_update_held": 1,
        "satrap_update_clock_skew_seconds": 0.25,
        "satrap_update_visible_seconds_count": 40,
        "satrap_update_visible_seconds_sum": 12.5,
    }
    assert {name: of(found, name) for name in expected} == expected
    assert (
        of(found, "satrap_table_rows", dim="8") == 100 and of(found, "satrap_table_bytes", dim="16") == 8192
    )
    assert of(found, "satrap_update_alarm", code="gap") == of(found, "satrap_update_alarm", code="held") == 1
    buckets = {
        le: of(found, "satrap_update_visible_seconds_bucket", le=le) for le in ("0.05", "0.2", "1.0", "+Inf")
    }
    assert buckets == {"0.05": 10, "0.2": 30, "1.0": 39, "+Inf": 40}


def test_a_server_that_follows_nothing_has_no_update_metrics(scrape):
    found = scrape(status())
    assert of(found, "satrap_ready") == 1
    assert not [name for name, _ in found if name.startswith("satrap_update")]


def test_before_anything_is_served(scrape):
    found = scrape(pb.StatusResponse(state=pb.STATE_LOADING, replica_size=1))
    assert found["satrap_ready", (("namespace", "default"), ("replica_index", "0"))] == 0


def test_an_age_is_not_told_before_it_is_known_and_never_negative():
    def ages(newest_event_ns):
        answer = status(newest_event_ns=newest_event_ns, applied_sequence=1)
        return [
            sample.value
            for family in families(answer, "default", NOW)
            for sample in family.samples
            if sample.name == "satrap_update_newest_event_age_seconds"
        ]

    assert ages(0) == [] and ages(NOW + 10**9) == [0] and ages(NOW - 10**9) == [1]


def test_each_scrape_asks_again(scrape):
    answers = iter([status(applied_sequence=1), status(applied_sequence=2)])
    assert of(scrape(lambda: next(answers)), "satrap_update_applied_sequence") == 1
    assert of(scrape(lambda: next(answers)), "satrap_update_applied_sequence") == 2


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = MetricsServer("127.0.0.1", taken.getsockname()[1], status, "default")
        with pytest.raises(UnavailableError, match=r"embedding_server\.metrics_port"):
            server.start()
        server.close()


def test_nothing_answers_after_the_close():
    server = MetricsServer("127.0.0.1", 0, status, "default")
    port = server.start()
    server.close()
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
