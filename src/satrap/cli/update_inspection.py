"""What a packet, a checkpoint of ours, a decision, or a folder of those is; and what becomes of an id.

Everything is read through `Storage`, so a URL does as well as a path.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from satrap.cli.inspection_facts import DimSummary, Facts, Reading, moment, owner_of
from satrap.cli.persia_inspection import examine_persia_packet, examine_persia_packets
from satrap.cli.progress import LoadProgress
from satrap.errors import InvalidInputError, SatrapError, TruncatedFileError, UpdateError
from satrap.formats.checkpoint import UpdateCheckpoint, open_checkpoint
from satrap.formats.decisions import parse_decision_name, read_hold, read_skips
from satrap.formats.manifest import FileEntry, Manifest, parse_manifest_name
from satrap.formats.packet import read_manifest
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_marker import MARKER
from satrap.formats.persia_packet import PersiaListing, list_directory, list_packets
from satrap.formats.row_file import describe_row_file
from satrap.formats.strict_json import MAX_JSON_BYTES, strict_json
from satrap.storage import Entry, Storage

__all__ = ["examine_update_file", "examine_update_folder"]

_QUARANTINE = "reason.json"
_WHOLE = "every byte was read, and is what the manifest says"
_HEADERS = "every manifest was read, and every file that it names is there with its size; no file was read"


def examine_update_file(storage: Storage, name: str, sign: int | None = None) -> Facts | None:
    """What the file `name` is, None if it is none of an update's. `damage` says what is wrong with it, or nothing.

    Raises:
        StorageError: it cannot be read at the moment.
        FileNotFoundError: it is not there.
    """
    decision = parse_decision_name(name)
    if parse_manifest_name(name) is not None:
        return _manifest(storage, name, sign)
    if decision is not None:
        return _decision(storage, *decision)
    if name.endswith(".arrow"):
        return _row_file(storage, name, sign)
    if name.endswith(".inc"):
        return examine_persia_packet(storage, name, sign)
    return None


def examine_update_folder(storage: Storage, sign: int | None = None) -> Facts | None:
    """What the folder is, None if it has nothing of an update's.

    Raises:
        StorageError: it cannot be listed.
    """
    listing = storage.list()
    if any(entry.name == _QUARANTINE for entry in listing):
        return _quarantined(storage, listing)
    manifests = [entry.name for entry in listing if parse_manifest_name(entry.name) and not entry.is_folder]
    if manifests:
        first = _read(storage, manifests[-1])
        if len(manifests) == 1 and isinstance(first, Manifest) and first.kind == "full":
            return _checkpoint(storage, sign)
        return _packets(storage, listing, manifests, sign)
    if any(parse_decision_name(entry.name) for entry in listing):
        return _packets(storage, listing, [], sign)
    if any(entry.name.endswith(".inc") for entry in listing):
        name = storage.url.rstrip("/").rpartition("/")[2]
        return examine_persia_packets(storage, PersiaListing({name: list_directory(storage, "")}), sign)
    packets = list_packets(storage, listing)
    if not packets.directories and any(
        re.fullmatch(r"inc_.+", entry.name) for entry in listing if entry.is_folder
    ):
        found = [entry.name for entry in listing if entry.is_folder and entry.name.startswith("inc_")]
        packets = PersiaListing({name: list_directory(storage, name) for name in found})
    if packets.directories:
        return examine_persia_packets(storage, packets, sign)
    return _checkpoints(storage, listing, sign)


def _manifest(storage: Storage, name: str, sign: int | None) -> Facts:
    """A packet or a checkpoint, by its manifest: everything it names is read."""
    facts: Facts = {"kind": "packet", "path": storage.path_of(name), "damage": ""}
    manifest = _read(storage, name)
    if not isinstance(manifest, Manifest):
        return facts | {"damage": str(manifest)}
    if manifest.kind == "full":
        facts["kind"] = "checkpoint"
    facts |= _header(manifest)
    reading = Reading(sign)
    try:
        _read_files(storage, manifest, manifest.files, reading)
    except SatrapError as error:
        return facts | reading.facts() | {"damage": str(error)}
    return facts | reading.facts() | _limits(manifest) | {"checked": _WHOLE}


def _checkpoint(storage: Storage, sign: int | None) -> Facts:
    facts: Facts = {"kind": "checkpoint", "path": storage.url, "damage": ""}
    try:
        checkpoint = open_checkpoint(storage)
    except SatrapError as error:
        return facts | {"damage": str(error)}
    return _manifest(storage, checkpoint.manifest.name, sign) | {"path": storage.url}


def _header(manifest: Manifest) -> Facts:
    """What the manifest says."""
    dense = manifest.dense
    return {
        "stream": manifest.stream,
        "sequence": str(manifest.sequence),
        "previous": None if manifest.previous is None else str(manifest.previous),
        "writer": manifest.writer,
        "shards": manifest.shards,
        "files": len(manifest.files),
        "records": manifest.records,
        "bytes": sum(entry.bytes for entry in manifest.files),
        "published": moment(manifest.published_ns),
        "oldest_event": moment(manifest.oldest_event_ns),
        "newest_event": moment(manifest.newest_event_ns),
        "embedding_config": manifest.embedding_config,
        "dense": f"{dense.model} version {dense.version}" if dense else None,
    }


def _limits(manifest: Manifest) -> Facts:
    return {
        "limits": [
            {"dim": dim, "rows": limits.rows, "norm_p999": limits.norm_p999}
            for dim, limits in sorted(manifest.limits.items())
        ]
    }


def _read_files(storage: Storage, manifest: Manifest, entries: Sequence[FileEntry], reading: Reading) -> None:
    """Read files page by page, checking them, and count.

    Raises:
        UpdateError: one of them is bad.
        StorageError: one cannot be read at the moment.
    """
    update = UpdateCheckpoint(storage, manifest)
    records, total = 0, sum(entry.rows for entry in entries)
    with LoadProgress(storage.url) as progress:
        for entry in entries:
            reading.dims.setdefault(entry.dim, DimSummary(entry.dim))
            for dim, signs, rows in update.pages(entry, ShardRoute()):
                reading.add(dim, signs, rows, sequence=str(manifest.sequence))
                records += len(signs)
                progress.update(records / total, records)


def _row_file(storage: Storage, name: str, sign: int | None) -> Facts:
    """A data file, against the manifest that names it if that is beside it."""
    path = storage.path_of(name)
    facts: Facts = {"kind": "row file", "path": path, "damage": ""}
    manifest, entry = _owner(storage, name)
    try:
        if entry is None or manifest is None:
            with storage.open(name) as file:
                entry, shards = describe_row_file(path, name, file)
            manifest = _manifest_of(entry, shards)
        facts |= {
            "manifest": manifest.name if manifest.writer else "none that is beside it names this file",
            "holds": entry.kind,
            "dim": entry.dim,
            "dtype": entry.dtype,
            "shard": f"{entry.shard} of {manifest.shards}",
            "records": entry.rows,
            "bytes": entry.bytes,
            "checksum": entry.checksum,
        }
        reading = Reading(sign)
        _read_files(storage, manifest, [entry], reading)
    except SatrapError as error:
        return facts | {"damage": str(error)}
    checked = (
        _WHOLE if manifest.writer else "every byte was read; there is no manifest that could contradict it"
    )
    return facts | reading.facts() | {"checked": checked}


def _owner(storage: Storage, name: str) -> tuple[Manifest, FileEntry] | tuple[None, None]:
    """The manifest that names a data file, and its entry: the one that satrap would call so."""
    beside = f"{name.partition('.')[0]}.json"
    if parse_manifest_name(beside) is not None and storage.exists(beside):
        manifest = _read(storage, beside)
        if isinstance(manifest, Manifest):
            for entry in manifest.files:
                if entry.name == name:
                    return manifest, entry
    return None, None


def _manifest_of(entry: FileEntry, shards: int) -> Manifest:
    """What reads a file that has no manifest."""
    return Manifest("incremental", "", "", 0, None, shards, 0, 0, 0, (entry,))


def _decision(storage: Storage, what: str, stream: str) -> Facts:
    """A hold, or skips."""
    name = f"{what}-{stream}.json"
    facts: Facts = {"kind": f"{what} of the stream {stream}", "path": storage.path_of(name), "damage": ""}
    try:
        if what == "skip":
            return facts | {"skips": [_said(vars(skip)) for skip in read_skips(storage, stream)]}
        hold = read_hold(storage, stream)
    except UpdateError as error:
        return facts | {"damage": str(error)}
    return facts | (_said(vars(hold)) if hold is not None else {"damage": f"{name}: it went away"})


def _said(decision: dict[str, Any]) -> Facts:
    return {
        key.removesuffix("_ns"): moment(value) if key == "time_ns" else str(value)
        for key, value in decision.items()
    }


def _quarantined(storage: Storage, listing: Sequence[Entry]) -> Facts:
    """A packet that a server refused, with what it could copy of it."""
    path = storage.path_of(_QUARANTINE)
    facts: Facts = {"kind": "quarantined packet", "path": storage.url, "damage": ""}
    try:
        record = strict_json(path, storage.read(_QUARANTINE, limit=MAX_JSON_BYTES))
        record.check_format("satrap-quarantine", 1)
    except UpdateError as error:
        return facts | {"damage": str(error)}
    since = record.content.get("since_ns")
    return facts | {
        "packet": record.content.get("name"),
        "sequence": str(record.content.get("sequence")),
        "code": record.content.get("code"),
        "reason": record.content.get("reason"),
        "since": moment(since) if isinstance(since, int) else None,
        "decision": record.content.get("decision"),
        "copies": [entry.name for entry in listing if entry.name != _QUARANTINE],
        "checked": "the reason was read; inspect the manifest among the copies to see what is wrong with it",
    }


def _packets(storage: Storage, listing: Sequence[Entry], names: Sequence[str], sign: int | None) -> Facts:
    """A folder of packets: the chain of the manifests; the files by their sizes, and one sign's if it is asked for."""
    sizes = {entry.name: entry.size for entry in listing if not entry.is_folder}
    manifests: list[Manifest] = []
    damaged: list[str] = []
    reading = Reading(sign)
    for name in names:
        manifest = _read(storage, name)
        if not isinstance(manifest, Manifest):
            damaged.append(str(manifest))
            continue
        manifests.append(manifest)
        try:
            _check_sizes(storage, manifest, sizes)
            if sign is not None:
                owner = owner_of(sign, manifest.shards)
                own = [entry for entry in manifest.files if entry.shard == owner]
                _read_files(storage, manifest, own, reading)
        except SatrapError as error:
            damaged.append(str(error))
    streams = sorted({manifest.stream for manifest in manifests})
    decided = [entry.name for entry in listing if parse_decision_name(entry.name)]
    facts: Facts = {
        "kind": "folder of packets",
        "path": storage.url,
        "damage": damaged[0] if damaged else "",
        "packets": len(manifests),
        "damaged_packets": len(damaged),
        "streams": [
            _stream(stream, [one for one in manifests if one.stream == stream]) for stream in streams
        ],
        "records": sum(manifest.records for manifest in manifests),
        "bytes": sum(entry.bytes for manifest in manifests for entry in manifest.files),
        "decisions": decided,
        "checked": _HEADERS,
    }
    return facts if sign is None else facts | {"id": sign, "rows_of_id": reading.found}


