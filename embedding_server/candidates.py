"""Which checkpoint to load, of those that there are: functions of what is known of each, and of what is served."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from satrap.embedding_server.checkpoints import OpenedCheckpoint
from satrap.embedding_server.origin import Origin
from satrap.errors import CheckpointError

__all__ = ["Candidate", "Serving", "by_preference", "check_held", "choose"]


@dataclass(frozen=True)
class Candidate:
    """One checkpoint of a folder, as far as it has to be known to choose.

    `sequence` is its watermark: packets after it are applied. `reaches` is the greatest sequence of which it may hold
    something: the same, but for PERSIA's checkpoints the second in which they were written.
    """

    location: str
    stream: str
    sequence: int
    published_ns: int
    identity: str
    reaches: int

    @staticmethod
    def of(opened: OpenedCheckpoint) -> "Candidate":
        """What there is to know of one that was opened."""
        origin = opened.origin
        return Candidate(
            opened.location,
            origin.stream,
            origin.base_sequence,
            origin.published_ns,
            opened.identity,
            origin.reaches(origin.base_sequence),
        )


@dataclass(frozen=True)
class Serving:
    """What is served now: where it began, how far it is, and the checkpoint that it came from.

    `declined` are those that somebody passed over who named that one.
    """

    origin: Origin
    applied: int
    identity: str = ""
    declined: frozenset[str] = frozenset()


def by_preference(
    candidates: Sequence[Candidate], keep_through: Mapping[str, int], refused: Collection[str] = ()
) -> list[Candidate]:
    """All candidates that may be used, the best one first.

    Sequences of two streams cannot be compared: the stream that published last comes first, and of each the highest
    watermark, published last. `keep_through` has, by stream, the sequence above which nothing may be used; `refused`
    has the identities of those that were tried and cannot be used.
    """
    usable = [
        candidate
        for candidate in candidates
        if candidate.identity not in refused
        and candidate.reaches <= keep_through.get(candidate.stream, candidate.reaches)
    ]
    last_of: dict[str, int] = {}
    for candidate in usable:
        last_of[candidate.stream] = max(last_of.get(candidate.stream, 0), candidate.published_ns)
    return sorted(
        usable,
        key=lambda candidate: (
            last_of[candidate.stream],
            candidate.stream,
            candidate.sequence,
            candidate.published_ns,
            candidate.location,
        ),
        reverse=True,
    )


def check_held(candidate: Candidate, keep_through: Mapping[str, int]) -> None:
    """Refuse a checkpoint that reaches beyond the hold of its stream.

    Raises:
        CheckpointError: it does.
    """
    held = keep_through.get(candidate.stream, candidate.reaches)
    if candidate.reaches > held:
        raise CheckpointError(
            candidate.location,
            f"it reaches {candidate.reaches}, and stream {candidate.stream} is held at {held}: name one at or below "
            "that, or end the hold (satrap rollback --release)",
        )


def choose(
    candidates: Sequence[Candidate],
    serving: Serving,
    keep_through: Mapping[str, int],
    refused: Collection[str] = (),
    must_replace: bool = False,
) -> Candidate | None:
    """The candidate to load in place of what is served; None: that is the best there is.

    Of the same stream it has to be beyond what is applied (PERSIA's: written later than what was loaded, since nobody
    knows which packets are missing); of another stream, to be published later. With `must_replace` what is served is
    beyond a hold, and the best one of its stream is to be loaded, whatever it is.
    """
    origin = serving.origin
    if must_replace:
        best = by_preference(candidates, keep_through, refused)
        return next((candidate for candidate in best if candidate.stream == origin.stream), None)
    best = by_preference(candidates, keep_through, {*refused, *serving.declined})
    if not best:
        return None
    first = best[0]
    if not origin.stream:
        return first if first.identity != serving.identity else None
    if first.stream != origin.stream:
        if first.published_ns > origin.published_ns:
            return first
        first = next((candidate for candidate in best if candidate.stream == origin.stream), first)
        if first.stream != origin.stream:
            return None
    if origin.format == "persia":
        return first if first.published_ns > origin.published_ns else None
    return first if first.sequence > serving.applied else None
