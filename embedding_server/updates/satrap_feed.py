"""A directory of our own packets as a server meets it: lists it, reads manifests, fetches packets. `decide` decides."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from satrap._core.table import TableGeneration
from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.decide import (
    Decision,
    Head,
    Memory,
    ReadManifests,
    Refuse,
    Seen,
    StreamState,
    Wait,
    decide,
)
from satrap.embedding_server.updates.feed import Standing
from satrap.embedding_server.updates.listing import PacketListing
from satrap.embedding_server.updates.packet import PacketPart, VerifiedPacket
from satrap.embedding_server.updates.trouble import Trouble, after_failure
from satrap.embedding_server.updates.undo import Position, SequencePosition
from satrap.errors import ForeignConfigError, SatrapError, UpdateError
from satrap.formats.manifest import Manifest, parse_manifest_name
from satrap.formats.packet import entries_of, read_manifest, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_marker import SHARD_FOLDER
from satrap.formats.persia_packet import is_persia
from satrap.formats.strict_json import MAX_JSON_BYTES
from satrap.storage import Entry, Storage

__all__ = ["SatrapFeed"]

_WINDOW = 32
"""Names that are looked at for one decision, so that it costs the same however many packets wait."""


class SatrapFeed:
    """What one generation of tables takes from a directory of packets of ours. One thread at a time.

    What is known of a manifest is kept while its name is listed, as manifests never change; but it is read again when
    a packet is tried again.
    """

    format: Literal["satrap"] = "satrap"
    gap_detection: Literal["sequence"] = "sequence"

    def __init__(
        self,
        storage: Storage,
        route: ShardRoute,
        config_digest: str = "",
        poll_seconds: float = 1.0,
        gap_alarm_seconds: float = 0.0,
    ) -> None:
        """`config_digest` is the embedding config's, empty if it is not known."""
        self._storage, self._route, self._config_digest = storage, route, config_digest
        self._poll_ns, self._gap_alarm_ns = int(poll_seconds * 1e9), int(gap_alarm_seconds * 1e9)
        self._listing = PacketListing(storage, poll_seconds)
        self._manifests: dict[str, Manifest] = {}
        self._places: dict[str, Seen | None] = {}
        self._unreadable: dict[str, str] = {}
        self._troubles: dict[str, Trouble] = {}
        self._refused: frozenset[str] = frozenset()
        self._memory = Memory()
        self._persia = False

    def folders(self) -> Iterable[Path]:
        """The directory, if it is one of this machine."""
        return () if self._storage.local is None else (self._storage.local,)

    def arrived(self, name: str) -> None:
        """Look at it next time; empty: at everything."""
        self._listing.arrived(name)

    def list(self, applied: int, now_ns: int) -> Sequence[Entry]:
        """List what comes from `applied` on, that one included, so that a second manifest of it is found.

        What appeared meanwhile below it is no packet for these tables any more, and yet it is told of if it is another
        stream's.
        """
        self._listing.refresh(applied)
        self._look_for_persia(self._listing.others)
        names = {name for name, _ in (*self._listing.names, *self._listing.below)}
        for kept in (self._manifests, self._places, self._unreadable, self._troubles):
            for name in kept.keys() - names:
                kept.pop(name)
        return self._listing.others

    def decide(
        self, standing: Standing, now_ns: int, stopped: Callable[[], bool] = lambda: False
    ) -> Decision:
        """As `decide`; manifests that it asks for are read."""
        for name in self._refused - standing.verdicts.keys():
            self._forget(name)
        self._refused = frozenset(standing.verdicts)
        state = StreamState(
            standing.applied,
            standing.stream,
            standing.holds,
            standing.skips,
            standing.verdicts,
            self._troubles,
            self._gap_alarm_ns,
            standing.applied_name,
        )
        first = bisect_left(self._listing.names, standing.applied, key=lambda listed: listed[1])
        end = first + _WINDOW
        while True:
            listed = self._listing.names
            names = (*self._listing.below, *listed[first:end])
            listing = [seen for seen in map(self._seen, names) if seen is not None]
            decision = decide(state, listing, self._memory, now_ns)
            (step,) = decision.steps
            if isinstance(step, Wait) and end < len(listed):
                end += 4 * (end - first)  # what is next may lie behind packets of another stream
                continue
            self._memory = decision.memory
            if not isinstance(step, ReadManifests):
                beyond = listed[end:]
                newest = max(decision.newest, beyond[-1][1]) if beyond else decision.newest
                alarms = (*decision.alarms, *self._foreign_format())
                return replace(decision, behind=decision.behind + len(beyond), newest=newest, alarms=alarms)
            for name in step.names:
                if stopped():
                    return replace(decision, steps=())
                refused = self._read(name, standing.verdicts, now_ns)
                if refused is not None:
                    return replace(decision, steps=(refused,))

    def fetch(self, name: str) -> VerifiedPacket:
        """Read and check this shard's part."""
        manifest = self._manifests[name]
        theirs = manifest.embedding_config
        if theirs and self._config_digest and theirs != self._config_digest:
            raise ForeignConfigError(
                name,
                f"was made with the embedding config {theirs}, and this server has {self._config_digest}: give both "
                "the same embedding_config.yml",
            )
        return VerifiedPacket(
            name=name,
            stream=manifest.stream,
            sequence=manifest.sequence,
            previous=manifest.previous or 0,
            ordinal=manifest.sequence,
            parts=[PacketPart(*part) for part in read_shard(self._storage, manifest, self._route)],
            oldest_event_ns=manifest.oldest_event_ns,
            newest_event_ns=manifest.newest_event_ns,
            published_ns=manifest.published_ns,
        )

    def failed(self, name: str, error: SatrapError, now_ns: int) -> bool:
        """Try it again later, or not."""
        trouble = after_failure(error, self._troubles.get(name), now_ns, self._poll_ns)
        if trouble is None:
            self._troubles.pop(name, None)
            return True
        if isinstance(error, UpdateError):
            self._forget(name)
        self._troubles[name] = trouble
        return False

    def copy(self, name: str, folder: Path) -> None:
        """Copy the manifest, and this shard's files as far as they can be read."""
        (folder / name).write_bytes(self._storage.read(name, limit=MAX_JSON_BYTES))
        manifest = self._manifests.get(name)
        for entry in entries_of(manifest, self._route) if manifest is not None else ():
            try:
                (folder / entry.name).write_bytes(self._storage.read(entry.name, limit=entry.bytes))
            except (SatrapError, FileNotFoundError):
                continue  # the reason file says what is wrong with it

    def applied(self, names: Iterable[str]) -> None:
        """The watermark says it all."""
        for name in names:
            self._troubles.pop(name, None)

    def position(self, store: TableGeneration) -> Position:
        """The watermark."""
        return SequencePosition(store)

    def _look_for_persia(self, entries: Sequence[Entry]) -> None:
        """Whether PERSIA's packets lie here as well; where they once were found they are not looked for again."""
        folders = any(entry.is_folder and SHARD_FOLDER.fullmatch(entry.name) for entry in entries)
        self._persia = folders and (self._persia or is_persia(self._storage))

    def _foreign_format(self) -> tuple[Alarm, ...]:
        if not self._persia:
            return ()
        return (
            Alarm(
                "foreign_stream",
                f"PERSIA's packets lie in {self._storage.url} among ours, and are left alone: give each trainer a "
                "directory of its own",
            ),
        )

    def _forget(self, name: str) -> None:
        self._manifests.pop(name, None)
        self._places.pop(name, None)
        self._unreadable.pop(name, None)

    def _seen(self, listed: tuple[str, int]) -> Seen | None:
        """What is known of a name; None for a checkpoint's manifest, which is no packet."""
        name, sequence = listed
        if name in self._places:
            return self._places[name]
        return Seen(name, sequence, unreadable=self._unreadable.get(name, ""))

    def _read(self, name: str, verdicts: Mapping[str, str], now_ns: int) -> Refuse | None:
        """Read a manifest; the refusal if it will never be one."""
        try:
            manifest = read_manifest(self._storage, name)
        except FileNotFoundError:
            self._listing.drop(name)
            return None
        except SatrapError as error:
            if not isinstance(error, UpdateError):
                self.failed(name, error, now_ns)
            elif name in verdicts:
                self._unreadable[name] = error.code
            elif self.failed(name, error, now_ns):
                self._unreadable[name] = error.code
                known = parse_manifest_name(name)
                return Refuse(name, known[0] if known is not None else 0, error)
            return None
        self._manifests[name] = manifest
        if manifest.previous is None:
            self._places[name] = None
        else:
            self._places[name] = Seen(name, manifest.sequence, Head(manifest.stream, manifest.previous))
        return None
