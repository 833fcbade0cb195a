"""How every embedding server is, and how a middleware reaches it."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import grpc
from rich.filesize import decimal

from satrap import rpc
from satrap._core.table import TableError, TableReader, TableSpaceError
from satrap.cli.records import print_record
from satrap.cli.shards import STATUS_SECONDS, Said, status_of_all
from satrap.cli.update_status import Updates, disagreements, update_lines, updates_of
from satrap.protos import embedding_pb2, middleware_pb2, middleware_pb2_grpc
from satrap.tls import Tls

__all__ = ["ServerStatus", "ask", "show"]

_STATES = {
    embedding_pb2.STATE_LOADING: "loading",
    embedding_pb2.STATE_READY: "ready",
    embedding_pb2.STATE_FAILED: "failed",
}


@dataclass(frozen=True)
class ServerStatus:
    """What an embedding server said of itself, or why it could not.

    `attachable` is `yes`, or why a process of this machine and user cannot read its tables in place. `way` is how the
    middleware that was asked reaches it: `attached`, or `rpc: REASON`; empty if none was asked. `updates` is None if it
    follows no packets; `disagreements` says where it and others judged a packet differently.
    """

    address: str
    shard: str = ""
    state: str = "unreachable"
    message: str = ""
    rows: int = 0
    bytes: int = 0
    huge_pages: bool = False
    started: str = ""
    checkpoint: str = ""
    warnings: tuple[str, ...] = ()
    lookups: int = 0
    missing: int = 0
    attachable: str = ""
    way: str = ""
    updates: Updates | None = None
    disagreements: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it answers, and its health is not red because of updates."""
        return self.state == "ready" and not (self.updates is not None and self.updates.not_ready)


def ask(addresses: Sequence[str], middleware: str | None, tls: Tls | None = None) -> list[ServerStatus]:
    """What each server says, and how `middleware` (an address) reaches it.

    Raises:
        SatrapError: the middleware cannot be asked.
    """
    ways = _ways(middleware, tls) if middleware is not None else {}
    answers = [_status(said, ways.get(said.address, "")) for said in status_of_all(addresses, tls)]
    following = [
        (f"shard {answer.shard}", answer.updates) for answer in answers if answer.updates is not None
    ]
    differences = disagreements(following)
    return [
        replace(answer, disagreements=tuple(differences)) if answer.updates is not None else answer
        for answer in answers
    ]


def _status(said: Said[embedding_pb2.StatusResponse], way: str) -> ServerStatus:
    answer = said.answer
    if answer is None:
        return ServerStatus(said.address, message=str(said.error), way=way)
    return ServerStatus(
        address=said.address,
        shard=f"{answer.replica_index} of {answer.replica_size}",
        state=_STATES.get(answer.state, "unknown"),
        message=answer.message,
        rows=sum(table.rows for table in answer.tables),
        bytes=sum(table.bytes for table in answer.tables),
        huge_pages=bool(answer.tables) and all(table.huge_pages for table in answer.tables),
        started=answer.started,
        checkpoint=answer.checkpoint,
        warnings=tuple(answer.warnings),
        lookups=answer.lookups,
        missing=answer.missing,
        attachable=_attachable(answer),
        way=way,
        updates=updates_of(answer, time.time_ns()),
    )


def _attachable(answer: embedding_pb2.StatusResponse) -> str:
    """Whether this process, on this machine, could read the server's tables in place."""
    if not answer.table_path:
        return "no: it serves nothing yet"
    if not Path(answer.table_path).parent.parent.exists():
        return "no: its tables are not on this machine, or not to be seen"
    try:
        TableReader(answer.table_path, answer.instance_id, answer.server_uid).close()
    except (TableError, TableSpaceError) as error:
        return f"no: {error}"
    return "yes"


def _ways(middleware: str, tls: Tls | None) -> dict[str, str]:
    """How a middleware reaches each address.

    Raises:
        SatrapError: it cannot be asked.
    """
    with rpc.channel(middleware, tls=tls) as channel:
        stub = middleware_pb2_grpc.MiddlewareServiceStub(channel)
        try:
            answer = stub.Status(middleware_pb2.StatusRequest(), timeout=STATUS_SECONDS)
        except grpc.RpcError as error:
            raise rpc.error_from_rpc(error) from error
    return {shard.address: shard.way for shard in answer.shards}


def show(answers: Sequence[ServerStatus], *, as_json: bool, with_way: bool) -> None:
    """Print what was said."""
    if as_json:
        print(json.dumps([asdict(answer) for answer in answers], indent=2))
        return
    for answer in answers:
        print_record(
            f"shard {answer.shard or '?'} at {answer.address}",
            [
                ("state", answer.state),
                ("rows", f"{answer.rows:,}"),
                ("memory", decimal(answer.bytes)),
                ("huge pages", "yes" if answer.huge_pages else "no"),
                ("started", answer.started),
                ("attachable here", answer.attachable),
                ("middleware", (answer.way or "not asked by it") if with_way else ""),
                *(update_lines(answer.updates) if answer.updates is not None else ()),
                ("message", answer.message),
                *(("warning", warning) for warning in answer.warnings),
            ],
        )
    for sentence in dict.fromkeys(sentence for answer in answers for sentence in answer.disagreements):
        print(sentence)
