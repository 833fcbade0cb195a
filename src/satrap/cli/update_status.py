"""How far embedding servers are with their trainer's packets, for a person."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from satrap.embedding_server.updates.freshness import Delays, quantile
from satrap.protos import embedding_pb2 as pb

__all__ = ["Updates", "age", "disagreements", "update_lines", "updates_of"]


@dataclass(frozen=True)
class Updates:
    """What a server said of its updates. Ages and delays are seconds, None if they are not known.

    `alarms` are (code, message, seconds since), `refused` (sequence, name, code, decision), newest last.
    `not_ready` is why health is red, empty if it is not.
    """

    directory: str
    format: str
    stream: str
    applied_sequence: int
    newest_sequence: int
    packets_behind: int
    newest_event_ns: int
    newest_event_age_seconds: float | None
    gap_detection: str
    alarms: tuple[tuple[str, str, float], ...] = ()
    hold: Mapping[str, object] | None = None
    undo_reaches: int = 0
    applied_packets: int = 0
    applied_rows: int = 0
    erased_rows: int = 0
    quarantined_packets: int = 0
    skipped_packets: int = 0
    unmarked_packets: int = 0
    visible_p50_seconds: float | None = None
    visible_p99_seconds: float | None = None
    visible_packets: int = 0
    clock_skew_seconds: float = 0.0
    refused: tuple[tuple[int, str, str, str], ...] = field(default=())
    not_ready: str = ""


def updates_of(answer: pb.StatusResponse, now_ns: int) -> Updates | None:
    """What a status says of updates, None if nothing is followed; `now_ns` is nanoseconds since the epoch."""
    if not answer.HasField("updates"):
        return None
    said = answer.updates
    seen = Delays(tuple(said.visible_seconds.counts), said.visible_seconds.count, said.visible_seconds.sum)
    known = bool(seen.observed and seen.counts)
    return Updates(
        directory=said.directory,
        format=said.format,
        stream=said.stream,
        applied_sequence=said.applied_sequence,
        newest_sequence=said.newest_sequence,
        packets_behind=said.packets_behind,
        newest_event_ns=said.newest_event_ns,
        newest_event_age_seconds=max(now_ns - said.newest_event_ns, 0) / 1e9
        if said.newest_event_ns
        else None,
        gap_detection=said.gap_detection,
        alarms=tuple(
            (alarm.code, alarm.message, max(now_ns - alarm.since_ns, 0) / 1e9) for alarm in said.alarms
        ),
        hold={"keep_through": said.hold.keep_through, "who": said.hold.who, "why": said.hold.why}
        if said.HasField("hold")
        else None,
        undo_reaches=said.undo_reaches,
        applied_packets=said.applied_packets,
        applied_rows=said.applied_rows,
        erased_rows=said.erased_rows,
        quarantined_packets=said.quarantined_packets,
        skipped_packets=said.skipped_packets,
        unmarked_packets=said.unmarked_packets,
        visible_p50_seconds=quantile(seen, 0.5) if known else None,
        visible_p99_seconds=quantile(seen, 0.99) if known else None,
        visible_packets=seen.observed,
        clock_skew_seconds=said.clock_skew_seconds,
        refused=tuple(
            (verdict.sequence, verdict.name, verdict.code, verdict.decision) for verdict in said.verdicts
        ),
        not_ready=said.not_ready,
    )


def update_lines(updates: Updates) -> Iterator[tuple[str, str]]:
    """Names and values, those without news left empty."""
    what = f"{updates.format} stream {updates.stream}" if updates.stream else "no packet yet"
    yield "not ready", updates.not_ready
    yield "updates", f"{what}, from {updates.directory}"
    behind = updates.packets_behind
    yield (
        "applied",
        f"sequence {updates.applied_sequence:,}"
        + (
            f", {behind:,} {'packet' if behind == 1 else 'packets'} behind (newest {updates.newest_sequence:,})"
            if behind
            else ", nothing is waiting"
        ),
    )
    yield (
        "newest event",
        "not known"
        if updates.newest_event_age_seconds is None
        else f"{age(updates.newest_event_age_seconds)} old",
    )
    if updates.visible_p50_seconds is not None and updates.visible_p99_seconds is not None:
        yield (
            "visible after",
            f"p50 {_delay(updates.visible_p50_seconds)}, p99 {_delay(updates.visible_p99_seconds)} "
            f"({updates.visible_packets:,} {'packet' if updates.visible_packets == 1 else 'packets'})",
        )
    yield "gap detection", updates.gap_detection
    if updates.hold is not None:
        hold = updates.hold
        yield "held", f"through {hold['keep_through']:,} by {hold['who']}: {hold['why']}"
    for code, message, seconds in updates.alarms:
        yield f"alarm {code}", f"{message} (for {age(seconds)})"
    counts = [
        (updates.quarantined_packets, "refused"),
        (updates.skipped_packets, "passed over"),
        (updates.unmarked_packets, "without PERSIA's marker"),
    ]
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    yield "packets", f"{told} since start" if told else ""
    for _, name, code, decision in updates.refused:
        yield "quarantine", f"{name} ({code}), {decision}"
    if updates.clock_skew_seconds:
        yield "clock", f"the trainer's is {updates.clock_skew_seconds:.1f} s ahead of the server's"


def disagreements(answers: Sequence[tuple[str, Updates]]) -> list[str]:
    """A sentence for each packet that some shards (name, updates) refused and others have applied, and for streams.

    A file of PERSIA's that could not be read has no sequence (0): whether others have applied it is not known. A packet
    that was dropped is settled: whoever dropped it was told of the others.
    """
    sentences = []
    streams = {updates.stream for _, updates in answers if updates.stream}
    if len(streams) > 1:
        told = ", ".join(f"{shard}: {updates.stream}" for shard, updates in answers if updates.stream)
        sentences.append(
            f"the shards follow different streams ({told}): load one's full checkpoint at all of them"
        )
    packets = sorted(
        {
            (sequence, name)
            for _, updates in answers
            for sequence, name, _, decision in updates.refused
            if sequence and decision != "dropped"
        }
    )
    for sequence, name in packets:
        refused = {
            shard: code
            for shard, updates in answers
            for _, other, code, _ in updates.refused
            if other == name
        }
        applied = [
            shard
            for shard, updates in answers
            if shard not in refused and updates.stream in streams and updates.applied_sequence >= sequence
        ]
        if applied:
            told = ", ".join(f"{shard} ({code})" for shard, code in refused.items())
            sentences.append(
                f"the shards disagree on {name}: refused by {told}, applied by {', '.join(applied)}. To have "
                f"none of it anywhere: satrap rollback --to {max(sequence - 1, 0)} (docs/operations.md, Quarantine)"
            )
    return sentences


def age(seconds: float) -> str:
    """A time span, short."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def _delay(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
