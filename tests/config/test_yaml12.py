"""YAML 1.2's scalars, lines, and what is refused."""

from pathlib import Path

import pytest

from satrap.config import yaml12
from satrap.errors import ConfigError


@pytest.fixture
def load(tmp_path: Path):
    def load_text(text: str, **options) -> yaml12.Document:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return yaml12.load(path, **options)

    return load_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("0123", 123),
        ("0x1f", 31),
        ("0o17", 15),
        ("-7", -7),
        ("18446744073709551615", 2**64 - 1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("'true'", "true"),
        ('"12"', "12"),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(load, text, value):
    result = load(f"key: {text}").value["key"]
    assert result == value
    assert type(result) is type(value)


def test_nan_is_a_float(load):
    assert load("key: .nan").value["key"] != load("key: .nan").value["key"]


def test_keys_are_text_as_written(load):
    assert list(load("on: 1\nno: 2\n0123: 3\n12:30: 4\n~: 5\n").value) == ["on", "no", "0123", "12:30", "~"]


def test_text_at_keeps_scalars_as_written(load):
    document = load("groups:\n  g: [on, 0123, ~]\nn: 0123", text_at=(("groups", "*", "*"),))
    assert document.value == {"groups": {"g": ["on", "0123", "~"]}, "n": 123}


def test_lines_lead_to_keys_and_fall_back_to_what_is_above(load):
    document = load("a: 1\nb:\n  c:\n    - 1\n    - d: 2\n")
    assert document.line(("b", "c", 1, "d")) == 5
    assert document.line(("b", "missing")) == 2
    assert document.line(("missing",)) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key (first on line 1)"),
        ("a: [1, 2", 1, "not valid YAML"),
        ("a: &x [*x]", 1, "an alias that contains itself"),
        ("a: !!python/object:os.system 1", 1, "tag"),
        ("? [1, 2]\n: 3", 1, "a key has to be text"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
    ],
)
def test_bad_files_are_errors_with_their_line(load, text, line, words):
    with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
        load(text)
    assert words in str(caught.value)
    assert caught.value.line == line


def test_a_missing_file_and_bytes_that_are_no_text_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        yaml12.load(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        yaml12.load(tmp_path / "bytes.yaml")


def test_an_empty_file_is_an_empty_mapping(load):
    assert load("").value == {}
