"""What handlers report becomes metrics, whatever they report."""

import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from satrap.serving.metrics import handler_table
from satrap.serving.metrics.definitions import Definition, Definitions
from satrap.serving.metrics.families import Registry
from satrap.serving.metrics.handler_table import HandlerTable, label_name, metric_name
from satrap.serving.metrics.text import text
from satrap.serving.observation import Observation


def table(definitions: Definitions = Definitions()) -> tuple[HandlerTable, Registry]:  # noqa: B008
    registry = Registry()
    registry.counter("Requests2XX", "ours")
    return HandlerTable(registry, "vm", definitions), registry


def lines(registry: Registry) -> list[str]:
    return [line for line in text(registry).decode().splitlines() if not line.startswith("#")]


def observation(name: str = "Answers", value: float = 1.0, **more: Any) -> Observation:
    return Observation(name, value, **{"unit": "count", "type": "counter", **more})


def test_torchserves_two_are_there_from_the_start() -> None:
    _, registry = table()
    assert text(registry).decode().splitlines()[:2] == [
        "# HELP HandlerTime Torchserve prometheus gauge metric with unit: ms",
        "# TYPE HandlerTime gauge",
    ]
    assert "# TYPE PredictionTime gauge" in text(registry).decode()


def test_counters_grow_gauges_change_and_histograms_count() -> None:
    handlers, registry = table()
    for value in (1.0, 2.0):
        handlers.observe("m", observation(value=value))
        handlers.observe("m", observation("Thinking", value, unit="ms", type="gauge"))
        handlers.observe("m", observation("Sizes", value, unit="MB", type="histogram"))
    told = lines(registry)
    assert 'Answers{ModelName="m",Level="Model",Hostname="vm"} 3.0' in told
    assert 'Thinking{ModelName="m",Level="Model",Hostname="vm"} 2.0' in told
    assert 'Sizes_sum{ModelName="m",Level="Model",Hostname="vm"} 3.0' in told
    assert (
        "# HELP Sizes Torchserve prometheus histogram metric with unit: Megabytes" in text(registry).decode()
    )


def test_dimensions() -> None:
    handlers, registry = table()
    handlers.observe("m", observation(dimensions=(("Level", "Error"), ("kind", 'a"b'), ("Hostname", "liar"))))
    handlers.observe("m", observation("Exact", dimensions=(("only", "this"),), is_exact=True))
    handlers.observe("m", observation("H", type="histogram", dimensions=(("le", "x"),), is_exact=True))
    assert 'H_count{_le="x",Hostname="vm"} 1.0' in lines(registry)
    assert [line for line in lines(registry) if not line.startswith("H_")] == [
        'Answers{ModelName="m",Level="Error",kind="a\\"b",Hostname="vm"} 1.0',
        'Exact{only="this",Hostname="vm"} 1.0',
    ]


@pytest.mark.parametrize(
    ("name", "told"), [("look up", "look_up"), ("1st", "_1st"), ("größe", "gr__e"), ("", "_"), ("a:b", "a:b")]
)
def test_names_that_prometheus_does_not_know(name: str, told: str) -> None:
    assert metric_name(name) == told


def test_labels_that_prometheus_does_not_know() -> None:
    assert [label_name(name) for name in ("a:b", "__name__", "2", "")] == ["a_b", "_name__", "_2", "_"]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (None, observation("Requests2XX"), "the server has a metric of that name"),
        (None, observation("satrap_mine"), "the server has a metric of that name"),
        (observation(), observation(type="gauge"), "it is a counter, and was reported as a gauge"),
        (observation(), observation(value=-1.0), "-1.0 is no value of a counter"),
        (observation(), observation(value=math.inf), "inf is no value of a counter"),
        (observation(), observation(value=math.nan), "nan is no value of a counter"),
        (None, observation("g", math.nan, type="gauge"), "nan is no value of a gauge"),
        (observation("x", type="histogram"), observation("x_sum"), "there is a metric x_sum already"),
    ],
)
def test_what_would_spoil_a_metric_is_refused_and_said_once(
    first: Observation | None, second: Observation, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    handlers, registry = table()
    if first is not None:
        handlers.observe("m", first)
    before = lines(registry)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert handlers.observe("m", second) is None
    assert [record.message for record in caplog.records] == [
        f"metric {second.name!r} of model m is not told: {why}"
    ]
    assert handlers.refused == 3
    assert lines(registry) == before


def test_neither_metrics_nor_values_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_table, "MAX_VALUES", 5)
    monkeypatch.setattr(handler_table, "MAX_FAMILIES", 4)
    handlers, registry = table()
    for number in range(20):
        handlers.observe("m", observation(dimensions=(("request", str(number)),)))
    assert len(lines(registry)) == 5
    handlers.observe("m", observation(dimensions=(("request", "0"),)))
    assert 'Answers{ModelName="m",Level="Model",request="0",Hostname="vm"} 2.0' in lines(registry)
    for number in range(20):
        handlers.observe("m", observation(f"metric_{number}"))
    assert len(lines(registry)) == 6
    assert handlers.refused == 15 + 19


def test_a_file_says_what_is_told(caplog: pytest.LogCaptureFixture) -> None:
    definitions = Definitions(
        handlers=(Definition("counter", "Answers", "Count"), Definition("gauge", "Requests2XX", "")),
        auto_detect=False,
    )
    with caplog.at_level(logging.WARNING):
        handlers, registry = table(definitions)
    assert "'Requests2XX' of serving.metrics_config is not told: there is a metric" in caplog.text
    assert handlers.observe("m", observation("Other")) is None
    assert handlers.refused == 0, "not declared is not wrong"
    handlers.observe("m", observation())
    handlers.observe("m", observation("HandlerTime", 5.0, unit="ms", type="gauge"))
    assert [line.split("{")[0] for line in lines(registry)] == ["Answers", "HandlerTime"]


def test_a_model_that_is_gone_is_forgotten() -> None:
    handlers, registry = table()
    for model in ("m", "n"):
        handlers.observe(model, observation())
    handlers.forget(frozenset({"m"}))
    assert lines(registry) == ['Answers{ModelName="n",Level="Model",Hostname="vm"} 1.0']


@given(
    st.lists(
        st.builds(
            Observation,
            st.text(max_size=5),
            st.floats(),
            st.text(max_size=3),
            st.sampled_from(["counter", "gauge", "histogram"]),
            st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=3).map(tuple),
            is_exact=st.booleans(),
        ),
        max_size=20,
    )
)
def test_whatever_a_handler_reports_the_text_is_readable(observations: list[Observation]) -> None:
    handlers, registry = table()
    for one in observations:
        handlers.observe("m", one)
    families = list(text_string_to_metric_families(text(registry).decode()))
    assert len(families) == len(list(registry))
