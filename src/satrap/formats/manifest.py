"""The manifest: the JSON file that says what an update consists of, and that is published after everything it names.

A packet (`incremental`) is a manifest and the files it names, in a folder of many packets; a checkpoint (`full`) is
one with a folder of its own. `docs/packet-format.md` and `docs/checkpoint-format.md` are the specifications;
`parse_manifest` is the only reader and checks all that can be checked without the files.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, cast

from satrap.errors import (
    FormatVersionError,
    ManifestError,
    OrdinalRangeError,
    PathEscapeError,
    RowCountError,
)

__all__ = [
    "MAX_MANIFEST_BYTES",
    "MAX_SEQUENCE",
    "Dense",
    "DimLimits",
    "FileEntry",
    "FileKind",
    "Manifest",
    "RowDType",
    "UpdateKind",
    "after_sequence",
    "format_manifest",
    "manifest_name",
    "parse_manifest",
    "parse_manifest_name",
    "strict_json",
]

UpdateKind = Literal["incremental", "full"]
FileKind = Literal["rows", "deletes"]
RowDType = Literal["float32", "float16"]

FORMAT: Final = "satrap-update"
VERSION: Final = 1

MAX_SEQUENCE: Final = 2**32 - 1
"""A row's ordinal is its packet's sequence, and has 32 bits."""

MAX_MANIFEST_BYTES: Final = 64 << 20
"""Larger ones are refused: a reader need not hold more."""

_MAX_DIM: Final = 4096
_MAX_SHARDS: Final = 65_536
_MAX_INTEGER: Final = 2**63 - 1

_NAME = re.compile(r"([0-9]{20})-([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.json")
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHECKSUM = re.compile(r"xxh3_64:[0-9a-f]{16}")
_DIM = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class FileEntry:
    """One Arrow file of an update: records of one dim that belong to shard `shard` of the manifest's `shards`.

    `rows` counts records. `dtype` is None for deletes. `checksum` is XXH3 with 64 bits of the file's `bytes` bytes.
    """

    name: str
    kind: FileKind
    dim: int
    dtype: RowDType | None
    shard: int
    rows: int
    bytes: int
    checksum: str

    @property
    def record_bytes(self) -> int:
        """What one record takes at least."""
        return 8 + (self.dim * (4 if self.dtype == "float32" else 2) if self.dtype else 0)


@dataclass(frozen=True)
class Dense:
    """The version of a dense model that was trained together with these rows."""

    model: str
    version: str


@dataclass(frozen=True)
class DimLimits:
    """What a checkpoint says of the rows of one dim, for guardrails: how many, and the norm that 99.9 % are below."""

    rows: int
    norm_p999: float


@dataclass(frozen=True)
class Manifest:
    """What an update consists of. Times are nanoseconds since the epoch; event times are 0 if there was no event.

    `previous` is the sequence that must be applied before this packet; None for a checkpoint. The records' order is
    that of `files`, then that within each file; the last record of a sign wins.
    """

    kind: UpdateKind
    stream: str
    writer: str
    sequence: int
    previous: int | None
    shards: int
    published_ns: int
    oldest_event_ns: int
    newest_event_ns: int
    files: Sequence[FileEntry]
    embedding_config: str | None = None
    dense: Dense | None = None
    limits: Mapping[int, DimLimits] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file name that goes with it."""
        return manifest_name(self.sequence, self.writer)

    @property
    def records(self) -> int:
        """Rows and deletes, of all shards."""
        return sum(entry.rows for entry in self.files)


def manifest_name(sequence: int, writer: str) -> str:
    """The name under which a manifest is published. Names sort as their sequences do."""
    return f"{sequence:020d}-{writer}.json"