def _check_sizes(storage: Storage, manifest: Manifest, sizes: dict[str, int]) -> None:
    for entry in manifest.files:
        size = sizes.get(entry.name)
        if size != entry.bytes:
            found = (
                "is not there" if size is None else f"has {size} bytes, and the manifest says {entry.bytes}"
            )
            raise TruncatedFileError(storage.path_of(entry.name), f"the file {found}")


def _stream(stream: str, manifests: Sequence[Manifest]) -> Facts:
    """The chain of one stream's packets: where it begins and ends, where it is broken or forked."""
    ordered = sorted(manifests, key=lambda one: one.sequence)
    sequences = [one.sequence for one in ordered]
    gaps, forks = [], []
    for before, after in pairwise(ordered):
        if before.sequence == after.sequence:
            forks.append(str(after.sequence))
        elif after.previous != before.sequence and after.kind == "incremental":
            gaps.append(f"{before.sequence} to {after.sequence} (which follows {after.previous})")
    return {
        "stream": stream,
        "sequences": f"{sequences[0]} to {sequences[-1]}",
        "packets": len(ordered),
        "gaps": gaps,
        "forks": forks,
        "newest_event": moment(max(one.newest_event_ns for one in ordered)),
    }


def _checkpoints(storage: Storage, listing: Sequence[Entry], sign: int | None) -> Facts | None:
    """A folder of checkpoints, of ours or PERSIA's; None if no folder in it is one."""
    found = []
    for entry in listing:
        if not entry.is_folder:
            continue
        folder = storage.subfolder(entry.name)
        inside = folder.list()
        if any(one.name == MARKER for one in inside):
            found.append({"folder": entry.name, "format": "PERSIA", "damage": ""})
        elif any(parse_manifest_name(one.name) for one in inside):
            found.append({"folder": entry.name, "format": "satrap", **_checkpoint_line(folder)})
    if not found:
        return None
    damage = next((one["damage"] for one in found if one["damage"]), "")
    if sign is not None:
        raise InvalidInputError(
            f"{storage.url}: a folder of checkpoints: name one of them to see the rows of an id"
        )
    return {
        "kind": "folder of checkpoints",
        "path": storage.url,
        "damage": damage,
        "checkpoints": found,
        "checked": _HEADERS,
    }


def _checkpoint_line(folder: Storage) -> Facts:
    try:
        manifest = open_checkpoint(folder).manifest
    except SatrapError as error:
        return {"damage": str(error)}
    return {
        "stream": manifest.stream,
        "sequence": str(manifest.sequence),
        "records": manifest.records,
        "published": moment(manifest.published_ns),
        "damage": "",
    }


def _read(storage: Storage, name: str) -> Manifest | UpdateError:
    """A manifest, or what is wrong with it."""
    try:
        return read_manifest(storage, name)
    except UpdateError as error:
        return error
