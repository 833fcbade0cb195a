"""What a server that follows a stream of ours does next: a function of what is listed, what is applied, and the time.

    listing ──▶ [decide] ──▶ read manifests ┐
                   ▲         apply          │  each is done, and then it is decided anew,
                   │         pass over      ├─▶ until there is nothing to do but wait
                   └──────── roll back      │
                             wait           ┘

Packets are applied in a chain: the next one is the one whose `previous` is the sequence applied last. Whatever is not
next waits, however much of it there is: only a packet, a checkpoint or an operator ends a gap. Nothing in here reads a
file or a clock; `tests/embedding_server/updates/scenarios` has its cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from satrap.embedding_server.updates.alarms import Alarm, AlarmCode
from satrap.embedding_server.updates.trouble import Trouble
from satrap.errors import UpdateError

__all__ = [
    "Apply",
    "Decision",
    "Head",
    "Memory",
    "PassOver",
    "ReadManifests",
    "Refuse",
    "RollBack",
    "Seen",
    "Step",
    "StreamState",
    "Wait",
    "decide",
]

_READ_AHEAD = 64
"""Manifests that are read before it is decided again."""


@dataclass(frozen=True)
class Head:
    """What a manifest says about its place: `previous` is 0 for the first packet of a stream."""

    stream: str
    previous: int


@dataclass(frozen=True)
class Seen:
    """A name in the listing. `head` is None until the manifest was read; `unreadable` says that it is refused."""

    name: str
    sequence: int
    head: Head | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class StreamState:
    """Where the tables are, and what people decided.

    `applied_name` is the packet that made `applied` of what was before, empty if that is not known any more. `stream`
    is empty while the tables follow none: the first packet of one, with `previous` 0, decides. `holds` are
    the greatest sequences to keep, `skips` the greatest sequences to jump to, by stream. `verdicts` are `waiting`,
    `skipped` or `dropped` by the name of a packet that was refused; `troubles` are passing ones, by name.
    """

    applied: int
    stream: str = ""
    holds: Mapping[str, int] = field(default_factory=dict)
    skips: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    gap_alarm_ns: int = 0
    applied_name: str = ""


@dataclass(frozen=True)
class Memory:
    """What is remembered from one decision to the next: since when there is a gap, and after which sequence."""

    gap_after: int = -1
    gap_since_ns: int = 0


@dataclass(frozen=True)
class ReadManifests:
    """Read these, then decide again."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Apply:
    """Fetch this packet, and apply it. `jumped` says that packets between were given up by an operator's skip.

    Should it be refused because it cannot be read, what is written down is `sequence`.
    """

    name: str
    sequence: int
    jumped: bool = False


@dataclass(frozen=True)
class PassOver:
    """Go on as if this packet were applied: its rows never come."""

    name: str
    sequence: int


@dataclass(frozen=True)
class Refuse:
    """This packet is refused for good: quarantine it, then decide again."""

    name: str
    sequence: int
    error: UpdateError


@dataclass(frozen=True)
class RollBack:
    """Take back what was applied after `keep_through`."""

    keep_through: int


@dataclass(frozen=True)
class Wait:
    """Nothing can be done before something new is listed, or before `until_ns` if that is given."""

    until_ns: int | None = None


Step = ReadManifests | Refuse | Apply | PassOver | RollBack | Wait


@dataclass(frozen=True)
class Decision:
    """Steps to take one after the other until one fails, and what there is to say meanwhile.

    `stream` is the one that is followed, or would be; `behind` counts its packets that are listed and not applied,
    `newest` is the greatest of their sequences, or the one applied. `unmarked` are packets of PERSIA's to apply that
    have no marker, `changed` refused ones that have other bytes now, and are to be judged again.
    """

    steps: tuple[Step, ...]
    alarms: tuple[Alarm, ...] = ()
    stream: str = ""
    behind: int = 0
    newest: int = 0
    memory: Memory = Memory()
    unmarked: frozenset[str] = frozenset()
    changed: tuple[str, ...] = ()


