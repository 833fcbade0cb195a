"""Going back to a sequence, everywhere: the decision is a file beside the packets, and this watches it being obeyed."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from satrap import rpc
from satrap.cli.shards import STATUS_SECONDS, Said, title
from satrap.cli.stream import FollowedStream
from satrap.client import ManagementClient, SparseNeed
from satrap.embedding_server.updates.rollback import CANNOT
from satrap.errors import ConflictError, InvalidInputError, SatrapError, UpdateError
from satrap.formats.decisions import Hold, hold_name, read_hold, remove_hold, write_hold
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.tls import Tls

__all__ = ["Report", "check_dense_versions", "hold", "release", "watch"]

_FOLLOW_SECONDS = 10.0
"""How long a server may take for one round of following before it is asked again."""

_PAUSE_SECONDS = 0.2
_LINE_SECONDS = 5.0


@dataclass
class Report:
    """How it ended: a line for each server, and how many of them are not where they should be."""

    lines: list[str] = field(default_factory=list)
    left: int = 0


def check_dense_versions(
    to: int, management: str | None, *, force: bool, token: str | None = None, tls: Tls | None = None
) -> list[str]:
    """Refuse to go below what a dense version that answers needs. Returns what has to be said all the same.

    `management` is serving's management address; None: the usual one of this machine, where nobody may listen. `token`
    and `tls` are for a server that asks for them.

    Raises:
        ConflictError: a version needs a later sequence, and `force` is not set.
        SatrapError: the address that was named does not answer, and `force` is not set.
    """
    address = management or "127.0.0.1:7071"
    try:
        metadata = {"authorization": f"Bearer {token}"} if token else None
        with ManagementClient(address, timeout=STATUS_SECONDS, metadata=metadata, tls=tls) as client:
            needs = [need for need in client.sparse_needs() if need.sequence > to]
    except SatrapError as error:
        if management is not None and not force:
            raise
        return [f"which sequence dense versions need was not checked: {error} (--management names serving)"]
    if needs and not force:
        raise ConflictError(
            f"{_told(needs)}: their answers would be made of older embeddings than they were trained with. Make an "
            "older version the default and unregister these, or pass --force"
        )
    return [f"forced: {_told(needs)}"] if needs else []


def _told(needs: Sequence[SparseNeed]) -> str:
    return ", ".join(f"{need.model} {need.version} needs sequence {need.sequence:,}" for need in needs)


def hold(stream: FollowedStream, to: int, *, who: str, why: str) -> list[str]:
    """Write the decision. Returns what has to be said about it.

    Raises:
        UpdateError, StorageError: it cannot be written, or whether there is one cannot be found out.
    """
    try:
        before, damaged = read_hold(stream.storage, stream.name), ""
    except UpdateError as error:  # as a crash may leave it; without it the stream would go on
        before, damaged = None, str(error)
    write_hold(stream.storage, Hold(stream.name, to, who, why, time.time_ns()))
    lines = [f"{stream.storage.path_of(hold_name(stream.name))}: keep through {to:,}, until it is released"]
    if stream.is_unknown:
        lines.append(f"no server that answers follows the stream {stream.name}")
    if before is not None:
        lines.append(f"in place of the hold through {before.keep_through:,} by {before.who}: {before.why}")
    if damaged:
        lines.append(f"in place of one that cannot be read: {damaged}")
    for said in stream.servers:
        answer = said.answer
        if answer is not None and answer.HasField("updates") and answer.updates.undo_reaches > to:
            lines.append(
                f"{title(said)}: its undo log reaches {answer.updates.undo_reaches:,}, so it loads the newest "
                f"checkpoint at or below {to:,} and applies packets again"
            )
    return lines


def release(stream: FollowedStream) -> None:
    """Take the decision back.

    Raises:
        InvalidInputError: there is none.
        StorageError: it cannot be removed.
    """
    if not remove_hold(stream.storage, stream.name):
        raise InvalidInputError(
            f"{stream.storage.path_of(hold_name(stream.name))}: there is no such hold; `satrap stream show` says what "
            "stands"
        )


def watch(
    stream: FollowedStream,
    to: int | None,
    seconds: float,
    on_line: Callable[[str], None] = lambda line: print(line, flush=True),
) -> Report:
    """Have every server look now, and wait until each is at `to` or below (None: until it has looked).

    `on_line` gets a line as each server gets there, or is given up after `seconds`.
    """
    report, lock = Report(), threading.Lock()

    def one(said: Said[pb.StatusResponse]) -> None:
        line, arrived = _watch_one(said, to, time.monotonic() + seconds)
        with lock:
            report.lines.append(line)
            report.left += not arrived
            on_line(line)

    threads = [threading.Thread(target=one, args=(said,)) for said in stream.servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return report


def _watch_one(said: Said[pb.StatusResponse], to: int | None, until: float) -> tuple[str, bool]:
    """The line about one server, and whether it is there."""
    name = title(said)
    told = time.monotonic()
    with rpc.channel(said.address, tls=said.tls) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        while True:
            patience = max(min(until - time.monotonic(), _FOLLOW_SECONDS), 0.5)
            try:
                answer = stub.FollowNow(pb.FollowNowRequest(), timeout=patience)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED or time.monotonic() >= until:
                    reason = rpc.error_from_rpc(error)
                    return f"{name}: not reached ({reason}); it follows the file when it is back", False
                continue
            at = f"at sequence {answer.applied_sequence:,}"
            if to is None or answer.applied_sequence <= to:
                return f"{name}: {at}", True
            stuck = next((alarm.message for alarm in answer.alarms if CANNOT in alarm.message), "")
            if stuck or time.monotonic() >= until:
                alarms = "; ".join(f"{alarm.code}: {alarm.message}" for alarm in answer.alarms)
                return f"{name}: still {at}; {stuck or alarms or 'it goes on by itself'}", False
            if time.monotonic() - told >= _LINE_SECONDS:
                told = time.monotonic()
                print(f"{name}: still {at}", file=sys.stderr)
            time.sleep(_PAUSE_SECONDS)
