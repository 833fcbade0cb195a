"""PERSIA's packet directory as a server meets it: lists it, reads its files, and keeps the list of those applied.

`persia` decides; this is its shell.
"""

import heapq
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from satrap._core.table import Table, TableGeneration
from satrap.embedding_server.origin import PERSIA_STREAM
from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.decide import Decision, Wait
from satrap.embedding_server.updates.feed import Standing
from satrap.embedding_server.updates.packet import PacketPart, VerifiedPacket
from satrap.embedding_server.updates.persia import (
    Look,
    PersiaDecision,
    PersiaKnowledge,
    PersiaSettings,
    Settled,
    decide_persia,
    wait_for_troubles,
)
from satrap.embedding_server.updates.persia_dims import with_one_dim_per_sign
from satrap.embedding_server.updates.persia_files import PersiaFiles
from satrap.embedding_server.updates.persia_ledger import AppliedFiles
from satrap.embedding_server.updates.trouble import Trouble, after_failure
from satrap.embedding_server.updates.undo import FilePosition, Position, UndoLog
from satrap.errors import (
    MissingFileError,
    PathEscapeError,
    PersiaPacketError,
    SatrapError,
    TruncatedFileError,
)
from satrap.formats.manifest import parse_manifest_name
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_marker import SHARD_FOLDER
from satrap.formats.persia_packet import (
    PersiaDirectory,
    PersiaFile,
    PersiaListing,
    list_packets,
)
from satrap.storage import Entry, Storage

__all__ = ["PersiaFeed"]

log = logging.getLogger(__name__)

_LAST = 64
"""How many marked directories, by their labels, are watched and listed as those without a marker are."""

_AT_ONCE = 1000
"""Steps of one decision: holds are seen between two."""

_IN_TURN = 64
"""How many of the others are listed at each look."""

_REST_AFTER_NS = 2_000_000_000
"""Within this time a directory may change again without another time of change."""

_CHANGED = (MissingFileError, PathEscapeError, PersiaPacketError, TruncatedFileError)

_NANOS = 1_000_000_000


