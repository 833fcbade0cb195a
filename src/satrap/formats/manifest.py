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
from typing import Any, Final, Literal, cast

from satrap.errors import OrdinalRangeError, PathEscapeError, RowCountError
from satrap.formats.strict_json import MAX_INTEGER, JsonObject, shown, strict_json

__all__ = [
    "MAX_SEQUENCE",
    "Dense",
    "DimLimits",
    "FileEntry",
    "FileKind",
    "Manifest",
    "STREAM_PATTERN",
    "RowDType",
    "UpdateKind",
    "after_sequence",
    "format_manifest",
    "manifest_name",
    "parse_manifest",
    "parse_manifest_name",
]

UpdateKind = Literal["incremental", "full"]
FileKind = Literal["rows", "deletes"]
RowDType = Literal["float32", "float16"]

FORMAT: Final = "satrap-update"
VERSION: Final = 1

MAX_SEQUENCE: Final = 2**32 - 1
"""A row's ordinal is its packet's sequence, and has 32 bits."""

_MAX_DIM: Final = 4096
_MAX_SHARDS: Final = 65_536

_NAME = re.compile(r"([0-9]{20})-([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.json")
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
STREAM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
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
    root = strict_json(path, data)
    root.check_format(FORMAT, VERSION)
    kind = cast(UpdateKind, root.one_of("kind", ("incremental", "full")))
    sequence = _sequence(root, kind)
    oldest = root.integer("oldest_event_ns", 0, MAX_INTEGER)
    newest = root.integer("newest_event_ns", 0, MAX_INTEGER)
    if oldest > newest:
        root.refuse(f"oldest_event_ns {oldest} is later than newest_event_ns {newest}")
    shards = root.integer("shards", 1, _MAX_SHARDS)
    manifest = Manifest(
        kind=kind,
        stream=root.matching("stream", STREAM_PATTERN),
        writer=root.matching("writer", _WRITER),
        sequence=sequence,
        previous=_previous(root, kind, sequence),
        shards=shards,
        published_ns=root.integer("published_ns", 0, MAX_INTEGER),
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


def _sequence(root: JsonObject, kind: UpdateKind) -> int:
    value = root.value("sequence")
    if isinstance(value, int) and not isinstance(value, bool) and value > MAX_SEQUENCE:
        raise OrdinalRangeError(
            root.path,
            f"the sequence {shown(value)} does not fit into 32 bits: begin a new stream with a checkpoint",
        )
    return root.integer("sequence", 0 if kind == "full" else 1, MAX_SEQUENCE)


def _previous(root: JsonObject, kind: UpdateKind, sequence: int) -> int | None:
    if kind == "full":
        if root.value("previous") is not None:
            root.refuse("previous must be null: a checkpoint stands on its own")
        return None
    return root.integer("previous", 0, sequence - 1)


def _dense(root: JsonObject) -> Dense | None:
    if root.content.get("dense") is None:
        return None
    dense = root.object("dense")
    return Dense(dense.text("model"), dense.text("version"))


def _limits(root: JsonObject) -> dict[int, DimLimits]:
    limits = {}
    content = root.object("limits")
    for key in content.content:
        if not _DIM.fullmatch(key) or int(key) > _MAX_DIM:
            content.refuse(f"{shown(key)} is not a dim from 1 to {_MAX_DIM}")
        of_dim = content.object(key)
        norm = of_dim.value("norm_p999")
        if not isinstance(norm, (int, float)) or isinstance(norm, bool):
            of_dim.refuse(f"norm_p999 must be a number, not {shown(norm)}")
        if not 0 <= norm <= 1e300 or not math.isfinite(norm):
            of_dim.refuse(f"norm_p999 must be finite and not negative, not {shown(norm)}")
        limits[int(key)] = DimLimits(of_dim.integer("rows", 0, MAX_INTEGER), float(norm))
    return limits


def _files(root: JsonObject, shards: int, kind: UpdateKind) -> tuple[FileEntry, ...]:
    files: list[FileEntry] = []
    names: set[str] = set()
    for index, content in enumerate(root.objects("files")):
        entry = _file(content, shards)
        if entry.name in names:
            root.refuse(f"files[{index}]: {entry.name} is named twice")
        if kind == "full" and entry.kind == "deletes":
            root.refuse(f"files[{index}]: a checkpoint has no deletes")
        names.add(entry.name)
        files.append(entry)
    return tuple(files)


def _file(reader: JsonObject, shards: int) -> FileEntry:
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
        rows=reader.integer("rows", 0, MAX_INTEGER),
        bytes=reader.integer("bytes", 1, MAX_INTEGER),
        checksum=reader.matching("checksum", _CHECKSUM),
    )
    if entry.rows * entry.record_bytes > entry.bytes:
        raise RowCountError(
            reader.path,
            f"{entry.name} is said to have {entry.rows} records of {entry.record_bytes} bytes in {entry.bytes} bytes",
        )
    return entry


def _file_name(reader: JsonObject) -> str:
    name = reader.text("name")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise PathEscapeError(reader.path, f"it names the file {name!r}, which is not one of its own folder")
    if name.startswith(".") or parse_manifest_name(name) is not None:
        reader.refuse(f"name {shown(name)} is that of an unfinished file or of a manifest")
    return name