def decide(state: StreamState, listing: Sequence[Seen], memory: Memory, now_ns: int) -> Decision:
    """The next step. `listing` is sorted by name, and may begin with names of what is applied."""
    unread = tuple(seen.name for seen in listing if _can_be_read(seen, state, now_ns))
    if unread:
        return Decision((ReadManifests(unread[:_READ_AHEAD]),), stream=state.stream, memory=memory)
    stream = state.stream or _only_stream(listing)
    ours = [seen for seen in listing if seen.head is None or seen.head.stream == stream]
    coming = [seen for seen in ours if seen.sequence > state.applied]
    plan = _Plan(state, stream, coming, memory, now_ns)
    _tell_of_foreign(plan, listing)
    keep = state.holds.get(stream)
    if keep is not None:
        plan.alarm("held", f"the stream {stream} is held at {keep}: satrap rollback --release lets it go on")
        if state.applied > keep:
            return plan.decision(RollBack(keep))
        plan.coming = [seen for seen in coming if seen.sequence <= keep]
    return _next(plan, ours)


class _Plan:
    """One decision as it comes to be."""

    def __init__(
        self, state: StreamState, stream: str, coming: list[Seen], memory: Memory, now_ns: int
    ) -> None:
        self.state, self.stream, self.coming, self.now_ns = state, stream, coming, now_ns
        self.skip_to = state.skips.get(stream, 0)
        self._memory = memory
        self._sequences = {seen.sequence for seen in coming if seen.head is not None}
        self._alarms: list[Alarm] = []
        self._gap = False

    def alarm(self, code: AlarmCode, message: str) -> None:
        self._alarms.append(Alarm(code, message))

    def gap(self, message: str) -> Wait:
        """Wait for what is missing; after a while it is an alarm."""
        # Also if the clock was set back: otherwise the alarm would come as much later.
        if self._memory.gap_after != self.state.applied or self.now_ns < self._memory.gap_since_ns:
            self._memory = Memory(self.state.applied, self.now_ns)
        self._gap = True
        due = self._memory.gap_since_ns + self.state.gap_alarm_ns
        if self.now_ns < due:
            return Wait(due)
        self.alarm("gap", message)
        return Wait()

    def decision(self, step: Step) -> Decision:
        return Decision(
            (step,),
            tuple(self._alarms),
            self.stream,
            len(self._sequences),
            max(self._sequences, default=self.state.applied),
            self._memory if self._gap else Memory(),
        )


def _can_be_read(seen: Seen, state: StreamState, now_ns: int) -> bool:
    trouble = state.troubles.get(seen.name)
    return seen.head is None and not seen.unreadable and (trouble is None or not trouble.waits(now_ns))


def _only_stream(listing: Sequence[Seen]) -> str:
    """The stream that tables without one would follow; empty if there is none, or more than one."""
    streams = {seen.head.stream for seen in listing if seen.head is not None}
    return streams.pop() if len(streams) == 1 else ""


def _tell_of_foreign(plan: _Plan, listing: Sequence[Seen]) -> None:
    foreign = [seen for seen in listing if seen.head is not None and seen.head.stream != plan.stream]
    if not foreign:
        return
    first = foreign[0]
    assert first.head is not None
    if plan.stream:
        plan.alarm(
            "foreign_stream",
            f"{first.name} belongs to the stream {first.head.stream}; the tables follow {plan.stream}. "
            f"Load a full checkpoint of {first.head.stream} to change over",
        )
    else:
        named = ", ".join(sorted({seen.head.stream for seen in foreign if seen.head is not None}))
        plan.alarm(
            "foreign_stream",
            f"several streams publish here ({named}) and the tables follow none: load a checkpoint of one of them",
        )