class PersiaFeed:
    """What one generation of tables takes from a packet directory of PERSIA's. One thread at a time.

    `ledger` is the list of applied files in the generation's folder.
    """

    format: Literal["persia"] = "persia"
    gap_detection: Literal["none"] = "none"

    def __init__(
        self,
        storage: Storage,
        route: ShardRoute,
        settings: PersiaSettings,
        generation: Path,
        poll_seconds: float = 1.0,
        tables: Callable[[], Mapping[int, Table]] = dict,
    ) -> None:
        """Read the list of applied files in the folder `generation`; the packet directory is not looked at.

        `tables` are those of the generation, by dim, as they are at the moment.
        """
        self._storage = storage
        self.ledger = AppliedFiles(generation)
        self._generation = generation
        self._tables = tables
        self._poll_ns = int(poll_seconds * _NANOS)
        self._settings = replace(settings, patience_ns=2 * self._poll_ns)
        self._active = PersiaListing()
        self._resting: dict[str, PersiaDirectory] = {}
        self._removals = 0
        self._wake_all = False
        self._foreign = ""
        self._shards: set[str] = set()
        self._looks: dict[str, Look] = {}
        self._troubles: dict[str, Trouble] = {}
        self._directories: Mapping[str, PersiaDirectory] = {}
        self._quiet_since: dict[str, int] = {}
        self._refused: dict[str, PersiaFile] = {}
        self._warned: set[str] = set()
        self._round = 0
        self._files = PersiaFiles(storage, route)

    def folders(self) -> Iterable[Path]:
        """Local folders in which something may appear: a later file of a marked directory is left to the poll, unless
        the directory is one of the last.
        """
        root = self._storage.local
        if root is None:
            return ()
        names = {name for name, directory in self._directories.items() if not directory.marked}
        return [root, *(root / name for name in self._shards | names | self._last())]

    def arrived(self, name: str) -> None:
        """The listing finds it; with an empty name also what was written in place long ago."""
        if not name:
            self._wake_all = True

    def list(self, applied: int, now_ns: int) -> Sequence[Entry]:
        """List every directory that there is, whatever is applied.

        Those that are marked and settled rest: they are listed again when a file came to them or went, and otherwise in
        turn, a few at each look. What is written in place, or to a storage that does not say when, is seen then.
        """
        if self._wake_all or self._removals != self.ledger.removals:
            self._wake_all, self._removals = False, self.ledger.removals
            self._resting.clear()
        due = set(itertools.islice(self._resting, _IN_TURN))

        def known(name: str, changed_ns: int) -> PersiaDirectory | None:
            directory = self._resting.get(name)
            if name in due or directory is None or directory.changed_ns != changed_ns:
                self._resting.pop(name, None)
                return None
            return directory

        entries = self._storage.list()
        # Also those with no directory yet: what comes to them first is to be seen, too.
        self._shards = {
            entry.name for entry in entries if entry.is_folder and SHARD_FOLDER.fullmatch(entry.name)
        }
        self._foreign = next((entry.name for entry in entries if parse_manifest_name(entry.name)), "")
        listing = list_packets(self._storage, entries, known)
        self._observe(listing.directories, now_ns)
        self._active = PersiaListing(
            {name: found for name, found in listing.directories.items() if name not in self._resting}
        )
        return entries

    def decide(
        self, standing: Standing, now_ns: int, stopped: Callable[[], bool] = lambda: False
    ) -> Decision:
        """As `decide_persia`, after every file that has to be read was read to its end."""
        self._remember_refused(standing.verdicts)
        while True:
            decision = decide_persia(
                self._active,
                PersiaKnowledge(
                    self.ledger.settled, self._looks, self._quiet_since, self._refused, self._round
                ),
                self._settings,
                applied=standing.applied,
                keep_through=standing.holds.get(PERSIA_STREAM),
                verdicts=standing.verdicts,
                now_ns=now_ns,
            )
            self.ledger.settle((*decision.unchanged, *decision.older))
            for name in decision.changed:
                self._refused.pop(name, None)
            if not decision.read:
                self._warn_of_unmarked(decision.unmarked)
                return self._decision(decision, now_ns)
            for file in decision.read:
                if stopped():
                    return replace(self._decision(decision, now_ns), steps=())
                self._looks[file.name] = self._read(file, now_ns)

    def fetch(self, name: str) -> VerifiedPacket:
        """A file that the last look found whole.

        Raises:
            MissingFileError, TruncatedFileError, PersiaPacketError, StorageError: it is gone or has changed since.
        """
        look = self._looks.get(name)
        if look is None:
            raise MissingFileError(self._storage.path_of(name), "is gone since it was listed")
        packet = self._files.fetch(look.file, look.checksum)
        directory = self._directories.get(look.file.directory)
        event_ns = packet.unix_seconds * _NANOS
        return VerifiedPacket(
            name=name,
            stream=PERSIA_STREAM,
            sequence=packet.unix_seconds,
            previous=0,
            ordinal=packet.unix_seconds,
            parts=with_one_dim_per_sign(
                [PacketPart(part.dim, part.signs, part.rows) for part in packet.parts],
                self._tables(),
                packet.unix_seconds,
            ),
            oldest_event_ns=event_ns,
            newest_event_ns=event_ns,
            published_ns=max(look.file.modified_ns, directory.marked_ns if directory is not None else 0),
        )

    def failed(self, name: str, error: SatrapError, now_ns: int) -> bool:
        """A file that is not what it was at the last look is looked at again; the rest is as for other packets."""
        self._looks.pop(name, None)
        if isinstance(error, _CHANGED):
            return False
        trouble = after_failure(error, self._troubles.get(name), now_ns, self._poll_ns)
        if trouble is None:
            self._troubles.pop(name, None)
            return True
        self._troubles[name] = trouble
        return False

    def applied(self, names: Iterable[str]) -> None:
        """The rows of these files are in the tables, or, if they are passed over, never will be.

        Raises:
            TableFolderError: the list of applied files cannot be written.
        """
        names = list(names)
        self.ledger.add([self._settled(name) for name in names])
        for name in names:
            self._troubles.pop(name, None)

    def position(self, store: TableGeneration) -> Position:
        """The list of applied files."""
        return FilePosition(store, self.ledger)

    def copy(self, name: str, folder: Path) -> None:
        """Copy a file, as far as it can be read, for quarantine.

        Raises:
            MissingFileError, StorageError: it cannot be read.
        """
        file = self._file(name)
        if file is not None:
            (folder / name.rpartition("/")[2]).write_bytes(self._files.content(file, checked=False))

    def _settled(self, name: str) -> Settled:
        look = self._looks[name]
        return Settled(look.file, look.unix_seconds, look.checksum)

    def _observe(self, directories: Mapping[str, PersiaDirectory], now_ns: int) -> None:
        """Remember since when each directory is as it is, let those rest that are done with, forget what is gone."""
        self._round += 1
        quiet_since = {}
        settled = self.ledger.settled
        before, self._directories = self._directories, directories
        last = self._last()
        for name, directory in directories.items():
            if directory.marked:
                old = directory.changed_ns < now_ns - _REST_AFTER_NS
                if old and name not in last and all(_is_settled(settled, file) for file in directory.files):
                    self._resting.setdefault(name, directory)
            elif name not in before or before[name].marked:
                # How long it has been so before we came, only its files can tell; a time to come says nothing.
                newest = max((file.modified_ns or now_ns for file in directory.files), default=now_ns)
                quiet_since[name] = min(newest, now_ns)
            else:
                is_quiet = before[name].files == directory.files
                # A clock that was set back must not make it wait for as long again.
                quiet_since[name] = min(self._quiet_since[name], now_ns) if is_quiet else now_ns
        self._quiet_since = quiet_since
        if not directories:
            return  # rather a mount that is away than a trainer's tidying up
        gone = before.keys() - directories.keys()
        if gone or not before:
            undoable = UndoLog(self._generation, 0).entries()
            self.ledger.forget_all_but(directories, [entry.name for entry in undoable])
        for name in gone:
            self._resting.pop(name, None)
        self._refused = {name: file for name, file in self._refused.items() if self._file(name) is not None}
        self._looks = {
            name: look
            for name, look in self._looks.items()
            if self._file(name) == look.file and not _is_settled(settled, look.file)
        }

    def _last(self) -> set[str]:
        """The directories whose labels are the greatest."""
        return set(heapq.nlargest(_LAST, self._directories, key=lambda name: name.partition("/")[2]))

    def _remember_refused(self, verdicts: Mapping[str, str]) -> None:
        """What the refused files are like now, so that they are known again; and look anew at those to be retried."""
        for name in self._refused.keys() - verdicts.keys():
            del self._refused[name]
            self._looks.pop(name, None)
        for name in verdicts.keys() - self._refused.keys():
            look = self._looks.get(name)
            file = look.file if look is not None else self._file(name)
            if file is not None:
                self._refused[name] = file

    def _file(self, name: str) -> PersiaFile | None:
        directory = self._directories.get(name.rpartition("/")[0])
        return next((file for file in directory.files if file.name == name), None) if directory else None

    def _read(self, file: PersiaFile, now_ns: int) -> Look:
        before = self._looks.get(file.name)
        if before is None or before.file != file:
            before = Look(file, self._round, tries=0, since_ns=now_ns)
        try:
            packet, checksum = self._files.read(file)
        except SatrapError as error:
            return replace(before, round=self._round, error=error, tries=before.tries + 1)
        return Look(file, self._round, packet.unix_seconds, checksum)

    def _warn_of_unmarked(self, names: Iterable[str]) -> None:
        for directory in sorted({name.rpartition("/")[0] for name in names} - self._warned):
            self._warned.add(directory)
            log.warning(
                "%s has no marker; its files are whole and were left alone for %.0f s, so they are applied",
                self._storage.path_of(directory),
                self._settings.unmarked_ns / _NANOS,
            )

    def _decision(self, decision: PersiaDecision, now_ns: int) -> Decision:
        steps, alarms = wait_for_troubles(decision.steps, self._troubles, now_ns)
        if self._foreign:
            alarms = (*alarms, _foreign_alarm(self._foreign))
        to_do = tuple(step for step in steps if not isinstance(step, Wait))
        return Decision(
            steps=to_do[:_AT_ONCE]
            or steps,  # once something was done it is decided anew, before anybody waits
            alarms=(*decision.alarms, *alarms),
            stream=PERSIA_STREAM,
            behind=decision.behind,
            newest=decision.newest,
            unmarked=decision.unmarked,
            changed=decision.changed,
        )


def _foreign_alarm(name: str) -> Alarm:
    return Alarm(
        "foreign_stream",
        f"{name} is a packet of satrap's own format; the tables follow PERSIA's packets, and go on with them. Load a "
        "full checkpoint of its stream to change over, and give each its own directory",
    )


def _is_settled(settled: Mapping[str, Settled], file: PersiaFile) -> bool:
    done = settled.get(file.name)
    return done is not None and done.file == file
