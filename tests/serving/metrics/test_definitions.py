"""TorchServe's metrics.yaml, read; and every way for it to be wrong."""

from pathlib import Path

import pytest

from satrap.errors import ConfigError
from satrap.serving.metrics.definitions import Definition, Definitions, read_definitions

GOOD = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
ts_metrics:
  counter:
    - name: Requests2XX
      unit: Count
      dimensions: [*level, Hostname]
model_metrics:
  gauge:
    - name: HandlerTime
      unit: ms
      dimensions: [*model_name, *level]
  histogram:
    - name: Sizes
      unit: B
"""


def read(tmp_path: Path, text: str | bytes, *, auto_detect: bool = False) -> Definitions:
    path = tmp_path / "metrics.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_definitions(path, auto_detect=auto_detect)


def test_torchserves_form(tmp_path: Path) -> None:
    definitions = read(tmp_path, GOOD)
    assert definitions.server == (Definition("counter", "Requests2XX", "Count", ("Level", "Hostname")),)
    assert definitions.handlers == (
        Definition("gauge", "HandlerTime", "ms", ("ModelName", "Level")),
        Definition("histogram", "Sizes", "B"),
    )
    assert definitions.is_told("Sizes") and not definitions.is_told("Other")
    assert read(tmp_path, GOOD, auto_detect=True).is_told("Other")
    assert Definitions().is_told("anything")


def test_without_a_section(tmp_path: Path) -> None:
    assert read(tmp_path, "model_metrics:\nts_metrics:\n") == Definitions(None, (), auto_detect=False)
    assert read(tmp_path, "ts_metrics: {}") == Definitions((), (), auto_detect=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "sections ts_metrics and model_metrics"),
        ("[1]", "sections ts_metrics and model_metrics"),
        ("a: [", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        ("a: !!python/object:os.system {}", "not YAML"),
        ("model_metrics: 5", "has the keys counter, gauge and histogram"),
        ("model_metrics: {summary: []}", "model_metrics.summary"),
        ("model_metrics: {gauge: {}}", "model_metrics.gauge: is a list"),
        ("ts_metrics: {gauge: [x]}", r"ts_metrics.gauge\[0\]"),
        ("model_metrics: {gauge: [{unit: ms}]}", r"gauge\[0\].name: is a text, not None"),
        ("model_metrics: {gauge: [{name: a, unit: 5}]}", r"gauge\[0\].unit"),
        ("model_metrics: {gauge: [{name: a, unit: '', dimensions: b}]}", "list of names"),
        ("model_metrics: {gauge: [{name: a, unit: '', dimensions: [[]]}]}", "list of names"),
        (
            "model_metrics: {gauge: [{name: a, unit: ''}], counter: [{name: a, unit: ''}]}",
            r"counter\[0\].name: a is defined twice",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "metrics.yaml") in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serving\.metrics_config cannot be read: No such file"):
        read_definitions(tmp_path / "nowhere.yaml", auto_detect=False)
