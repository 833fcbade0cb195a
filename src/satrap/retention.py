"""Which packets and checkpoints nobody needs any more: decisions only.

`satrap.cli.stored` finds them, `satrap.cli.pruning` removes them.

A server recovers from a checkpoint and every packet after it. So of each stream

- the newest `keep` usable checkpoints stay, those that are served by a server that was reached, and, while the stream
  is held, the newest one at or below the hold;
- every packet stays that one of these needs, the served ones apart: a server that starts again takes the newest;
- so does every packet that a server that was reached has not applied, every one that waits in quarantine, and the
  newest one, from which a trainer goes on counting.

Without a usable checkpoint nothing of a stream goes. What is not published to its end stays for an hour. Packets go
oldest first: whatever interrupts that, the rest hangs together.

A `position` is what the stream is ordered by: the sequence, or for PERSIA's files unix seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "KeptStream",
    "PrunePlan",
    "Publication",
    "Remainder",
    "ServerPosition",
    "StoredCheckpoint",
    "StoredPacket",
    "plan_pruning",
]

GRACE_NS = 3_600_000_000_000
"""How long what is not whole may still become so, by the storage's clock and ours."""


@dataclass(frozen=True)
class Publication:
    """Files that go together: what they are called in their directory, in the order in which they are removed, then the
    folders that are empty afterwards.

    `finished` says whether it was published to its end, `changed_ns` when the last of its files was written,
    nanoseconds since the epoch; 0 if the storage does not say.
    """

    name: str
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    bytes: int = 0
    changed_ns: int = 0
    finished: bool = True


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint: its rows are those of `position`, and packets above `covers` are needed with it.

    `problem` is why it cannot be used, empty if it can as far as was looked.
    """

    publication: Publication
    stream: str
    position: int
    covers: int
    problem: str = ""


@dataclass(frozen=True)
class StoredPacket:
    """A packet, or one of PERSIA's directories with the greatest time of its files.

    `position` is None if it cannot be known: then it stays. `names` are what servers call it, or what is in it.
    """

    publication: Publication
    stream: str
    position: int | None
    names: frozenset[str] = frozenset()
    problem: str = ""


@dataclass(frozen=True)
class Remainder:
    """What was begun and never published, or is half removed."""

    publication: Publication


@dataclass(frozen=True)
class ServerPosition:
    """How far a server that was reached is.

    `applied` is the position up to which it has everything; None if that is not known, because it is behind in a
    stream without sequences. `quarantined` are packets that wait for somebody's decision there.
    """

    address: str
    stream: str
    applied: int | None
    checkpoint: str = ""
    quarantined: frozenset[str] = frozenset()


@dataclass(frozen=True)
class KeptStream:
    """What stays of one stream, and why packets above `covers` do (None: all of them stay)."""

    stream: str
    checkpoints: tuple[StoredCheckpoint, ...]
    packets: int
    covers: int | None
    reason: str


@dataclass(frozen=True)
class PrunePlan:
    """What goes, in the order in which it goes, what stays, and what an operator should know."""

    checkpoints: tuple[StoredCheckpoint, ...] = ()
    packets: tuple[StoredPacket, ...] = ()
    remainders: tuple[Remainder, ...] = ()
    kept: tuple[KeptStream, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def removed(self) -> tuple[Publication, ...]:
        """Everything that goes."""
        items: tuple[StoredCheckpoint | StoredPacket | Remainder, ...]
        items = (*self.checkpoints, *self.packets, *self.remainders)
        return tuple(item.publication for item in items)

    @property
    def bytes(self) -> int:
        """What that gives back."""
        return sum(publication.bytes for publication in self.removed)


@dataclass(frozen=True)
class _Bound:
    """Packets at or below `covers` may go; `reason` is why not more of them."""

    covers: int | None
    reason: str

    def lowered(self, covers: int | None, reason: str) -> "_Bound":
        if self.covers is None or (covers is not None and covers >= self.covers):
            return self
        return _Bound(covers, reason)


@dataclass
class _Stream:
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)
    packets: list[StoredPacket] = field(default_factory=list)
    servers: list[ServerPosition] = field(default_factory=list)


def plan_pruning(
    checkpoints: Iterable[StoredCheckpoint],
    packets: Iterable[StoredPacket],
    *,
    remainders: Iterable[Remainder] = (),
    servers: Sequence[ServerPosition] = (),
    holds: Mapping[str, int] | None = None,
    keep: int = 2,
    now_ns: int,
) -> PrunePlan:
    """What may go. `holds` are the positions to keep, by stream; `keep` is at least 1.

    Every stream is judged by its own checkpoints, holds and servers.
    """
    streams: dict[str, _Stream] = {}
    for checkpoint in checkpoints:
        streams.setdefault(checkpoint.stream, _Stream()).checkpoints.append(checkpoint)
    for packet in packets:
        streams.setdefault(packet.stream, _Stream()).packets.append(packet)
    for server in servers:
        streams.setdefault(server.stream, _Stream()).servers.append(server)
    quarantined = frozenset[str]().union(*(server.quarantined for server in servers))
    served = {server.checkpoint for server in servers}
    gone_checkpoints: list[StoredCheckpoint] = []
    gone_packets: list[StoredPacket] = []
    kept = []
    remarks = []
    for name, stream in sorted(streams.items()):
        if not stream.checkpoints and not stream.packets:
            continue
        hold = (holds or {}).get(name)
        bases = _bases(stream.checkpoints, hold, keep)
        bound = _bound(stream, bases, hold)
        needed = {id(checkpoint) for checkpoint in bases}
        old = [
            checkpoint
            for checkpoint in stream.checkpoints
            if bases
            and id(checkpoint) not in needed
            and (not checkpoint.problem or checkpoint.position < min(base.position for base in bases))
            and checkpoint.publication.name not in served
        ]
        gone_checkpoints += sorted(old, key=lambda checkpoint: checkpoint.position)
        going = _packets_below(stream.packets, bound.covers, quarantined, now_ns)
        gone_packets += going
        remarks += [
            f"{packet.publication.name} stays: {packet.problem}"
            for packet in stream.packets
            if packet.problem
        ]
        remarks += [
            f"{checkpoint.publication.name} is not counted: {checkpoint.problem}"
            for checkpoint in stream.checkpoints
            if checkpoint.problem
        ]
        staying = [checkpoint for checkpoint in stream.checkpoints if checkpoint not in old]
        kept.append(
            KeptStream(name, tuple(staying), len(stream.packets) - len(going), bound.covers, bound.reason)
        )
    left = [remainder for remainder in remainders if _is_settled(remainder.publication, now_ns)]
    return PrunePlan(tuple(gone_checkpoints), tuple(gone_packets), tuple(left), tuple(kept), tuple(remarks))


def _bases(checkpoints: Sequence[StoredCheckpoint], hold: int | None, keep: int) -> list[StoredCheckpoint]:
    """The checkpoints from which somebody may have to recover."""
    usable = sorted(
        (checkpoint for checkpoint in checkpoints if not checkpoint.problem),
        key=lambda checkpoint: checkpoint.position,
        reverse=True,
    )
    bases = usable[: max(keep, 1)]
    if hold is not None:
        bases += [checkpoint for checkpoint in usable if checkpoint.position <= hold][: max(keep, 1)]
    return bases


def _bound(stream: _Stream, bases: Sequence[StoredCheckpoint], hold: int | None) -> _Bound:
    if not bases:
        return _Bound(None, "there is no usable checkpoint of it: whoever starts needs every packet")
    oldest = min(bases, key=lambda base: base.covers)
    bound = _Bound(oldest.covers, f"{oldest.publication.name} needs what comes after it")
    if hold is not None and not any(base.position <= hold for base in bases):
        bound = bound.lowered(None, f"the stream is held at {hold:,}, and no checkpoint is that old")
    for server in stream.servers:
        if server.applied is None:
            bound = bound.lowered(None, f"{server.address} is behind: try again when it is not")
        else:
            bound = bound.lowered(server.applied, f"{server.address} has applied {server.applied:,}")
    return bound


def _packets_below(
    packets: Sequence[StoredPacket], covers: int | None, quarantined: frozenset[str], now_ns: int
) -> list[StoredPacket]:
    """The packets that may go, oldest first."""
    positions = [packet.position for packet in packets if packet.position is not None]
    if covers is None or not positions:
        return []
    newest = max(positions)
    return sorted(
        (
            packet
            for packet in packets
            if packet.position is not None
            and packet.position <= covers
            and packet.position < newest
            and not packet.names & quarantined
            and _is_settled(packet.publication, now_ns)
        ),
        key=lambda packet: (packet.position or 0, packet.publication.name),
    )


def _is_settled(publication: Publication, now_ns: int) -> bool:
    """Whether nobody is writing it any more."""
    return publication.finished or 0 < publication.changed_ns <= now_ns - GRACE_NS
