"""What an operator decided about a stream, as files beside its packets that every server obeys, also one that starts
later.

    hold-<stream>.json   keep what the sequences up to `keep_through` made, take back what later ones did, apply no more
    skip-<stream>.json   at a gap, go on behind it

They end when the file is removed. `docs/operations.md` says how they are used, `docs/packet-format.md` what is in them.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeVar

from satrap.formats.manifest import MAX_SEQUENCE, STREAM_PATTERN
from satrap.formats.strict_json import MAX_INTEGER, MAX_JSON_BYTES, JsonObject, strict_json
from satrap.storage import Storage

__all__ = [
    "Hold",
    "Skip",
    "add_skip",
    "format_hold",
    "format_skips",
    "hold_name",
    "parse_decision_name",
    "parse_hold",
    "parse_skips",
    "read_hold",
    "read_skips",
    "remove_hold",
    "remove_skips",
    "skip_name",
    "write_hold",
]

_T = TypeVar("_T")

HOLD_FORMAT: Final = "satrap-hold"
SKIP_FORMAT: Final = "satrap-skip"
VERSION: Final = 1
_WHY_LENGTH: Final = 1000
_NAME: Final = re.compile(r"(hold|skip)-(.+)\.json")


@dataclass(frozen=True)
class Hold:
    """Nothing above sequence `keep_through` of `stream` is served, and nothing is applied, until it is released.

    `who` decided so at `time_ns` (nanoseconds since the epoch), and `why`.
    """

    stream: str
    keep_through: int
    who: str
    why: str
    time_ns: int


@dataclass(frozen=True)
class Skip:
    """Where a packet is missing, go on with those whose previous is `to` or below; `who`, `why` and when."""

    to: int
    who: str
    why: str
    time_ns: int


def hold_name(stream: str) -> str:
    """The name of the hold's file."""
    return f"hold-{stream}.json"


def skip_name(stream: str) -> str:
    """The name of the skips' file."""
    return f"skip-{stream}.json"


def parse_decision_name(name: str) -> tuple[Literal["hold", "skip"], str] | None:
    """Which decision a file is about, and the stream; None if it is none by its name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return "hold" if found[1] == "hold" else "skip", found[2]


def format_hold(hold: Hold) -> bytes:
    """The bytes of a hold."""
    return _format({"format": HOLD_FORMAT, "version": VERSION, **asdict(hold)})


def parse_hold(path: str, data: bytes, stream: str) -> Hold:
    """Read a hold of `stream`; `path` is what errors call it.

    Raises:
        ManifestError: it is not what the format says, or it is another stream's.
        FormatVersionError: of a later version.
    """
    root = _root(path, data, HOLD_FORMAT, stream)
    return Hold(
        stream=stream,
        keep_through=root.integer("keep_through", 0, MAX_SEQUENCE),
        who=root.text("who"),
        why=root.text("why", _WHY_LENGTH),
        time_ns=root.integer("time_ns", 0, MAX_INTEGER),
    )


def format_skips(stream: str, skips: Sequence[Skip]) -> bytes:
    """The bytes of a stream's skips."""
    listed = [asdict(skip) for skip in skips]
    return _format({"format": SKIP_FORMAT, "version": VERSION, "stream": stream, "skips": listed})


def parse_skips(path: str, data: bytes, stream: str) -> tuple[Skip, ...]:
    """Read the skips of `stream`, in the order in which they were decided; errors as `parse_hold`."""
    return tuple(
        Skip(
            to=skip.integer("to", 1, MAX_SEQUENCE),
            who=skip.text("who"),
            why=skip.text("why", _WHY_LENGTH),
            time_ns=skip.integer("time_ns", 0, MAX_INTEGER),
        )
        for skip in _root(path, data, SKIP_FORMAT, stream).objects("skips")
    )


def read_hold(storage: Storage, stream: str) -> Hold | None:
    """The hold of `stream` beside its packets, None if there is none.

    Raises:
        UpdateError: as `parse_hold`: what was decided cannot be known, so nothing should be applied.
        StorageError: it cannot be read at the moment.
    """
    return _read(storage, hold_name(stream), lambda path, data: parse_hold(path, data, stream))


def write_hold(storage: Storage, hold: Hold) -> None:
    """Publish a hold, instead of the one that there may be.

    Raises:
        ManifestError: readers would refuse it; nothing was written.
        StorageError: it cannot be written.
    """
    name, data = hold_name(hold.stream), format_hold(hold)
    parse_hold(storage.path_of(name), data, hold.stream)
    storage.publish(name, data, replace=True)


def remove_hold(storage: Storage, stream: str) -> bool:
    """End the hold; False if there was none."""
    return _remove(storage, hold_name(stream))


def read_skips(storage: Storage, stream: str) -> tuple[Skip, ...]:
    """The skips of `stream` beside its packets; errors as `read_hold`."""
    return _read(storage, skip_name(stream), lambda path, data: parse_skips(path, data, stream)) or ()


def add_skip(storage: Storage, stream: str, skip: Skip) -> tuple[Skip, ...]:
    """Publish one more skip and return all of them; errors as `write_hold` and `read_hold`.

    For one operator at a time: of two who add at once one may be lost.
    """
    skips = (*read_skips(storage, stream), skip)
    name, data = skip_name(stream), format_skips(stream, skips)
    parse_skips(storage.path_of(name), data, stream)
    storage.publish(name, data, replace=True)
    return skips


def remove_skips(storage: Storage, stream: str) -> bool:
    """Forget the skips; False if there were none."""
    return _remove(storage, skip_name(stream))


def _format(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="replace")


def _root(path: str, data: bytes, name: str, stream: str) -> JsonObject:
    root = strict_json(path, data)
    root.check_format(name, VERSION)
    found = root.matching("stream", STREAM_PATTERN)
    if found != stream:
        root.refuse(f"it is a decision about the stream {found}, under the name of one about {stream}")
    return root


def _read(storage: Storage, name: str, parse: Callable[[str, bytes], _T]) -> _T | None:
    try:
        data = storage.read(name, limit=MAX_JSON_BYTES)
    except FileNotFoundError:
        return None
    return parse(storage.path_of(name), data)


def _remove(storage: Storage, name: str) -> bool:
    try:
        storage.remove(name)
    except FileNotFoundError:
        return False
    storage.sync()
    return True
