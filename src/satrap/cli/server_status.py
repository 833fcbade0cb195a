"""How every embedding server is, and how a middleware reaches it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
from rich.filesize import decimal

from satrap import rpc
from satrap._core.table import TableError, TableReader, TableSpaceError
from satrap.cli.records import print_record
from satrap.embedding_server.table_directory import held_identities, holder_of
from satrap.errors import InvalidInputError
from satrap.protos import embedding_pb2, embedding_pb2_grpc, middleware_pb2, middleware_pb2_grpc

__all__ = ["ServerStatus", "ask", "local_servers", "show"]

_TIMEOUT_SECONDS = 5.0
_STATES = {
    embedding_pb2.STATE_LOADING: "loading",
    embedding_pb2.STATE_READY: "ready",
    embedding_pb2.STATE_FAILED: "failed",
}


@dataclass(frozen=True)
class ServerStatus:
    """What an embedding server said of itself, or why it could not.

    `attachable` is `yes`, or why a process of this machine and user cannot read its tables in place. `way` is how the
    middleware that was asked reaches it: `attached`, or `rpc: REASON`; empty if none was asked.
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


def ask(addresses: Sequence[str], middleware: str | None) -> list[ServerStatus]:
    """What each server says, and how `middleware` (an address) reaches it.

    Raises:
        InvalidInputError: there is nobody to ask.
        SatrapError: the middleware cannot be asked.
    """
    if not addresses:
        raise InvalidInputError(
            "there is no embedding server to ask: pass --shards, list them in infer_config.servers, or start one here"
        )
    ways = _ways(middleware) if middleware is not None else {}
    return [_ask(address, ways.get(address, "")) for address in addresses]


def local_servers(directory: Path) -> list[str]:
    """Where the servers listen that hold tables of this machine; those that have said it."""
    holders = [holder_of(folder) for _, folder in held_identities(directory)]
    return [holder.address for holder in holders if holder is not None and holder.address]


def _ask(address: str, way: str) -> ServerStatus:
    with rpc.channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        try:
            answer = stub.Status(embedding_pb2.StatusRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return ServerStatus(address, message=str(rpc.error_from_rpc(error)), way=way)
    return ServerStatus(
        address=address,
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


def _ways(middleware: str) -> dict[str, str]:
    """How a middleware reaches each address.

    Raises:
        SatrapError: it cannot be asked.
    """
    with rpc.channel(middleware) as channel:
        stub = middleware_pb2_grpc.MiddlewareServiceStub(channel)
        try:
            answer = stub.Status(middleware_pb2.StatusRequest(), timeout=_TIMEOUT_SECONDS)
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
                ("message", answer.message),
                *(("warning", warning) for warning in answer.warnings),
            ],
        )
