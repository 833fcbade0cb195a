"""Which generation of tables a starting server takes over, if any: decisions only; `table_directory` has the files.

A generation is taken over if its rows are those that a cold load would bring: same run of the machine, same layout,
shard, row dtype and embedding config, and of the checkpoint that is named. There is one exception: a generation that
was loaded later, by a call, is taken over by a start that names what was named then, because a crash does not undo an
operator's decision.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from satrap.embedding_server.origin import NO_ORIGIN, Origin
from satrap.embedding_server.tables import RowDType
from satrap.formats.persia_checkpoint import ShardRoute

__all__ = ["Choice", "Found", "GenerationInfo", "GenerationState", "Replacing", "Wanted", "choose"]

GenerationState = Literal["loading", "serving", "abandoned"]


@dataclass(frozen=True)
class Replacing:
    """A checkpoint that is being put into the tables in place: until it is whole they are of no state at all."""

    checkpoint: str
    identity: str


@dataclass(frozen=True)
class GenerationInfo:
    """What a generation says of itself in its control file, as JSON.

    `checkpoint` is empty, and `checkpoint_identity` too, if nothing was loaded. `start_identity` is the identity of
    the checkpoint that was named when the server was started that loaded this; empty if none was. `created_ns` is
    nanoseconds since the epoch. A generation of a version before origins has none: it follows no stream.
    `replacing` is set while another checkpoint is put into the tables in place. `declined` has the identities of the
    checkpoints that there were when somebody had this one loaded by name: none of them takes its place by itself.
    """

    row_dtype: RowDType
    config_digest: str = ""
    checkpoint: str = ""
    checkpoint_identity: str = ""
    start_identity: str = ""
    warnings: tuple[str, ...] = ()
    version: str = ""
    created_ns: int = 0
    origin: Origin = NO_ORIGIN
    replacing: Replacing | None = None
    declined: tuple[str, ...] = ()

    def to_bytes(self, limit: int) -> bytes:
        """At most `limit` bytes: as many warnings as fit, and how many there were more."""
        kept = list(self.warnings)
        while True:
            more = len(self.warnings) - len(kept)
            told = (*kept, f"and {more:,} warnings more") if more else tuple(kept)
            data = json.dumps(asdict(replace(self, warnings=told))).encode()
            if len(data) <= limit or not kept:
                return data
            kept.pop()

    @staticmethod
    def from_bytes(data: bytes) -> "GenerationInfo":
        """The opposite.

        Raises:
            ValueError: the bytes are something else.
        """
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, not {type(value).__name__}")
        warnings = value.pop("warnings", ())
        origin = Origin.from_json(value.pop("origin", {}))
        replacing = value.pop("replacing", None)
        declined = value.pop("declined", ())
        try:
            info = GenerationInfo(
                warnings=tuple(map(str, warnings)),
                origin=origin,
                replacing=None if replacing is None else Replacing(**replacing),
                declined=tuple(map(str, declined)),
                **value,
            )
        except TypeError as error:
            raise ValueError(str(error)) from error
        if info.row_dtype not in ("float32", "float16"):
            raise ValueError(f"row_dtype is {info.row_dtype!r}")
        return info


@dataclass(frozen=True)
class Found:
    """A generation's folder, and what was found in it; `damage` is the reason if its control file cannot be used.

    `owner` and `info` are None if there is no control file, or none that can be used. `pid` is the server that holds it
    or held it last, `locked` whether that one lives.
    """

    number: int
    folder: Path
    damage: str = ""
    state: GenerationState = "loading"
    boot_id: bytes = b""
    owner: ShardRoute | None = None
    info: GenerationInfo | None = None
    pid: int = 0
    locked: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a starting server would load. `checkpoint` is None if none was named: then any will do.

    If a folder of checkpoints was named, `checkpoint_identity` is the folder's, and `members` are those of the
    checkpoints in it, each of which will do: a newer one takes the place of what is taken over while that is served.
    """

    boot_id: bytes
    owner: ShardRoute
    row_dtype: RowDType
    config_digest: str = ""
    checkpoint: str | Path | None = None
    checkpoint_identity: str = ""
    members: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """The generation to take over, or the reason why there is none.

    `resume` is the checkpoint to load instead of the one that is named: a server was putting it in place when it ended.
    """

    found: Found | None
    reason: str = ""
    resume: str = ""


def choose(generations: Sequence[Found], wanted: Wanted) -> Choice:
    """The newest generation that was ever served, if it is what is wanted.

    An older one is not looked at: it is there only because its server died before it could remove it.
    """
    newest_first = sorted(generations, key=lambda found: found.number, reverse=True)
    for found in newest_first:
        if not found.damage and found.state != "serving":
            continue
        reason = found.damage or _refusal(found, wanted)
        if reason:
            return Choice(None, reason)
        replacing = found.info.replacing if found.info is not None else None
        if replacing is not None:
            reason = f"the server before ended while {replacing.checkpoint} was being put in place"
            return Choice(None, reason, resume=replacing.checkpoint)
        return Choice(found)
    if any(found.state == "loading" for found in newest_first):
        return Choice(None, "the server before ended before its checkpoint was loaded")
    return Choice(None, "there is no table of a server before")


def _refusal(found: Found, wanted: Wanted) -> str:
    """Why a generation that was served is not what is wanted; empty if it is."""
    info, owner = found.info, found.owner
    assert info is not None
    assert owner is not None
    if found.boot_id != wanted.boot_id:
        return "the machine was started again since the table was written"
    if owner != wanted.owner:
        return (
            f"the table is of shard {owner.replica_index} of {owner.replica_size}, not "
            f"{wanted.owner.replica_index} of {wanted.owner.replica_size}"
        )
    if info.row_dtype != wanted.row_dtype:
        return f"the table has {info.row_dtype} rows, row_dtype is {wanted.row_dtype}"
    if info.config_digest != wanted.config_digest:
        return "the embedding config is not the one that the table was loaded with"
    if info.checkpoint and not info.origin.format:
        return f"the table was loaded by satrap {info.version}, which followed no updates"
    known = {info.checkpoint_identity, info.start_identity}
    if info.replacing is not None:
        known.add(info.replacing.identity)
    if (
        wanted.checkpoint is None
        or wanted.checkpoint_identity in known
        or info.checkpoint_identity in wanted.members
    ):
        return ""
    if not info.checkpoint:
        return f"the table holds no checkpoint; {wanted.checkpoint} is named"
    if info.checkpoint == str(wanted.checkpoint):
        return f"{wanted.checkpoint} was written again since the table was loaded"
    return f"the table holds {info.checkpoint}; {wanted.checkpoint} is named"
