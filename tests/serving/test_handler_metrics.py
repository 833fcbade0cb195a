"""What handlers report: TorchServe's calls, in its order of arguments."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from satrap.serving.handler_metrics import (
    MAX_OBSERVATIONS,
    HandlerMetric,
    HandlerMetrics,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
    MetricTypes,
)
from satrap.serving.observation import PHASE, Observation


def dimension(name: str, value: str) -> Any:
    return SimpleNamespace(name=name, value=value)


def test_observations_are_kept_until_they_are_taken() -> None:
    metrics = HandlerMetrics("m")
    metrics.add_time("t", 1.5, 0)
    metrics.add_time("s", 2, None, "s", [dimension("a", "b")], MetricTypes.HISTOGRAM)
    metrics.add_counter("c", 2, dimensions=[dimension("Level", "Model")])
    metrics.add_size("z", 4, None, "kB")
    metrics.add_percent("p", 50)
    metrics.add_error("e", 1, [dimension("why", "none")])
    metrics.add_metric("g", 3, "items", metric_type=SimpleNamespace(value="GAUGE"))
    assert metrics.take() == [
        Observation("t", 1.5, "ms", "gauge", (), 0),
        Observation("s", 2.0, "s", "histogram", (("a", "b"),)),
        Observation("c", 2.0, "count", "counter", (("Level", "Model"),)),
        Observation("z", 4.0, "kB", "gauge"),
        Observation("p", 50.0, "percent", "gauge"),
        Observation("e", 1.0, "", "counter", (("why", "none"), ("Level", "Error")), is_exact=True),
        Observation("g", 3.0, "items", "gauge"),
    ]
    assert metrics.take() == []


def test_observations_do_not_grow_without_end() -> None:
    metrics = HandlerMetrics()
    for _ in range(MAX_OBSERVATIONS + 3):
        metrics.add_counter("c", 1)
    assert len(metrics.take()) == MAX_OBSERVATIONS
    assert metrics.dropped == 3


def test_a_declared_metric_is_updated_by_its_values() -> None:
    metrics = HandlerMetrics("m")
    declared = metrics.add_metric_to_cache(
        metric_name="Calls",
        unit="count",
        dimension_names=["ModelName", "kind"],
        metric_type=MetricTypes.COUNTER,
    )
    assert metrics.take() == [], "declaring reports nothing"
    declared.add_or_update(value=1, dimension_values=["m", "good"])
    metrics.get_metric("Calls").add_or_update(2, ["m", "bad"], "some-request")
    metrics.get_metric("Calls", MetricTypes.COUNTER).update(3, dimensions=[dimension("x", 1)])
    assert [(o.value, o.dimensions, o.is_exact) for o in metrics.take()] == [
        (1.0, (("ModelName", "m"), ("kind", "good")), True),
        (2.0, (("ModelName", "m"), ("kind", "bad")), True),
        (3.0, (("x", "1"),), True),
    ]


def test_a_reported_metric_can_be_looked_up() -> None:
    metrics = HandlerMetrics("m")
    metrics.add_size("Image", 3, dimensions=[dimension("format", "png")])
    metric = metrics.get_metric("Image", MetricTypes.GAUGE)
    assert (metric.unit, metric.dimension_names) == ("MB", ["format", "ModelName", "Level"])
    assert metrics.cache_keys() == ["gauge:Image"]
    with pytest.raises(
        MetricsCacheKeyError, match=r"^Metric of type 'counter' and name 'Image' doesn't exist"
    ):
        metrics.get_metric("Image")


@pytest.mark.parametrize("value", [-1, "many", None, [1], float("nan")])
def test_what_is_no_count_is_logged_and_not_raised(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    metrics = HandlerMetrics()
    metrics.add_counter("c", value)
    metrics.add_metric_to_cache("d", "count").add_or_update(value)
    assert metrics.take() == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_values_for_other_dimensions_are_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    metrics = HandlerMetrics()
    metrics.add_metric_to_cache("d", "count", ["a", "b"]).add_or_update(1, ["only"])
    assert metrics.take() == []
    assert "['a', 'b'], the values are ['only']" in caplog.text


def test_a_gauge_may_be_negative() -> None:
    metrics = HandlerMetrics()
    metrics.add_metric("g", -2, metric_type=MetricTypes.GAUGE)
    assert [o.value for o in metrics.take()] == [-2.0]


def test_wrong_arguments_are_the_handlers_mistake() -> None:
    metrics = HandlerMetrics()
    with pytest.raises(MetricsCacheValueError, match="ms or s, not 'days'"):
        metrics.add_time("t", 1, unit="days")
    with pytest.raises(ValueError, match="B, kB, MB or GB, not 'TB'"):
        metrics.add_size("t", 1, unit="TB")
    with pytest.raises(MetricsCacheTypeError, match="counter, gauge or histogram, not 'sum'"):
        metrics.add_metric("t", 1, metric_type="sum")
    with pytest.raises(MetricsCacheTypeError, match="name and unit are str"):
        metrics.add_metric_to_cache(3, "count")  # type: ignore[arg-type]
    with pytest.raises(MetricsCacheTypeError, match="dimension_names is a list of str, not 'abc'"):
        metrics.add_metric_to_cache("t", "count", "abc")


def test_a_metric_of_the_handlers_own_making_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    HandlerMetric("Own", "ms", ["a"], MetricTypes.GAUGE).add_or_update(2.5, ["b"], "request-1")
    assert caplog.messages == ["[METRICS]Own.Milliseconds:2.5|#a:b|#type:GAUGE|request-1"]


def test_what_is_reported_can_be_sent_whatever_a_handler_gives() -> None:
    """It leaves the worker as JSON: a value that is none of JSON's would end the worker, not the call."""
    metrics = HandlerMetrics("m")
    name: Any = ValueError("odd")
    unit: Any = ["count"]
    metrics.add_metric(name, np.float32(1.5), unit, metric_type=MetricTypes.GAUGE)
    metrics.add_phase(name, np.float32(0.5))
    HandlerMetric(name, unit, metric_type=MetricTypes.GAUGE, metrics=metrics).add_or_update(np.int64(2))
    assert metrics.take() == [
        Observation("odd", 1.5, "['count']", "gauge"),
        Observation(PHASE, 0.5, "s", "histogram", (("phase", "odd"),), is_exact=True),
        Observation("odd", 2.0, "['count']", "gauge", is_exact=True),
    ]


def test_what_is_no_number_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    metrics = HandlerMetrics("m")
    soon: Any = "soon"
    metrics.add_phase("p", soon)
    metrics.add_metric("g", 10**400)
    assert metrics.take() == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
