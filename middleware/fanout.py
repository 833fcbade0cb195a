"""All shards of a plan at once: signs out, rows back."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from satrap.middleware.shards import Answer, Rows, Shard

__all__ = ["Gathered", "gather_rows"]


class Gathered(NamedTuple):
    """Rows in the order of the groups asked, whether a shard's may be out of date, and how far each shard had come.

    `newest_event_ns` is the least over the shards that know theirs, nanoseconds since the epoch; 0: none does.
    """

    rows: list[Rows]
    is_stale: bool
    newest_event_ns: int = 0


def gather_rows(shards: Sequence[Shard], groups: Sequence[tuple[int, int, bytes]]) -> Gathered:
    """Ask every shard that has groups, then wait for all.

    `groups` are (shard, dim, signs), sorted by shard, as `Plan.groups()` gives them. When a shard fails, its error
    is raised after the others have answered, so that nothing is left in flight.

    Raises:
        ShardUnavailableError: of the first shard that failed.
        ShardMismatchError: an address leads to another shard.
    """
    answers: list[Answer] = [
        shards[shard].ask([(dim, signs) for _, dim, signs in of_shard])
        for shard, of_shard in groupby(groups, itemgetter(0))
    ]
    rows: list[Rows] = []
    is_stale = False
    newest_event_ns = 0
    failure: Exception | None = None
    for answer in answers:
        try:
            rows += answer.result()
            is_stale |= answer.is_stale
            event_ns = answer.newest_event_ns
            if event_ns and (event_ns < newest_event_ns or not newest_event_ns):
                newest_event_ns = event_ns
        except Exception as error:  # raised below
            failure = failure or error
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame
    return Gathered(rows, is_stale, newest_event_ns)
