"""One call to every embedding server at once, and what each of them said."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from satrap import rpc
from satrap.cli import options
from satrap.config import GlobalConfig
from satrap.embedding_server.identity_lock import holder_of
from satrap.embedding_server.table_directory import held_identities
from satrap.errors import InvalidInputError, SatrapError
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.tls import Tls

__all__ = [
    "STATUS_SECONDS",
    "Said",
    "ask_all",
    "known_servers",
    "local_servers",
    "servers_to_ask",
    "status_of_all",
    "title",
]

STATUS_SECONDS = 5.0
"""How long a server may take to say how it is."""

_MOST_AT_ONCE = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Said(Generic[T]):
    """What the server at an address answered, or why it did not; `tls` is how it was asked."""

    address: str
    answer: T | None = None
    error: SatrapError | None = None
    tls: Tls | None = None


def known_servers(flag: str | None, config: GlobalConfig, table_directory: Path) -> list[str]:
    """The addresses of the flag, otherwise the config's, otherwise of the servers that hold tables of this machine."""
    return options.shard_addresses(flag, config) or local_servers(table_directory)


def servers_to_ask(flag: str | None, config: GlobalConfig, table_directory: Path) -> list[str]:
    """As `known_servers`.

    Raises:
        InvalidInputError: there are none.
    """
    addresses = known_servers(flag, config, table_directory)
    if not addresses:
        raise InvalidInputError(
            "there is no embedding server to ask: pass --shards, list them in infer_config.servers, or start one here"
        )
    return addresses


def local_servers(directory: Path) -> list[str]:
    """Where the servers listen that hold tables of this machine; those that have said it."""
    holders = [holder_of(folder) for _, folder in held_identities(directory)]
    return [holder.address for holder in holders if holder is not None and holder.address]


def ask_all(
    addresses: Sequence[str],
    call: Callable[[pb_grpc.EmbeddingServiceStub], T],
    on_answer: Callable[[Said[T]], None] = lambda said: None,
    *,
    tls: Tls | None = None,
) -> list[Said[T]]:
    """Make one call to each server, all at once; `on_answer` is told each as it comes, on threads of its own.

    `tls`: what is shown to them, and whom to believe; None: the way there is not encrypted.
    """

    def one(address: str) -> Said[T]:
        with rpc.channel(address, tls=tls) as channel:
            try:
                said = Said(address, answer=call(pb_grpc.EmbeddingServiceStub(channel)), tls=tls)
            except grpc.RpcError as error:
                said = Said[T](address, error=rpc.error_from_rpc(error), tls=tls)
        on_answer(said)
        return said

    with ThreadPoolExecutor(max(1, min(len(addresses), _MOST_AT_ONCE))) as pool:
        return list(pool.map(one, addresses))


def status_of_all(addresses: Sequence[str], tls: Tls | None = None) -> list[Said[pb.StatusResponse]]:
    """How each server says that it is."""
    return ask_all(addresses, lambda stub: stub.Status(pb.StatusRequest(), timeout=STATUS_SECONDS), tls=tls)


def title(said: Said[pb.StatusResponse]) -> str:
    """What a person calls a server, by what it said of itself."""
    if said.answer is None:
        return f"the server at {said.address}"
    return f"shard {said.answer.replica_index} of {said.answer.replica_size} at {said.address}"
