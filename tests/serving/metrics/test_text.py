"""The text of /metrics, read back by Prometheus' own parser."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from satrap.serving.metrics.families import Registry
from satrap.serving.metrics.text import text


def parsed(registry: Registry, names: tuple[str, ...] = ()) -> dict[str, dict[tuple, float]]:
    return {
        family.name: {
            (sample.name, *sorted(sample.labels.items())): sample.value for sample in family.samples
        }
        for family in text_string_to_metric_families(text(registry, names).decode())
    }


def test_nothing() -> None:
    assert text(Registry()) == b""


def test_lines_are_torchserves() -> None:
    registry = Registry()
    requests = registry.counter("Requests2XX", "Torchserve prometheus counter metric with unit: Count")
    requests.labels(("Level", "Host"), ("Hostname", "vm")).value += 29
    registry.gauge("QueueTime", "one \\ two\nthree")
    assert text(registry).decode() == (
        "# HELP QueueTime one \\\\ two\\nthree\n"
        "# TYPE QueueTime gauge\n"
        "# HELP Requests2XX Torchserve prometheus counter metric with unit: Count\n"
        "# TYPE Requests2XX counter\n"
        'Requests2XX{Level="Host",Hostname="vm"} 29.0\n'
    )


def test_a_histogram_is_cumulative_and_its_bounds_are_inside() -> None:
    registry = Registry()
    sizes = registry.histogram("sizes", "", bounds=(1, 2, 4)).labels(("m", "x"))
    for size in (1, 2, 3, 4, 5, 1.0):
        sizes.observe(size)
    (family,) = parsed(registry).values()
    assert family == {
        ("sizes_bucket", ("le", "1.0"), ("m", "x")): 2,
        ("sizes_bucket", ("le", "2.0"), ("m", "x")): 3,
        ("sizes_bucket", ("le", "4.0"), ("m", "x")): 5,
        ("sizes_bucket", ("le", "+Inf"), ("m", "x")): 6,
        ("sizes_count", ("m", "x")): 6,
        ("sizes_sum", ("m", "x")): 16,
    }


@pytest.mark.parametrize("value", [0.0, -1.5, 1e300, math.inf, -math.inf, 1 / 3, 123456789])
def test_numbers_come_back(value: float) -> None:
    registry = Registry()
    registry.gauge("g", "").labels().value = value
    assert parsed(registry) == {"g": {("g",): value}}


def test_not_a_number() -> None:
    registry = Registry()
    registry.gauge("g", "").labels().value = math.nan
    assert math.isnan(parsed(registry)["g"]["g",])


@given(
    st.dictionaries(
        st.from_regex(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True), st.text(), max_size=4
    ),
)
def test_any_label_comes_back(labels: dict[str, str]) -> None:
    registry = Registry()
    registry.gauge("g", "").labels(*labels.items()).value = 1
    assert parsed(registry) == {"g": {("g", *sorted(labels.items())): 1}}


def test_names_choose_families_by_their_lines() -> None:
    registry = Registry()
    registry.counter("a", "").labels().value = 1
    registry.gauge("b", "")
    registry.histogram("h", "", bounds=(1,)).labels().observe(0)
    assert set(parsed(registry, ("a", "nothing"))) == {"a"}
    assert text(registry, ("nothing",)) == b""
    assert set(parsed(registry, ("h_sum",))) == {"h"}
    assert set(parsed(registry, ("b", "h"))) == {"b", "h"}


def test_two_families_never_share_a_line() -> None:
    registry = Registry()
    registry.histogram("h", "")
    for name in ("h", "h_sum"):
        with pytest.raises(ValueError, match="already"):
            registry.gauge(name, "")
    registry.gauge("i_count", "")
    with pytest.raises(ValueError, match="already"):
        registry.histogram("i", "")


def test_values_are_forgotten_by_label() -> None:
    registry = Registry()
    gauge = registry.gauge("g", "")
    for version in ("1", "2"):
        gauge.labels(("version", version))
    gauge.forget(lambda labels: ("version", "1") in labels)
    assert [labels for labels, _ in gauge.items()] == [(("version", "2"),)]
