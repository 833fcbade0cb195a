"""What lies in a packet directory and in a folder of checkpoints, who needs it, and its removal.

The shell of `satrap.retention`, which decides.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from satrap.cli.records import print_record
from satrap.cli.shards import STATUS_SECONDS, Said, ask_all, status_of_all
from satrap.embedding_server.checkpoints import (
    Candidate,
    CheckpointSettings,
    is_folder_of_checkpoints,
    open_checkpoint,
)
from satrap.errors import CheckpointError, InvalidInputError, SatrapError, StorageError, UpdateError
from satrap.formats.decisions import read_hold
from satrap.formats.manifest import Manifest, manifest_name, parse_manifest_name
from satrap.formats.packet import read_manifest
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_marker import MARKER
from satrap.formats.persia_packet import PACKET_MARKER, PersiaDirectory, list_packets, parse_packet
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.retention import (
    GRACE_NS,
    PrunePlan,
    Publication,
    Remainder,
    ServerPosition,
    StoredCheckpoint,
    StoredPacket,
    plan_pruning,
)
from satrap.storage import Entry, Storage, StorageKind, open_storage

__all__ = ["Asked", "Survey", "remove", "show", "survey"]

log = logging.getLogger("satrap.prune")

PERSIA_STREAM = "persia"

_DATA_FILE = re.compile(r"(\d{20}-[A-Za-z0-9_-]+)\.\d+-[a-z0-9]+\.\d+-of-\d+(\.\d+)?\.arrow")
_TEMPORARY = re.compile(r"\.\d{20}-[A-Za-z0-9_-]+\..+\.[0-9a-f]{16}")
_HOLD = re.compile(r"hold-(.+)\.json")
_READERS = 8
"""Manifests read at once: over a network most of the time is waiting."""

_LINE_SECONDS = 5.0

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Asked:
    """What is to be pruned, by which rules. Locations are paths or URLs, empty: none. `storage` says what a path of
    packets without a scheme means.
    """

    packets: str = ""
    checkpoints: str = ""
    storage: StorageKind = "local"
    margin_seconds: int = 600
    keep: int = 2
    servers: tuple[str, ...] = ()


@dataclass
class Survey:
    """What was found, what is planned, and in which storage each publication lies, by its name."""

    plan: PrunePlan
    homes: dict[str, Storage]
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Found:
    """What lies in one place."""

    storage: Storage
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)
    packets: list[StoredPacket] = field(default_factory=list)
    remainders: list[Remainder] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    holds: dict[str, int] = field(default_factory=dict)

    def names(self) -> Iterator[str]:
        items: list[StoredCheckpoint | StoredPacket | Remainder]
        items = [*self.checkpoints, *self.packets, *self.remainders]
        return (item.publication.name for item in items)


def survey(asked: Asked, *, now_ns: int | None = None) -> Survey:
    """Look what there is, ask the servers, and plan. Nothing is changed.

    Raises:
        InvalidInputError: neither packets nor checkpoints are named, or there is no such directory.
        CheckpointError: there is no such folder of checkpoints, or the one that is named cannot be used.
        UpdateError: a hold cannot be read, so it is not known what it needs.
        StorageError: something cannot be listed.
    """
    if not asked.packets and not asked.checkpoints:
        raise InvalidInputError(
            "nothing is named: pass --packets and --checkpoints, or set updates.directory and "
            "infer_config.embedding_checkpoint"
        )
    found: list[_Found] = []
    if asked.checkpoints:
        found.append(_find_checkpoints(open_storage(asked.checkpoints), asked.margin_seconds))
    if asked.packets:
        found.append(_find_packets(open_storage(asked.packets, asked.storage)))
    servers, remarks = _ask(asked.servers)
    plan = plan_pruning(
        [checkpoint for place in found for checkpoint in place.checkpoints],
        [packet for place in found for packet in place.packets],
        remainders=[remainder for place in found for remainder in place.remainders],
        servers=servers,
        holds={stream: through for place in found for stream, through in place.holds.items()},
        keep=asked.keep,
        now_ns=time.time_ns() if now_ns is None else now_ns,
    )
    return Survey(
        plan,
        {name: place.storage for place in found for name in place.names()},
        [*(remark for place in found for remark in place.remarks), *remarks],
    )


def remove(surveyed: Survey) -> None:
    """Remove what is planned, in its order. What has gone meanwhile is gone.

    Raises:
        StorageError: something cannot be removed; what is left hangs together, and goes the next time.
    """
    with _progress("removing", len(surveyed.plan.removed)) as step:
        for publication in surveyed.plan.removed:
            storage = surveyed.homes[publication.name]
            for file in publication.files:
                with suppress(FileNotFoundError):
                    storage.remove(file)
            for folder in publication.folders:
                with suppress(
                    FileNotFoundError, StorageError
                ):  # somebody else's file is in it, or there are no folders
                    storage.remove(folder)
            step()


def show(surveyed: Survey, *, removed: bool, as_json: bool) -> None:
    """Print what goes, or has gone, what stays, and why."""
    plan = surveyed.plan
    remarks = [*surveyed.remarks, *plan.remarks]
    if as_json:
        print(json.dumps(_facts(plan, remarks, removed), indent=2))
        return
    for kept in plan.kept:
        if not kept.stream:
            continue
        print_record(
            f"stream {kept.stream}",
            [
                ("checkpoints", ", ".join(item.publication.name for item in kept.checkpoints)),
                ("packets", f"{kept.packets:,}"),
                (
                    "needed",
                    "all of them" if kept.covers is None else f"what comes after {kept.covers:,}",
                ),
                ("because", kept.reason),
            ],
        )
    print_record(
        "removed" if removed else "can be removed",
        [
            ("checkpoints", ", ".join(item.publication.name for item in plan.checkpoints) or "none"),
            ("packets", _span([item.publication.name for item in plan.packets])),
            ("remainders", _span([item.publication.name for item in plan.remainders])),
            ("bytes", decimal(plan.bytes)),
        ],
    )
    for remark in remarks:
        print(f"note: {remark}")
    if plan.removed and not removed:
        print("nothing was removed; pass --yes to do it")


def _span(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{len(names):,}, {names[0]} to {names[-1]}"


def _facts(plan: PrunePlan, remarks: Sequence[str], removed: bool) -> dict[str, object]:
    return {
        "removed": removed,
        "bytes": plan.bytes,
        "checkpoints": [item.publication.name for item in plan.checkpoints],
        "packets": [item.publication.name for item in plan.packets],
        "remainders": [item.publication.name for item in plan.remainders],
        "kept": [
            {
                "stream": kept.stream,
                "checkpoints": [item.publication.name for item in kept.checkpoints],
                "packets": kept.packets,
                "needed_after": kept.covers,
                "reason": kept.reason,
            }
            for kept in plan.kept
        ],
        "notes": list(remarks),
    }


def _find_checkpoints(storage: Storage, margin_seconds: int) -> _Found:
    """The checkpoints of a folder of them, or the one that it is."""
    found = _Found(storage)
    settings = CheckpointSettings(ShardRoute(), margin_seconds)
    if not is_folder_of_checkpoints(storage.url):
        opened = open_checkpoint(storage.url, settings)
        found.checkpoints.append(
            _checkpoint(_Publication(_normal(storage.url)), Candidate.of(opened), opened.origin.replay_from)
        )
        return found
    folders = [entry.name for entry in storage.list() if entry.is_folder]
    for folder, listed in _each(
        "looking at checkpoints", folders, lambda folder: _look(storage, folder, settings)
    ):
        if isinstance(listed, StoredCheckpoint):
            found.checkpoints.append(listed)
        elif isinstance(listed, Remainder):
            found.remainders.append(listed)
        elif listed:
            found.remarks.append(f"{storage.path_of(folder)} is left alone: {listed}")
    return found


def _look(storage: Storage, folder: str, settings: CheckpointSettings) -> StoredCheckpoint | Remainder | str:
    """What a subfolder is; a sentence if it cannot be told."""
    files = list(_files(storage, folder))
    own = storage.subfolder(folder)
    publication = _Publication(_normal(own.url), files)
    begun = {file.rpartition("/")[2] for file, _ in files}
    try:
        if not any(parse_manifest_name(name) or name == MARKER for name in begun):
            if files and all(_DATA_FILE.fullmatch(name) or _TEMPORARY.fullmatch(name) for name in begun):
                return Remainder(publication.unfinished(folder))
            return "it is no checkpoint, or one that is not written to its end" if files else ""
        opened = open_checkpoint(own.url, settings)
    except (CheckpointError, UpdateError, StorageError) as error:
        return str(error)
    return _checkpoint(publication, Candidate.of(opened), opened.origin.replay_from, folder)


def _checkpoint(
    publication: "_Publication", candidate: Candidate, replay_from: int, folder: str = ""
) -> StoredCheckpoint:
    covers = replay_from - 1 if candidate.stream == PERSIA_STREAM else candidate.sequence
    return StoredCheckpoint(publication.finished(folder), candidate.stream, candidate.sequence, covers)


def _files(storage: Storage, folder: str) -> Iterator[tuple[str, Entry]]:
    for entry in storage.list(folder, temporary=True):
        name = f"{folder}/{entry.name}"
        if entry.is_folder:
            yield from _files(storage, name)
        else:
            yield name, entry


def _find_packets(storage: Storage) -> _Found:
    if storage.local is not None and not storage.local.is_dir():
        raise InvalidInputError(
            f"{storage.url}: no such directory; name the one that the trainer publishes into"
        )
    found = _Found(storage)
    entries = storage.list(temporary=True)
    for entry in entries:
        hold = _HOLD.fullmatch(entry.name)
        decided = read_hold(storage, hold[1]) if hold else None
        if hold and decided is not None:
            found.holds[hold[1]] = decided.keep_through
    _find_ours(found, [entry for entry in entries if not entry.is_folder])
    directories = list(list_packets(storage, entries).directories.values())
    for _, packet in _each(
        "reading packets of PERSIA's", directories, lambda directory: _persia_packet(storage, directory)
    ):
        found.packets.append(packet)
    return found


def _find_ours(found: _Found, entries: Sequence[Entry]) -> None:
    """Packets with their data files, and data files without a packet."""
    storage = found.storage
    by_prefix: dict[str, list[tuple[str, Entry]]] = {}
    for entry in entries:
        data = _DATA_FILE.fullmatch(entry.name)
        if data:
            by_prefix.setdefault(data[1], []).append((entry.name, entry))
        elif _TEMPORARY.fullmatch(entry.name):
            found.remainders.append(
                Remainder(_Publication(storage.path_of(entry.name), [(entry.name, entry)]).unfinished())
            )
    manifests = [entry for entry in entries if parse_manifest_name(entry.name)]

    def read(entry: Entry) -> Manifest | SatrapError | None:
        try:
            return read_manifest(storage, entry.name)
        except FileNotFoundError:
            return None
        except SatrapError as error:
            return error

    for entry, manifest in _each("reading manifests", manifests, read):
        files = [(entry.name, entry), *by_prefix.pop(entry.name.removesuffix(".json"), [])]
        publication = _Publication(storage.path_of(entry.name), files).finished()
        names = frozenset([entry.name])
        if isinstance(manifest, SatrapError):
            found.packets.append(StoredPacket(publication, "", None, names, str(manifest)))
        elif manifest is not None and manifest.previous is not None:
            assert entry.name == manifest_name(manifest.sequence, manifest.writer)
            found.packets.append(StoredPacket(publication, manifest.stream, manifest.sequence, names))
    found.remainders += [
        Remainder(_Publication(storage.path_of(files[0][0]), files).unfinished())
        for files in by_prefix.values()
    ]


def _persia_packet(storage: Storage, directory: PersiaDirectory) -> StoredPacket:
    """One of PERSIA's directories. Its files are read to their ends: otherwise their times are not believed."""
    files = [(file.name, Entry(file.name, file.size, file.modified_ns)) for file in directory.files]
    publication = _Publication(storage.path_of(directory.name), files)
    marker = [f"{directory.name}/{PACKET_MARKER}"] if directory.marked else []
    whole = (
        publication.finished(directory.name, last=marker)
        if marker
        else publication.unfinished(directory.name)
    )
    names = frozenset(file.name for file in directory.files)
    if whole.changed_ns > time.time_ns() - GRACE_NS:
        return StoredPacket(whole, PERSIA_STREAM, None, names)  # too young to go, hence not worth reading
    position, problem = 0, ""
    for file in directory.files:
        try:
            data = storage.read(file.name, limit=file.size)
            position = max(
                position, parse_packet(storage.path_of(file.name), data, ShardRoute()).unix_seconds
            )
        except FileNotFoundError:
            continue
        except SatrapError as error:
            problem = str(error)
    return StoredPacket(whole, PERSIA_STREAM, None if problem else position, names, problem)


