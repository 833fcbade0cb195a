"""YAML files with YAML 1.2's scalars, and the line of every key.

PyYAML parses; its own scalars are YAML 1.1's, where `on`, `no`, `0123` and `12:30` are not what they look like.
Here a plain scalar is null, bool, int or float as YAML 1.2's core schema says, anything else is text. Keys are
always text, as written. A duplicate key is an error. A tag other than the standard scalars is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from satrap.errors import ConfigError

__all__ = ["Document", "Scalar", "Value", "load"]

Scalar = str | int | float | bool | None
Value = Scalar | list["Value"] | dict[str, "Value"]
Place = tuple[str | int, ...]

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"
)
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, and the line (1-based) of each place in it.

    A place is the tuple of keys and list positions that lead there; `()` is the whole document.
    """

    path: Path
    value: Value
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """The line of `place`, or of the nearest place above it that exists."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 0)

    def error(self, place: Place, reason: str) -> ConfigError:
        """An error that names file, key and line."""
        return ConfigError(self.path, ".".join(map(str, place)), self.line(place), reason)


class _Loader(yaml.SafeLoader):
    """Composes nodes without resolving plain scalars: that is done here, by YAML 1.2's rules."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's name)


class _Builder:
    """Turns nodes into values, noting lines; `text_at` are patterns of places whose scalars stay text."""

    def __init__(self, path: Path, text_at: tuple[Place, ...]) -> None:
        self.path = path
        self.text_at = text_at
        self.lines: dict[Place, int] = {}

    def build(self, node: yaml.Node, place: Place, above: tuple[int, ...] = ()) -> Value:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        if id(node) in above:
            raise self.error(place, line, "an alias that contains itself")
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, place, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, i), above) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, place, line)

    def mapping(self, node: yaml.MappingNode, place: Place, above: tuple[int, ...]) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(place, line, "a key has to be text")
            inner = (*place, key.value)
            if key.value in result:
                raise self.error(inner, line, f"duplicate key (first on line {self.lines[inner]})")
            self.lines[inner] = line
            result[key.value] = self.build(value, inner, above)
        return result

    def scalar(self, node: yaml.ScalarNode, place: Place, line: int) -> Scalar:
        text: str = node.value
        if node.tag != f"{_TAG}str":
            raise self.error(
                place, line, f"the tag {node.tag!r} is not supported; write the value without it"
            )
        plain = node.style is None
        if not plain or any(_matches(pattern, place) for pattern in self.text_at):
            return text
        return _resolve(text)

    def error(self, place: Place, line: int, reason: str) -> ConfigError:
        return ConfigError(self.path, ".".join(map(str, place)), line, reason)


def _matches(pattern: Place, place: Place) -> bool:
    return len(pattern) == len(place) and all(p in ("*", q) for p, q in zip(pattern, place, strict=True))


def _resolve(text: str) -> Scalar:
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def load(path: Path, *, text_at: tuple[Place, ...] = ()) -> Document:
    """Read one YAML file.

    `text_at`: places (with `*` for any key or position) whose scalars are text whatever they look like.

    Raises:
        ConfigError: the file cannot be read, is not YAML, holds several documents or a duplicate key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, "", 0, f"cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(path, "", line, f"not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(path, "", 0, f"not valid YAML: {error}") from error
    if node is None:
        return Document(path, {}, {(): 1})
    builder = _Builder(path, text_at)
    return Document(path, builder.build(node, ()), builder.lines)
