"""How inspected facts are printed."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.filesize import decimal

from satrap.cli.inspection_facts import Facts
from satrap.cli.records import print_record

__all__ = ["show"]

_SHOWN_APART = ("kind", "path", "damage", "tables", "generations", "id", "rows_of_id", "checked")


def show(facts: Facts, *, as_json: bool) -> None:
    """Print what `examine` found."""
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts)


def _show(facts: Mapping[str, Any]) -> None:
    """The facts, then those of each part."""
    print_record(
        f"{facts['kind']} {facts['path']}",
        [
            (name.replace("_", " ") if first else "", line)
            for name, value in facts.items()
            if name not in _SHOWN_APART and value not in (None, "", [], {})
            for first, line in _lines(_text(name, value))
        ],
    )
    for part in (*facts.get("tables", ()), *facts.get("generations", ())):
        _show(part)
    if "rows_of_id" in facts:
        print(f"id {facts['id']}")
        for line in _lines_of(facts["rows_of_id"]) if facts["rows_of_id"] else ["has no row here"]:
            print(f"  {line}")
    if facts["damage"]:
        print(f"damaged: {facts['damage']}")
    elif facts["kind"] != "shard's tables":
        print(f"whole: {facts.get('checked', 'every header was read and is valid')}")


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """The lines of a value, and whether each is the first one."""
    for index, line in enumerate(text.splitlines()):
        yield index == 0, line


def _text(name: str, value: Any) -> str:
    if name == "held_by":
        return f"process {value}"
    if name == "bytes":
        return f"{value:,} ({decimal(value)})"
    if name == "ratio":
        return f"{value:.3f} x rows x (8 + row bytes)"
    if name == "used":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if name in ("written", "ordinals") and isinstance(value, list):
        return " to ".join(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(_lines_of(value))
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{rows:,} of dim {dim}" for dim, rows in value.items())
    return str(value)


def _lines_of(facts: Iterable[Facts]) -> Iterator[str]:
    """One line for each, of what is not empty."""
    for one in facts:
        yield ", ".join(
            f"{key.replace('_', ' ')} {_line_text(key, value)}"
            for key, value in one.items()
            if value not in (None, "", [])
        )


def _line_text(key: str, value: Any) -> str:
    if isinstance(value, list):
        return (" to " if key in ("signs", "norms") else " ").join(map(_plain, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
