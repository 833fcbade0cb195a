"""The stream that embedding servers follow: where it lies, how far they are, and what people decided about it."""

import getpass
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from satrap.cli.records import print_record
from satrap.cli.shards import Said, status_of_all, title
from satrap.cli.update_status import age, updates_of
from satrap.embedding_server.origin import PERSIA_STREAM
from satrap.errors import InvalidInputError
from satrap.formats.decisions import Hold, Skip, add_skip, hold_name, read_hold, read_skips, skip_name
from satrap.protos import embedding_pb2 as pb
from satrap.storage import Storage, StorageKind, open_storage
from satrap.tls import Tls

__all__ = ["FollowedStream", "find_stream", "present_user", "show", "skip"]

_UNFOLLOWED = "follows no packets"


@dataclass(frozen=True)
class FollowedStream:
    """A stream beside whose packets decisions are written, and how the servers said that they are."""

    storage: Storage
    name: str
    servers: Sequence[Said[pb.StatusResponse]]

    @property
    def is_unknown(self) -> bool:
        """Whether servers answer that follow a stream, and none of them this one: perhaps its name is wrong."""
        followed = {said.answer.updates.stream for said in self.servers if said.answer is not None} - {""}
        return bool(followed) and self.name not in followed


def find_stream(
    directory: str,
    kind: StorageKind,
    stream: str | None,
    addresses: Sequence[str],
    tls: Tls | None = None,
) -> FollowedStream:
    """The stream by what was said on the command line, otherwise by what the servers follow; empty: not said.

    Raises:
        InvalidInputError: neither says which directory or stream, or the servers are not of one mind.
    """
    servers = status_of_all(addresses, tls)
    following = [
        said.answer.updates for said in servers if said.answer is not None and said.answer.HasField("updates")
    ]
    directory = directory or _only(
        {updates.directory for updates in following},
        "which directory the packets lie in: pass --packets, or set updates.directory",
    )
    name = stream or _only(
        {updates.stream for updates in following if updates.stream},
        "which stream is meant: pass --stream, as trainer.stream names it (PERSIA's packets: persia)",
    )
    return FollowedStream(open_storage(directory, kind), name, servers)


def _only(found: set[str], what: str) -> str:
    if len(found) != 1:
        told = f"the servers say {', '.join(sorted(found))}" if found else "no server that answers says"
        raise InvalidInputError(f"{told}, so it is not known {what}")
    return found.pop()


def present_user() -> str:
    """Whoever runs this, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def show(stream: FollowedStream, *, as_json: bool) -> None:
    """Print how far every server is, and the decisions that stand.

    Raises:
        UpdateError, StorageError: a decision cannot be read.
    """
    hold, skips = read_hold(stream.storage, stream.name), read_skips(stream.storage, stream.name)
    if as_json:
        print(json.dumps(_facts(stream, hold, skips), indent=2))
        return
    now_ns = time.time_ns()
    print_record(
        f"stream {stream.name} in {stream.storage.url}",
        [
            ("gap detection", ", ".join(sorted(_detections(stream)))),
            ("hold", f"through {hold.keep_through:,} {_by(hold, now_ns)}" if hold is not None else "none"),
            *(("skip", f"to {one.to:,} {_by(one, now_ns)}") for one in skips),
        ],
    )
    for said in stream.servers:
        print_record(title(said), _server_lines(said, now_ns))


def skip(stream: FollowedStream, to: int, *, who: str, why: str) -> str:
    """Let every server go on behind `to` where packets are missing; returns the file's place.

    Raises:
        InvalidInputError: there is nothing to skip.
        UpdateError, StorageError: the decision cannot be written.
    """
    if stream.name == PERSIA_STREAM:
        raise InvalidInputError("PERSIA's packets have no sequences, so there are no gaps to skip")
    applied = [
        said.answer.updates.applied_sequence
        for said in stream.servers
        if said.answer is not None and said.answer.updates.stream == stream.name
    ]
    if applied and min(applied) >= to:
        raise InvalidInputError(
            f"every server that answers has applied sequence {min(applied):,} or more already, so there is nothing to "
            f"skip up to {to:,}: `satrap stream show` says how far they are"
        )
    if stream.is_unknown:
        raise InvalidInputError(
            f"no server that answers follows the stream {stream.name}: `satrap status` names those that they follow"
        )
    add_skip(stream.storage, stream.name, Skip(to, who, why, time.time_ns()))
    return stream.storage.path_of(skip_name(stream.name))


def _by(decision: Hold | Skip, now_ns: int) -> str:
    since = age(max(now_ns - decision.time_ns, 0) / 1e9)
    return f"by {decision.who}, {since} ago: {decision.why}"


def _detections(stream: FollowedStream) -> set[str]:
    return {said.answer.updates.gap_detection for said in stream.servers if said.answer is not None} - {""}


def _server_lines(said: Said[pb.StatusResponse], now_ns: int) -> list[tuple[str, str]]:
    if said.answer is None:
        return [("not reached", str(said.error))]
    updates = updates_of(said.answer, now_ns)
    if updates is None:
        return [("updates", _UNFOLLOWED)]
    other = updates.directory
    return [
        ("applied", f"{updates.applied_sequence:,}"),
        ("newest", f"{updates.newest_sequence:,}"),
        ("waiting", f"{updates.packets_behind:,}"),
        ("undo reaches", f"{updates.undo_reaches:,}"),
        ("stream", f"{updates.stream or 'none yet'}, from {other}"),
        *((f"alarm {code}", f"{message} (for {age(seconds)})") for code, message, seconds in updates.alarms),
    ]


def _facts(stream: FollowedStream, hold: Hold | None, skips: Sequence[Skip]) -> dict[str, Any]:
    servers = []
    for said in stream.servers:
        updates = updates_of(said.answer, time.time_ns()) if said.answer is not None else None
        servers.append(
            {
                "address": said.address,
                "shard": f"{said.answer.replica_index} of {said.answer.replica_size}" if said.answer else "",
                "error": str(said.error) if said.error is not None else "",
                "updates": asdict(updates) if updates is not None else None,
            }
        )
    return {
        "stream": stream.name,
        "directory": stream.storage.url,
        "hold": asdict(hold) if hold is not None else None,
        "hold_file": stream.storage.path_of(hold_name(stream.name)),
        "skips": [asdict(one) for one in skips],
        "skip_file": stream.storage.path_of(skip_name(stream.name)),
        "servers": servers,
    }
