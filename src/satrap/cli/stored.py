"""What lies in a packet directory and in a folder of checkpoints, of either format, as `satrap.retention` judges it."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from satrap.cli.progress import item_progress
from satrap.embedding_server.candidates import Candidate
from satrap.embedding_server.checkpoint_folder import is_folder_of_checkpoints
from satrap.embedding_server.checkpoints import CheckpointSettings, open_checkpoint
from satrap.embedding_server.origin import PERSIA_STREAM
from satrap.errors import CheckpointError, InvalidInputError, SatrapError, StorageError, UpdateError
from satrap.formats.decisions import parse_decision_name, read_hold
from satrap.formats.manifest import Manifest, manifest_name, parse_manifest_name
from satrap.formats.packet import manifest_of_data_file, read_manifest
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_marker import MARKER
from satrap.formats.persia_packet import PACKET_MARKER, PersiaDirectory, list_packets, parse_packet
from satrap.retention import GRACE_NS, Publication, Remainder, StoredCheckpoint, StoredPacket
from satrap.storage import Entry, Storage, name_behind

__all__ = ["Found", "find_checkpoints", "find_packets", "spelled_once"]

_OURS = re.compile(r"\d{20}-[A-Za-z0-9_-]+\..+")
"""Names of manifests, and of the files of rows beside them."""

_READERS = 8
"""Manifests read at once: over a network most of the time is waiting."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Found:
    """What lies in one place."""

    storage: Storage
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)
    packets: list[StoredPacket] = field(default_factory=list)
    remainders: list[Remainder] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    holds: dict[str, int] = field(default_factory=dict)

    def names(self) -> Iterator[str]:
        """Of everything."""
        items: list[StoredCheckpoint | StoredPacket | Remainder]
        items = [*self.checkpoints, *self.packets, *self.remainders]
        return (item.publication.name for item in items)


def find_checkpoints(storage: Storage, margin_seconds: int) -> Found:
    """The checkpoints of a folder of them, or the one that it is."""
    found = Found(storage)
    settings = CheckpointSettings(ShardRoute(), margin_seconds)
    if not is_folder_of_checkpoints(storage.url):
        opened = open_checkpoint(storage.url, settings)
        found.checkpoints.append(
            _checkpoint(
                _Publication(spelled_once(storage.url)), Candidate.of(opened), opened.origin.replay_from
            )
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
    publication = _Publication(spelled_once(own.url), files)
    begun = {file.rpartition("/")[2] for file, _ in files}
    try:
        if not any(parse_manifest_name(name) or name == MARKER for name in begun):
            if files and all(manifest_of_data_file(name) or _is_begun(name) for name in begun):
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
    return StoredCheckpoint(publication.finished(folder), candidate.stream, candidate.reaches, covers)


def _files(storage: Storage, folder: str) -> Iterator[tuple[str, Entry]]:
    for entry in storage.list(folder, temporary=True):
        name = f"{folder}/{entry.name}"
        if entry.is_folder:
            yield from _files(storage, name)
        else:
            yield name, entry


def find_packets(storage: Storage) -> Found:
    """The packets in a directory, of both formats, what was begun there, and the holds.

    Raises:
        InvalidInputError: there is no such directory.
        UpdateError: a hold cannot be read.
        StorageError: it cannot be listed.
    """
    if storage.local is not None and not storage.local.is_dir():
        raise InvalidInputError(
            f"{storage.url}: no such directory; name the one that the trainer publishes into"
        )
    found = Found(storage)
    entries = storage.list(temporary=True)
    for entry in entries:
        what, stream = parse_decision_name(entry.name) or ("", "")
        hold = read_hold(storage, stream) if what == "hold" else None
        if hold is not None:
            found.holds[stream] = hold.keep_through
    _find_ours(found, [entry for entry in entries if not entry.is_folder])
    directories = list(list_packets(storage, entries).directories.values())
    for _, packet in _each(
        "reading packets of PERSIA's", directories, lambda directory: _persia_packet(storage, directory)
    ):
        found.packets.append(packet)
    return found


def _find_ours(found: Found, entries: Sequence[Entry]) -> None:
    """Packets with their data files, and data files without a packet."""
    storage = found.storage
    by_manifest: dict[str, list[tuple[str, Entry]]] = {}
    for entry in entries:
        manifest_of = manifest_of_data_file(entry.name)
        if manifest_of is not None:
            by_manifest.setdefault(manifest_of, []).append((entry.name, entry))
        elif _is_begun(entry.name):
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
        files = [(entry.name, entry), *by_manifest.pop(entry.name, [])]
        publication = _Publication(storage.path_of(entry.name), files).finished()
        names = frozenset([entry.name])
        if isinstance(manifest, SatrapError):
            found.packets.append(StoredPacket(publication, "", None, names, str(manifest)))
        elif manifest is not None and manifest.previous is not None:
            assert entry.name == manifest_name(manifest.sequence, manifest.writer)
            found.packets.append(StoredPacket(publication, manifest.stream, manifest.sequence, names))
    found.remainders += [
        Remainder(_Publication(storage.path_of(files[0][0]), files).unfinished())
        for files in by_manifest.values()
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


def _is_begun(name: str) -> bool:
    """Something of ours was to be written there."""
    return _OURS.fullmatch(name_behind(name) or "") is not None


def _says_whole(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last == MARKER or parse_manifest_name(last) is not None


def _parents(name: str, top: str) -> Iterator[str]:
    while name and name != top:
        yield name
        name = name.rpartition("/")[0]


def spelled_once(location: str) -> str:
    """One spelling of each place."""
    return location.rstrip("/") if "://" in location or not location else str(Path(location).resolve())


def _each(what: str, items: Sequence[T], work: Callable[[T], R]) -> Iterable[tuple[T, R]]:
    """`work` on every item, several at once, in their order, with progress."""
    with item_progress(what, len(items)) as step, ThreadPoolExecutor(_READERS, "prune") as pool:
        for item, result in zip(items, pool.map(work, items), strict=True):
            step()
            yield item, result
