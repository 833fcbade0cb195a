"""PERSIA's `embedding_dump_done`: the file that says a checkpoint, or one shard's part of it, is whole.

YAML of three keys, and an empty line at the end:

    ---
    num_shards: 2
    num_internal_shards: 4
    datetime:
      secs_since_epoch: 1795175210
      nanos_since_epoch: 325744470

PERSIA creates the file empty and then appends, so an empty marker is one that is being written.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from satrap.errors import CheckpointCorruptError, CheckpointIncompleteError

__all__ = ["MARKER", "SHARD_FOLDER", "Marker", "format_marker", "parse_marker"]

MARKER = "embedding_dump_done"
"""The file's name, in the checkpoint's directory and in each `s{r}` of it."""

SHARD_FOLDER = re.compile(r"s\d+")
"""What a folder `s{r}` is called: the part of a checkpoint, or of a packet directory, that trainer's shard r wrote."""

_NANOS = 1_000_000_000


@dataclass(frozen=True)
class Marker:
    """What a marker says. `written_ns` is nanoseconds since the epoch, by the trainer's clock."""

    num_shards: int
    num_internal_shards: int
    written_ns: int


def parse_marker(path: Path, data: bytes) -> Marker:
    """Read a marker; `path` is for the errors only.

    Raises:
        CheckpointIncompleteError: it is empty.
        CheckpointCorruptError: it is not YAML, a key is missing, or a value is no positive integer.
    """
    if not data.strip():
        raise CheckpointIncompleteError(path, "the marker is empty: the checkpoint is still being written")
    try:
        content = yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        offset = error.problem_mark.index if error.problem_mark is not None else 0
        raise CheckpointCorruptError(path, f"not YAML: {error.problem}", offset) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointCorruptError(path, f"not YAML: {error}", 0) from error
    return Marker(
        num_shards=_integer(path, content, "num_shards", least=1),
        num_internal_shards=_integer(path, content, "num_internal_shards", least=1),
        written_ns=_integer(path, content, "datetime.secs_since_epoch") * _NANOS
        + _integer(path, content, "datetime.nanos_since_epoch"),
    )


def format_marker(marker: Marker) -> bytes:
    """The bytes that PERSIA writes."""
    seconds, nanos = divmod(marker.written_ns, _NANOS)
    return (
        f"---\nnum_shards: {marker.num_shards}\nnum_internal_shards: {marker.num_internal_shards}\n"
        f"datetime:\n  secs_since_epoch: {seconds}\n  nanos_since_epoch: {nanos}\n\n"
    ).encode()


def _integer(path: Path, content: object, key: str, least: int = 0) -> int:
    value = content
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise CheckpointCorruptError(path, f"{key} must be an integer of at least {least}, not {value!r}", 0)
    return value
