"""What a server that follows PERSIA's packets does next: a function of what is listed, what is known, and the time.

PERSIA numbers nothing, so there are no gaps to find and no chain to follow. What is tracked is the file: each is
applied once, in the order of the time at its end, then of its directory's name, then of its own, whenever it appears.
Rows carry that time as their ordinal, so a file that comes late overwrites nothing that is newer.

- A directory with its marker is open: its files count as soon as they are whole, however late they appear.
- A directory without one is opened when all its files are whole and nothing in it has changed for a while. PERSIA
  leaves markers out for good when a row was evicted meanwhile, or when a packet was split over two directories.
- A file that is not whole is waited for in a directory that has no marker, and refused in one that has, after a few
  looks: where files travel over a network the marker may be seen before the last byte is.

Nothing in here reads a file or a clock. `persia_feed` does, and `tests/embedding_server/updates` has the cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from satrap.embedding_server.origin import MAX_ORDINAL, PERSIA_STREAM
from satrap.embedding_server.updates.alarms import Alarm
from satrap.embedding_server.updates.decide import Apply, PassOver, Refuse, RollBack, Step, Wait
from satrap.embedding_server.updates.trouble import Trouble
from satrap.errors import OrdinalRangeError, SatrapError, UpdateError
from satrap.formats.persia_packet import (
    PACKET_MARKER,
    PersiaDirectory,
    PersiaFile,
    PersiaListing,
    PersiaOrder,
)

__all__ = [
    "Look",
    "PersiaDecision",
    "PersiaKnowledge",
    "PersiaSettings",
    "Settled",
    "decide_persia",
    "outlived_by",
    "wait_for_troubles",
]

_SECOND = 1_000_000_000

_TRIES = 3
"""Looks at which a file of a marked directory must be broken before it is refused."""


@dataclass(frozen=True)
class PersiaSettings:
    """What does not change while tables are followed.

    `replay_from` (unix seconds): what is older is in the checkpoint for sure. `unmarked_ns`: how long a directory
    without a marker must have been left alone. `patience_ns`: how long a file of a marked one may be broken.
    `ahead_ns`: how far beyond this machine's clock a file's time may be: until then it waits, since its rows would keep
    out those of all files before that time.
    """

    replay_from: int = 0
    unmarked_ns: int = 60_000_000_000
    patience_ns: int = 0
    ahead_ns: int = 3600 * _SECOND


@dataclass(frozen=True)
class Settled:
    """A file with which nothing more has to be done: as it was listed, its time, and a checksum of its bytes."""

    file: PersiaFile
    unix_seconds: int
    checksum: str


@dataclass(frozen=True)
class Look:
    """What came of reading a file from its first byte to its last, `tries` times since `since_ns`, last in the look
    number `round`.

    `error` is None if it is whole; UpdateError: it is not what it must be; any other: it could not be read.
    """

    file: PersiaFile
    round: int
    unix_seconds: int = 0
    checksum: str = ""
    error: SatrapError | None = None
    tries: int = 1
    since_ns: int = 0


@dataclass(frozen=True)
class PersiaKnowledge:
    """What is known from before, all by name.

    `settled`: the files that are applied or passed over. `looks`: what was read. `quiet_since`: since when directories
    are as they are now, nanoseconds since the epoch. `refused`: files as they were when they were refused. `round`
    counts looks.
    """

    settled: Mapping[str, Settled] = field(default_factory=dict)
    looks: Mapping[str, Look] = field(default_factory=dict)
    quiet_since: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, PersiaFile] = field(default_factory=dict)
    round: int = 0


@dataclass(frozen=True)
class PersiaDecision:
    """Steps in their order, and what there is to say meanwhile.

    `read`: files that must be read before there are any other steps. `unchanged`: files that are touched, and have the
    bytes that were applied. `older`: files from before the checkpoint; both are settled without a step. `unmarked`
    names the files among the steps whose directory has no marker, `changed` the refused ones that have changed since:
    their verdict is void. `behind` counts files that are published and not applied, `newest` is the greatest time.
    """

    steps: tuple[Step, ...] = ()
    read: tuple[PersiaFile, ...] = ()
    unchanged: tuple[Settled, ...] = ()
    older: tuple[Settled, ...] = ()
    unmarked: frozenset[str] = frozenset()
    changed: tuple[str, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    behind: int = 0
    newest: int = 0


def decide_persia(
    listing: PersiaListing,
    known: PersiaKnowledge,
    settings: PersiaSettings,
    *,
    applied: int,
    keep_through: int | None = None,
    verdicts: Mapping[str, str] | None = None,
    now_ns: int,
) -> PersiaDecision:
    """The next steps.

    `applied` is the greatest time applied so far, `keep_through` the one that a hold lets stand, `verdicts` what
    became of refused files: `waiting`, `skipped` or `dropped`.
    """
    if keep_through is not None and applied > keep_through:
        return PersiaDecision((RollBack(keep_through),), alarms=(_held(keep_through),), newest=applied)
    plan = _Plan(known, settings, keep_through, verdicts or {}, applied, now_ns)
    for directory in listing.directories.values():
        plan.take_directory(directory)
    return plan.decision()


def wait_for_troubles(
    steps: Sequence[Step], troubles: Mapping[str, Trouble], now_ns: int
) -> tuple[tuple[Step, ...], tuple[Alarm, ...]]:
    """The steps before the first file that is in trouble now, and what there is to say about it."""
    alarms = tuple(
        trouble.alarm
        for step in steps
        if isinstance(step, Apply) and (trouble := troubles.get(step.name)) is not None
    )
    taken: list[Step] = []
    for step in steps:
        trouble = troubles.get(step.name) if isinstance(step, Apply) else None
        if trouble is not None and trouble.waits(now_ns):
            return (*taken, Wait(trouble.retry_ns)), alarms
        taken.append(step)
    return tuple(taken), alarms


def outlived_by(settled: Mapping[str, Settled], applied: Sequence[Settled]) -> set[str]:
    """Files that have to follow again, after `applied`: of the same second, and later in the order.

    Their ordinals are equal, so a late file has just overwritten rows of theirs.
    """
    first: dict[int, PersiaOrder] = {}
    for late in applied:
        place = late.file.order(late.unix_seconds)
        first[late.unix_seconds] = min(place, first.get(late.unix_seconds, place))
    own = {late.file.name for late in applied}
    return {
        name
        for name, done in settled.items()
        if done.unix_seconds in first
        and name not in own
        and done.file.order(done.unix_seconds) > first[done.unix_seconds]
    }


class _Plan:
    """One decision as it comes to be."""

    def __init__(
        self,
        known: PersiaKnowledge,
        settings: PersiaSettings,
        keep_through: int | None,
        verdicts: Mapping[str, str],
        applied: int,
        now_ns: int,
    ) -> None:
        self._now_ns = now_ns
        self._known, self._settings, self._keep_through = known, settings, keep_through
        self._verdicts = verdicts
        self._newest = applied
        self._read: list[PersiaFile] = []
        self._unchanged: list[Settled] = []
        self._older: list[Settled] = []
        self._changed: list[str] = []
        self._unmarked: set[str] = set()
        self._refuse: list[Refuse] = []
        self._ready: list[tuple[PersiaOrder, Apply | PassOver]] = []
        self._blocks: list[tuple[PersiaOrder, str]] = []  # where the stream waits, and for what
        self._alarms: dict[str, Alarm] = {}
        self._behind = 0
        self._until: int | None = None

    def take_directory(self, directory: PersiaDirectory) -> None:
        """Sort a directory's files into what can be done with them."""
        files = [file for file in directory.files if not self._is_settled(file)]
        if not files:
            return
        if directory.marked:
            for file in files:
                self._take_file(file, marked=True)
            return
        since = self._known.quiet_since.get(directory.name, self._now_ns)
        due = since + self._settings.unmarked_ns
        if self._now_ns < due:
            self._until = due if self._until is None else min(due, self._until)
            return
        self._take_unmarked(directory, files)

    def _take_unmarked(self, directory: PersiaDirectory, files: Sequence[PersiaFile]) -> None:
        """A directory that was left alone for long enough: all of it, if all of it is whole."""
        looks = {file.name: self._look(file) for file in files}
        unread = [
            file for file in files if looks[file.name] is None or self._may_read_again(looks[file.name])
        ]
        if unread:
            self._read += unread
            return
        for file in files:
            look = looks[file.name]
            if look is not None and look.error is not None and not self._is_decided(file):
                self._alarm(
                    "unmarked" if isinstance(look.error, UpdateError) else "storage",
                    f"{directory.name} has no {PACKET_MARKER}, and is not applied because {file.name} is not whole: "
                    f"{look.error}. Remove the file, or make an empty {directory.name}/{PACKET_MARKER}",
                )
                self._behind += len(files)
                return
        for file in files:
            self._take_file(file, marked=False)

    def _take_file(self, file: PersiaFile, *, marked: bool) -> None:
        """A file of an open directory."""
        look = self._look(file)
        if look is None or (marked and self._may_read_again(look)):
            self._read.append(file)
            return
        self._void_verdict(file)
        place = file.order(look.unix_seconds) if look.error is None else file.order_without_time()
        done = self._known.settled.get(file.name)
        if self._is_decided(file):
            self._ready.append((place, PassOver(file.name, 0)))  # no row of it came: the greatest time stays
        elif look.error is None and done is not None and self._same_bytes(look, done):
            self._unchanged.append(Settled(file, look.unix_seconds, look.checksum))
        elif look.error is None and look.unix_seconds < self._settings.replay_from:
            self._older.append(Settled(file, look.unix_seconds, look.checksum))
        else:
            self._behind += 1
            self._wait_or_apply(file, look, place, marked=marked)

    def _wait_or_apply(self, file: PersiaFile, look: Look, place: PersiaOrder, *, marked: bool) -> None:
        if self._verdict(file) == "waiting":
            self._blocks.append((place, file.name))
            self._alarm(
                "quarantined",
                f"{file.name} was refused and the stream waits: satrap quarantine show, then retry or drop",
            )
        elif look.error is not None and not isinstance(look.error, UpdateError):
            self._blocks.append((place, file.name))
            self._alarm("storage", str(look.error))
        elif look.error is not None:
            self._blocks.append((place, file.name))
            if self._is_hopeless(look):
                self._refuse.append(Refuse(file.name, 0, look.error))
        elif look.unix_seconds > MAX_ORDINAL:
            self._blocks.append((place, file.name))
            self._refuse.append(Refuse(file.name, look.unix_seconds, _out_of_range(file, look)))
        elif (due := look.unix_seconds * _SECOND - self._settings.ahead_ns) > self._now_ns:
            self._until = due if self._until is None else min(due, self._until)
            self._alarm("clock_ahead", _from_the_future(file, look, self._now_ns))
        else:
            self._newest = max(self._newest, look.unix_seconds)
            if self._keep_through is not None and look.unix_seconds > self._keep_through:
                return
            if not marked:
                self._unmarked.add(file.name)
            self._ready.append((place, Apply(file.name, look.unix_seconds)))

    def decision(self) -> PersiaDecision:
        """What is to be done with everything that was taken."""
        if self._keep_through is not None:
            self._alarm("held", _held(self._keep_through).message)
        if self._read:
            steps: list[Step] = []
        else:
            end = min(self._blocks, default=None)
            steps = [*self._refuse]
            steps += [step for place, step in sorted(self._ready) if end is None or place < end[0]]
            steps.append(Wait(self._until))
        return PersiaDecision(
            steps=tuple(steps),
            read=tuple(self._read),
            unchanged=tuple(self._unchanged),
            older=tuple(self._older),
            unmarked=frozenset(self._unmarked),
            changed=tuple(self._changed),
            alarms=tuple(self._alarms.values()),
            behind=self._behind,
            newest=self._newest,
        )

    def _is_settled(self, file: PersiaFile) -> bool:
        done = self._known.settled.get(file.name)
        return done is not None and done.file == file

    def _look(self, file: PersiaFile) -> Look | None:
        look = self._known.looks.get(file.name)
        return look if look is not None and look.file == file else None

    def _may_read_again(self, look: Look | None) -> bool:
        """A file that was broken or could not be read is read once in every look, as long as that may help."""
        if look is None or look.error is None or look.round >= self._known.round:
            return False
        return not isinstance(look.error, UpdateError) or not self._is_hopeless(look)

    def _is_hopeless(self, look: Look) -> bool:
        # A clock that was set back does not make it wait for longer.
        is_young = look.since_ns <= self._now_ns < look.since_ns + self._settings.patience_ns
        return look.tries >= _TRIES and not is_young

    def _same_bytes(self, look: Look, done: Settled) -> bool:
        return (look.unix_seconds, look.checksum) == (done.unix_seconds, done.checksum)

    def _verdict(self, file: PersiaFile) -> str | None:
        """What was decided about the file as it is now."""
        return self._verdicts.get(file.name) if not self._has_changed(file) else None

    def _is_decided(self, file: PersiaFile) -> bool:
        return self._verdict(file) in ("skipped", "dropped")

    def _has_changed(self, file: PersiaFile) -> bool:
        """Whether it is another file than the one that was refused, or was passed over after that."""
        done = self._known.settled.get(file.name)
        before = self._known.refused.get(file.name, done.file if done is not None else file)
        return before != file

    def _void_verdict(self, file: PersiaFile) -> None:
        if file.name in self._verdicts and self._has_changed(file):
            self._changed.append(file.name)

    def _alarm(
        self, code: Literal["unmarked", "quarantined", "storage", "held", "clock_ahead"], message: str
    ) -> None:
        self._alarms.setdefault(code, Alarm(code, message))


def _held(keep_through: int) -> Alarm:
    return Alarm(
        "held",
        f"the stream {PERSIA_STREAM} is held at {keep_through}: satrap rollback --release lets it go on",
    )


def _out_of_range(file: PersiaFile, look: Look) -> OrdinalRangeError:
    return OrdinalRangeError(
        file.name,
        f"its time is {look.unix_seconds:,} seconds since the epoch; rows can carry at most {MAX_ORDINAL:,}",
    )


def _from_the_future(file: PersiaFile, look: Look, now_ns: int) -> str:
    ahead = look.unix_seconds - now_ns // _SECOND
    return (
        f"{file.name} is not applied yet: its time is {ahead:,} s ahead of this machine's clock, and its rows would "
        "keep out those of all files until then. Set the clocks of trainer and server by NTP; if the file is damaged, "
        "move it away"
    )