def parse_manifest_name(name: str) -> tuple[int, str] | None:
    """(sequence, writer) of a manifest's name, None for any other name. The sequence may be any of 20 digits."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


def after_sequence(sequence: int) -> str:
    """What a listing starts after to show the manifests of `sequence` and all later ones."""
    return f"{sequence:020d}"


def format_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest: JSON, indented, in the order of the specification, and a line feed."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": manifest.kind,
        "stream": manifest.stream,
        "writer": manifest.writer,
        "sequence": manifest.sequence,
        "previous": manifest.previous,
        "shards": manifest.shards,
        "published_ns": manifest.published_ns,
        "oldest_event_ns": manifest.oldest_event_ns,
        "newest_event_ns": manifest.newest_event_ns,
        "embedding_config": manifest.embedding_config,
        "dense": manifest.dense
        and {
            "model": manifest.dense.model,
            "version": manifest.dense.version,
        },
    }
    if manifest.kind == "full":
        content["limits"] = {
            str(dim): {"rows": limits.rows, "norm_p999": limits.norm_p999}
            for dim, limits in sorted(manifest.limits.items())
        }
    head = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).removesuffix("\n}")
    files = ",\n".join(f"  {json.dumps(vars(entry), ensure_ascii=False)}" for entry in manifest.files)
    listed = f"[\n{files}\n ]" if files else "[]"
    return f'{head},\n "files": {listed}\n}}\n'.encode()


def parse_manifest(path: str, data: bytes) -> Manifest:
    """Read and check a manifest. `path` is what errors call it; if its last part is a manifest's name, it must agree.

    Raises:
        ManifestError: not JSON, a key is missing, a value is not what it may be, or two of them contradict each other.
        FormatVersionError: of a later version.
        OrdinalRangeError: a sequence of 2^32 or more.
        PathEscapeError: it names a file outside its own folder.
        RowCountError: a file cannot have as many rows as it is said to have.
    """
    root = _Reader(path, "", strict_json(path, data))
    if root.content.get("format") != FORMAT:
        root.refuse(f'"format" is not "{FORMAT}": this is not a manifest')
    version = root.integer("version", 1, _MAX_INTEGER)
    if version > VERSION:
        raise FormatVersionError(
            path, f"it is of format version {version}, and this satrap reads {VERSION}: update satrap first"
        )
    kind = cast(UpdateKind, root.one_of("kind", ("incremental", "full")))
    sequence = _sequence(root, kind)
    oldest = root.integer("oldest_event_ns", 0, _MAX_INTEGER)
    newest = root.integer("newest_event_ns", 0, _MAX_INTEGER)
    if oldest > newest:
        root.refuse(f"oldest_event_ns {oldest} is later than newest_event_ns {newest}")
    shards = root.integer("shards", 1, _MAX_SHARDS)
    manifest = Manifest(
        kind=kind,
        stream=root.matching("stream", _STREAM),
        writer=root.matching("writer", _WRITER),
        sequence=sequence,
        previous=_previous(root, kind, sequence),
        shards=shards,
        published_ns=root.integer("published_ns", 0, _MAX_INTEGER),
        oldest_event_ns=oldest,
        newest_event_ns=newest,
        embedding_config=root.optional_text("embedding_config"),
        dense=_dense(root),
        limits=_limits(root) if kind == "full" else {},
        files=_files(root, shards, kind),
    )
    named = parse_manifest_name(path.rpartition("/")[2])
    if named is not None and named != (manifest.sequence, manifest.writer):
        root.refuse(f"its name is another manifest's; this one's is {manifest.name}")
    return manifest


def strict_json(path: str, data: bytes) -> dict[str, Any]:
    """Read a JSON object in UTF-8, and nothing that some readers would take for one.

    Raises:
        ManifestError: too large, not UTF-8, not JSON, a key that comes twice, NaN or an infinity, or not an object.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(path, f"it has more than {MAX_MANIFEST_BYTES:,} bytes")

    def refuse_constant(word: str) -> NoReturn:
        raise ManifestError(path, f"{word} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
            raise ManifestError(path, f"the key {twice!r} comes twice")
        return content

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise ManifestError(path, f"not UTF-8 (at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ManifestError(
            path, f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, brackets of thousands of levels
        raise ManifestError(path, f"not JSON that can be read: {error}") from error
    if not isinstance(content, dict):
        raise ManifestError(path, "it is not a JSON object")
    return content


@dataclass(frozen=True)
class _Reader:
    """Typed access to one JSON object; `where` is its place in the manifest, for errors."""

    path: str
    where: str
    content: Mapping[str, Any]

    def refuse(self, reason: str) -> NoReturn:
        raise ManifestError(self.path, f"{self.where}{reason}")

    def value(self, key: str) -> Any:
        if key not in self.content:
            self.refuse(f"{key} is missing")
        return self.content[key]

    def integer(self, key: str, least: int, most: int) -> int:
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(f"{key} must be an integer from {least} to {most}, not {_short(value)}")
        return value

    def one_of(self, key: str, words: Sequence[str]) -> str:
        value = self.value(key)
        if not isinstance(value, str) or value not in words:
            self.refuse(f"{key} must be {' or '.join(words)}, not {_short(value)}")
        return value

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value or len(value) > 256 or not value.isprintable():
            self.refuse(f"{key} must be a text of 1 to 256 printable characters, not {_short(value)}")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.content.get(key) is None else self.text(key)

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self.text(key)
        if not pattern.fullmatch(value):
            self.refuse(f"{key} must match {pattern.pattern}, which {_short(value)} does not")
        return value

    def object(self, key: str) -> "_Reader":
        value = self.value(key)
        if not isinstance(value, dict):
            self.refuse(f"{key} must be an object, not {_short(value)}")
        return _Reader(self.path, f"{self.where}{key}.", value)


def _sequence(root: _Reader, kind: UpdateKind) -> int:
    value = root.value("sequence")
    if isinstance(value, int) and not isinstance(value, bool) and value > MAX_SEQUENCE:
        raise OrdinalRangeError(
            root.path,
            f"the sequence {_short(value)} does not fit into 32 bits: begin a new stream with a checkpoint",
        )
    return root.integer("sequence", 0 if kind == "full" else 1, MAX_SEQUENCE)


def _previous(root: _Reader, kind: UpdateKind, sequence: int) -> int | None:
    if kind == "full":
        if root.value("previous") is not None:
            root.refuse("previous must be null: a checkpoint stands on its own")
        return None
    return root.integer("previous", 0, sequence - 1)


def _dense(root: _Reader) -> Dense | None:
    if root.content.get("dense") is None:
        return None
    dense = root.object("dense")
    return Dense(dense.text("model"), dense.text("version"))


def _limits(root: _Reader) -> dict[int, DimLimits]:
    limits = {}
    content = root.object("limits")
    for key in content.content:
        if not _DIM.fullmatch(key) or int(key) > _MAX_DIM:
            content.refuse(f"{_short(key)} is not a dim from 1 to {_MAX_DIM}")
        of_dim = content.object(key)
        norm = of_dim.value("norm_p999")
        if not isinstance(norm, (int, float)) or isinstance(norm, bool):
            of_dim.refuse(f"norm_p999 must be a number, not {_short(norm)}")
        if not 0 <= norm <= 1e300 or not math.isfinite(norm):
            of_dim.refuse(f"norm_p999 must be finite and not negative, not {_short(norm)}")
        limits[int(key)] = DimLimits(of_dim.integer("rows", 0, _MAX_INTEGER), float(norm))
    return limits


def _files(root: _Reader, shards: int, kind: UpdateKind) -> tuple[FileEntry, ...]:
    listed = root.value("files")
    if not isinstance(listed, list):
        root.refuse(f"files must be a list, not {_short(listed)}")
    files: list[FileEntry] = []
    names: set[str] = set()
    for index, content in enumerate(listed):
        if not isinstance(content, dict):
            root.refuse(f"files[{index}] must be an object, not {_short(content)}")
        entry = _file(_Reader(root.path, f"files[{index}].", content), shards)
        if entry.name in names:
            root.refuse(f"files[{index}]: {entry.name} is named twice")
        if kind == "full" and entry.kind == "deletes":
            root.refuse(f"files[{index}]: a checkpoint has no deletes")
        names.add(entry.name)
        files.append(entry)
    return tuple(files)


def _file(reader: _Reader, shards: int) -> FileEntry:
    kind = cast(FileKind, reader.one_of("kind", ("rows", "deletes")))
    dtype = None
    if kind == "rows":
        dtype = cast(RowDType, reader.one_of("dtype", ("float32", "float16")))
    elif reader.content.get("dtype") is not None:
        reader.refuse("dtype must be null: deletes have no rows")
    entry = FileEntry(
        name=_file_name(reader),
        kind=kind,
        dim=reader.integer("dim", 1, _MAX_DIM),
        dtype=dtype,
        shard=reader.integer("shard", 0, shards - 1),
        rows=reader.integer("rows", 0, _MAX_INTEGER),
        bytes=reader.integer("bytes", 1, _MAX_INTEGER),
        checksum=reader.matching("checksum", _CHECKSUM),
    )
    if entry.rows * entry.record_bytes > entry.bytes:
        raise RowCountError(
            reader.path,
            f"{entry.name} is said to have {entry.rows} records of {entry.record_bytes} bytes in {entry.bytes} bytes",
        )
    return entry


def _file_name(reader: _Reader) -> str:
    name = reader.text("name")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise PathEscapeError(reader.path, f"it names the file {name!r}, which is not one of its own folder")
    if name.startswith(".") or parse_manifest_name(name) is not None:
        reader.refuse(f"name {_short(name)} is that of an unfinished file or of a manifest")
    return name


def _short(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."