def _next(plan: _Plan, ours: Sequence[Seen]) -> Decision:
    """The step once holds are obeyed: the packet that is next in the chain, or the reason why there is none."""
    state = plan.state
    same = [seen.name for seen in ours if seen.sequence == state.applied and seen.head is not None]
    # Also if the one that is applied, or was passed over, is gone or cannot be read.
    same = sorted({*same, state.applied_name} - {""}) if same else []
    if len(same) > 1 and plan.skip_to < state.applied:
        return plan.decision(_forked(plan, same, state.applied))
    for group in _by_sequence(plan.coming):
        readable = [seen for seen in group if seen.head is not None]
        forked = len(readable) > 1
        if forked and group[0].sequence <= plan.skip_to:
            continue  # whichever of them is right, an operator gave it up
        for seen in readable:
            assert seen.head is not None
            jumped = seen.head.previous != state.applied
            if jumped and not state.applied < plan.skip_to >= seen.head.previous:
                continue
            if forked:
                return plan.decision(_forked(plan, [seen.name for seen in readable], group[0].sequence))
            return plan.decision(_take(plan, seen, jumped))
    return plan.decision(_nothing_next(plan))


def _take(plan: _Plan, seen: Seen, jumped: bool) -> Step:
    """What to do with the packet that is next."""
    verdict = plan.state.verdicts.get(seen.name)
    if verdict == "waiting":
        return _quarantined(plan, seen)
    if verdict is not None:
        return PassOver(seen.name, seen.sequence)
    trouble = plan.state.troubles.get(seen.name)
    if trouble is not None:
        plan.alarm(trouble.alarm.code, trouble.alarm.message)
        if trouble.waits(plan.now_ns):
            return Wait(trouble.retry_ns)
    return Apply(seen.name, seen.sequence, jumped)


def _nothing_next(plan: _Plan) -> Step:
    """No packet follows the one that was applied last: one that cannot be read, a fork, a gap, or simply no packet."""
    state = plan.state
    for seen in plan.coming:
        if seen.head is None and not seen.unreadable:  # it may be the next one, for all that is known
            trouble = state.troubles[seen.name]
            plan.alarm(trouble.alarm.code, trouble.alarm.message)
            return Wait(trouble.retry_ns)
    for seen in plan.coming:
        if seen.head is None and seen.sequence > plan.skip_to:
            # Its place in the chain cannot be read. Right behind what is applied there is only one that it can have.
            if state.verdicts.get(seen.name, "waiting") == "waiting":
                return _quarantined(plan, seen)
            if seen.sequence == state.applied + 1:
                return PassOver(seen.name, seen.sequence)
    first = next((seen for seen in plan.coming if seen.head is not None), None)
    if (
        first is None
        or first.head is None
        or (state.applied < plan.skip_to and first.sequence <= plan.skip_to)
    ):
        return Wait()
    previous = first.head.previous
    if previous < state.applied:
        plan.alarm(
            "forked_stream",
            f"{first.name} follows {previous}, but {state.applied} is applied: two trainers write the stream. Remove "
            "the packets of one of them, or load a full checkpoint of the right one",
        )
        return Wait()
    begin = (
        f"the packets here begin after {previous} and no checkpoint is loaded"
        if state.applied == 0
        else f"{first.name} follows {previous}, but {state.applied} is applied last"
    )
    return plan.gap(
        f"{begin}: what lies between is missing. A full checkpoint of {previous} or later ends this, or satrap stream "
        f"skip --to {previous}, which gives up what is missing"
    )


def _quarantined(plan: _Plan, seen: Seen) -> Wait:
    plan.alarm(
        "quarantined",
        f"{seen.name} was refused and the stream waits: satrap quarantine show, then retry or drop",
    )
    return Wait()


def _forked(plan: _Plan, names: Sequence[str], sequence: int) -> Wait:
    applied = plan.state.applied_name
    which = f" ({applied} is in the tables)" if applied in names else ""
    plan.alarm(
        "forked_stream",
        f"{' and '.join(names)} have one sequence{which}: two trainers write the stream {plan.stream}. Remove the "
        f"packets of one of them, or give both up by satrap stream skip --to {sequence}",
    )
    return Wait()


def _by_sequence(coming: Sequence[Seen]) -> list[list[Seen]]:
    groups: dict[int, list[Seen]] = {}
    for seen in coming:
        groups.setdefault(seen.sequence, []).append(seen)
    return [groups[sequence] for sequence in sorted(groups)]
