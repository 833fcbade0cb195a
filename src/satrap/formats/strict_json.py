"""JSON objects read with suspicion: nothing is taken for something else, and every refusal says where and why."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from satrap.errors import FormatVersionError, ManifestError

__all__ = ["MAX_INTEGER", "MAX_JSON_BYTES", "JsonObject", "shown", "strict_json"]

MAX_JSON_BYTES: Final = 64 << 20
"""Larger files are refused: a reader need not hold more."""

MAX_INTEGER: Final = 2**63 - 1


@dataclass(frozen=True)
class JsonObject:
    """Typed access to an object. `where` is its place in the file `path`, for errors, which all are ManifestErrors."""

    path: str
    where: str
    content: Mapping[str, Any]

    def refuse(self, reason: str) -> NoReturn:
        """Raise the ManifestError that says `reason` of this place."""
        raise ManifestError(self.path, f"{self.where}{reason}")

    def value(self, key: str) -> Any:
        """What `key` has, which must be there."""
        if key not in self.content:
            self.refuse(f"{key} is missing")
        return self.content[key]

    def integer(self, key: str, least: int, most: int) -> int:
        """An integer in a range; 1.0 and true are none."""
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(f"{key} must be an integer from {least} to {most}, not {shown(value)}")
        return value

    def one_of(self, key: str, words: Sequence[str]) -> str:
        """One of some words."""
        value = self.value(key)
        if not isinstance(value, str) or value not in words:
            self.refuse(f"{key} must be {' or '.join(words)}, not {shown(value)}")
        return value

    def text(self, key: str, most: int = 256) -> str:
        """A text of 1 to `most` printable characters."""
        value = self.value(key)
        if not isinstance(value, str) or not value or len(value) > most or not value.isprintable():
            self.refuse(f"{key} must be a text of 1 to {most} printable characters, not {shown(value)}")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text, or None if `key` is null or not there."""
        return None if self.content.get(key) is None else self.text(key)

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        """A text of a form."""
        value = self.text(key)
        if not pattern.fullmatch(value):
            self.refuse(f"{key} must match {pattern.pattern}, which {shown(value)} does not")
        return value

    def object(self, key: str) -> "JsonObject":
        """An object inside this one."""
        value = self.value(key)
        if not isinstance(value, dict):
            self.refuse(f"{key} must be an object, not {shown(value)}")
        return JsonObject(self.path, f"{self.where}{key}.", value)

    def objects(self, key: str) -> "list[JsonObject]":
        """A list of objects inside this one."""
        value = self.value(key)
        if not isinstance(value, list):
            self.refuse(f"{key} must be a list, not {shown(value)}")
        for index, content in enumerate(value):
            if not isinstance(content, dict):
                self.refuse(f"{key}[{index}] must be an object, not {shown(content)}")
        return [
            JsonObject(self.path, f"{self.where}{key}[{index}].", content)
            for index, content in enumerate(value)
        ]

    def check_format(self, name: str, version: int) -> None:
        """That the keys `format` and `version` say what this reader reads.

        Raises:
            FormatVersionError: it is of a later version.
        """
        if self.content.get("format") != name:
            self.refuse(f'"format" is not "{name}": this is another kind of file')
        found = self.integer("version", 1, MAX_INTEGER)
        if found > version:
            raise FormatVersionError(
                self.path,
                f"it is of format version {found}, and this satrap reads {version}: update satrap first",
            )


def strict_json(path: str, data: bytes) -> JsonObject:
    """Read a JSON object in UTF-8. `path` is what errors call it.

    Raises:
        ManifestError: too large, not UTF-8, not JSON, a key that comes twice, NaN or an infinity, or not an object.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ManifestError(path, f"it has more than {MAX_JSON_BYTES:,} bytes")

    def refuse_constant(word: str) -> NoReturn:
        raise ManifestError(path, f"{word} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content:
                raise ManifestError(path, f"the key {shown(key)} comes twice")
            content[key] = value
        return content

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise ManifestError(path, f"not UTF-8 (at byte {error.start})") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ManifestError(path, f"not JSON: {error.msg} ({place})") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, thousands of brackets
        raise ManifestError(path, f"not JSON that can be read: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ManifestError(path, "it is not a JSON object")
    return JsonObject(path, "", content)


def shown(value: object) -> str:
    """A value in an error's sentence."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."
