"""The figures of a load test, from answers whose times are known."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.load_test.output import print_report
from satrap.load_test.report import Answer, histogram, per_second, summarize


def good(due: float, seconds: float) -> Answer:
    return Answer(due, due, due + seconds)


def test_figures_of_a_steady_server() -> None:
    answers = [good(i / 100, 0.002) for i in range(300)]
    report = summarize(answers, 3.0, 0.25)
    assert (report.requests, report.failed) == (300, 0)
    assert report.rate_mean == pytest.approx(100)
    assert report.rate_deviation == pytest.approx(0, abs=1)
    assert all(value == pytest.approx(2) for value in report.percentiles.values())
    assert (report.latency_mean, report.latency_min, report.latency_max) == pytest.approx((2, 2, 2))


def test_latency_counts_from_when_a_request_was_due() -> None:
    late = Answer(due=1.0, sent=3.0, answered=3.5)
    assert late.latency_ms == pytest.approx(2500)


def test_percentiles_are_of_good_answers_only() -> None:
    answers = [good(0, i / 1000) for i in range(1, 101)]
    answers += [Answer(0, 0, 9, "503: busy")] * 7 + [Answer(0, 0, 9, "ReadTimeout: ")] * 2
    report = summarize(answers, 10.0, 0.1)
    assert report.errors == {"503: busy": 7, "ReadTimeout: ": 2}
    assert report.failed == 9 and report.requests == 109
    assert report.percentiles["p50"] == pytest.approx(50.5)
    assert report.percentiles["p99"] == pytest.approx(99.01)
    assert list(report.percentiles) == ["p50", "p90", "p95", "p99", "p99.9"]


def test_the_deviation_is_that_of_whole_seconds() -> None:
    answers = [good(0.1, 0.1)] * 10 + [good(1.1, 0.1)] * 30 + [good(2.1, 0.1)] * 99
    assert per_second(answers, 2.5) == [10, 30]
    assert summarize(answers, 2.5, 0.0).rate_deviation == pytest.approx(10)


def test_nothing_was_answered() -> None:
    report = summarize([Answer(0, 0, 1, "refused")], 1.0, 0.0)
    assert report.percentiles == {} and list(report.histogram) == []
    document = json.loads(json.dumps(report.document(), allow_nan=False))
    assert document["latency_mean"] is None and document["errors"] == {"refused": 1}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_a_histogram_holds_every_latency(latencies: list[float]) -> None:
    bars = histogram(latencies)
    assert sum(bar.count for bar in bars) == len(latencies)
    assert all(math.isclose(a.to_ms, b.from_ms) for a, b in itertools.pairwise(bars))


def test_a_measurement_of_one_second_has_no_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(summarize([good(i / 100, 0.002) for i in range(100)], 1.0, 0.25))
    assert "100.0 mean, too short for a deviation" in capsys.readouterr().out
