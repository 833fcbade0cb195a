"""Going back: a hold says through which sequence packets count, and a server that is beyond takes the rest back.

`plan_rollback` decides from what is there; `roll_back` does the part that undo files can do. Packets are taken back
in the opposite order of their application, one at a time: the watermark first, then the rows, then the file (`undo`),
so that after a kill anywhere, and whatever becomes of the hold meanwhile, the next start finds either an applied
packet, or an unfinished one that it takes back before anything else.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from satrap._core.table import TableGeneration
from satrap.embedding_server.updates.undo import Position, UndoLog, usable_entries
from satrap.embedding_server.updates.undo_file import UndoEntry

__all__ = ["CANNOT", "Rollback", "plan_rollback", "roll_back"]

CANNOT = "cannot go back to"
"""What `Rollback.stuck` begins with: whoever waits for a rollback waits in vain."""


@dataclass(frozen=True)
class Rollback:
    """How to come to a sequence: take `undo` back, newest first; or load the checkpoint of the sequence `reload` and
    apply packets again; or, if `stuck` says why, neither is possible. All empty: nothing has to be done.
    """

    undo: tuple[UndoEntry, ...] = ()
    reload: int | None = None
    stuck: str = ""


def plan_rollback(
    keep_through: int, entries: Sequence[UndoEntry], applied: int, checkpoints: Collection[int]
) -> Rollback:
    """What brings a generation whose watermark is `applied` to `keep_through` or below.

    `entries` are the undo log's, oldest first, without an unfinished one (`UndoLog.revert` comes before); `checkpoints`
    are the sequences of usable checkpoints of the stream. Everything applied since the lowest packet beyond
    `keep_through` goes; PERSIA's, whose order is not that of their times, then come again if they are at or below it.
    """
    if applied <= keep_through:
        return Rollback()
    usable = usable_entries(entries, applied)
    first = next((i for i, entry in enumerate(usable) if entry.after > keep_through), None)
    if first is not None and usable[first].previous.sequence <= keep_through:
        return Rollback(undo=tuple(reversed(usable[first:])))
    below = [sequence for sequence in checkpoints if sequence <= keep_through]
    if below:
        return Rollback(reload=max(below))
    reaches = usable[0].previous.sequence if usable else applied
    return Rollback(
        stuck=f"{CANNOT} {keep_through}: the undo log reaches {reaches}, and there is no checkpoint at or "
        f"below {keep_through}: put one into the checkpoint folder, or release the hold (satrap rollback --release)"
    )


def roll_back(
    store: TableGeneration,
    log: UndoLog,
    position: Position,
    undo: Sequence[UndoEntry],
    on_step: Callable[[str], None] = lambda name: None,
) -> None:
    """Take the packets of `Rollback.undo` back. The caller has the right to write rows.

    Raises:
        NoSpaceError, TableFolderError: one cannot be taken back; those before it are. Call it again.
    """
    for entry in undo:
        log.take_back(store, entry, position, on_step)