@dataclass(frozen=True)
class _Publication:
    """Files with what was listed of them."""

    name: str
    listed: Sequence[tuple[str, Entry]] = ()

    def finished(self, folder: str = "", last: Sequence[str] = ()) -> Publication:
        """One that is published: what says so goes first, then the rest, `last` at the end, then the folders."""
        return self._made(folder, True, last)

    def unfinished(self, folder: str = "") -> Publication:
        """One that is not, or not known to be."""
        return self._made(folder, False)

    def _made(self, folder: str, finished: bool, last: Sequence[str] = ()) -> Publication:
        files = [name for name, _ in self.listed]
        first = [name for name in files if _says_whole(name)]
        # A checkpoint's own marker says more than those of its parts.
        first.sort(key=lambda name: name.count("/"))
        folders = {name.rpartition("/")[0] for name in files if "/" in name} | ({folder} if folder else set())
        below = {parent for name in folders for parent in _parents(name, folder)}
        return Publication(
            self.name,
            (*first, *(name for name in files if name not in first), *last),
            tuple(sorted(folders | below, key=lambda name: -name.count("/"))),
            sum(entry.size for _, entry in self.listed),
            max((entry.modified_ns for _, entry in self.listed), default=0),
            finished,
        )


def _says_whole(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last == MARKER or parse_manifest_name(last) is not None


def _parents(name: str, top: str) -> Iterator[str]:
    while name and name != top:
        yield name
        name = name.rpartition("/")[0]


def _normal(location: str) -> str:
    """One spelling of each place."""
    return location.rstrip("/") if "://" in location or not location else str(Path(location).resolve())


def _ask(addresses: Sequence[str]) -> tuple[list[ServerPosition], list[str]]:
    """How far each server is, and what to say of those that did not answer."""
    if not addresses:
        return [], ["no embedding server is known (--shards): what one has not applied yet is not looked at"]
    refused = {said.address: said for said in ask_all(addresses, _list_quarantine)}
    servers, remarks = [], []
    for said in status_of_all(addresses):
        if said.answer is None:
            remarks.append(
                f"{said.address} was not asked ({said.error}): if it misses packets that go now, it has to load a "
                "checkpoint"
            )
        elif said.answer.HasField("updates") and said.answer.updates.stream:
            servers.append(_position(said.address, said.answer, refused[said.address]))
    return servers, remarks


def _list_quarantine(stub: pb_grpc.EmbeddingServiceStub) -> pb.QuarantineResponse:
    request = pb.QuarantineRequest(action=pb.QuarantineRequest.ACTION_LIST)
    answer: pb.QuarantineResponse = stub.Quarantine(request, timeout=STATUS_SECONDS)
    return answer


def _position(
    address: str, answer: pb.StatusResponse, refused: Said[pb.QuarantineResponse]
) -> ServerPosition:
    updates = answer.updates
    applied: int | None = updates.applied_sequence
    if updates.stream == PERSIA_STREAM:  # nobody knows what is missing, but whether something is
        applied = None if updates.packets_behind else sys.maxsize
    records = refused.answer.records if refused.answer is not None else ()
    return ServerPosition(
        address,
        updates.stream,
        applied,
        _normal(answer.checkpoint),
        frozenset(record.name for record in records if record.decision == "waiting"),
    )


def _each(what: str, items: Sequence[T], work: Callable[[T], R]) -> Iterable[tuple[T, R]]:
    """`work` on every item, several at once, in their order, with progress."""
    with _progress(what, len(items)) as step, ThreadPoolExecutor(_READERS, "prune") as pool:
        for item, result in zip(items, pool.map(work, items), strict=True):
            step()
            yield item, result


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, or a line every few seconds where that is no terminal."""
    done = 0
    if sys.stderr.isatty():
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task(what, total=total)
        with bar:
            yield lambda: bar.advance(task)
        return
    said = time.monotonic()

    def step() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            log.info("%s: %s of %s", what, f"{done:,}", f"{total:,}")

    yield step
