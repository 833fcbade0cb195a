"""Embedding servers inside the test's process: the real gRPC server, on a port of the kernel's choice."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from satrap import rpc
from satrap.embedding_server import EmbeddingServerSettings, run
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.formats.checkpoint import CheckpointWriter
from satrap.formats.manifest import Manifest
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.storage import open_storage


@dataclass
class RunningServer:
    """A server on a thread of its own, and a stub that speaks to it."""

    settings: EmbeddingServerSettings
    stop: threading.Event = field(default_factory=threading.Event)
    lines: list[str] = field(default_factory=list)
    progress: list[tuple[float, int]] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        if not self._settled.wait(30):
            raise AssertionError("the server became neither ready nor failed")
        if self.failure is None:
            self.channel = rpc.channel(self.address)
            self.stub = pb_grpc.EmbeddingServiceStub(self.channel)

    def _run(self) -> None:
        try:
            run(
                self.settings,
                self.stop,
                self._ready,
                lambda fraction, rows: self.progress.append((fraction, rows)),
            )
        except BaseException as error:
            self.failure = error
        self._settled.set()

    def _ready(self, line: str) -> None:
        self.lines.append(line)
        self._settled.set()

    @property
    def address(self) -> str:
        return self.lines[0].split()[4].removesuffix(":")

    def lookup(self, *groups: tuple[int, object], shard: tuple[int, int] | None = None) -> pb.LookupResponse:
        """Look up groups of (dim, signs as an array or packed bytes)."""
        index, size = shard or (self.settings.replica_index, self.settings.replica_size)
        request = pb.LookupRequest(replica_index=index, replica_size=size)
        for dim, signs in groups:
            packed = signs if isinstance(signs, bytes) else np.asarray(signs, np.uint64).tobytes()
            request.groups.add(dim=dim, signs=packed)
        return self.stub.Lookup(request, timeout=20)

    def status(self) -> pb.StatusResponse:
        return self.stub.Status(pb.StatusRequest(), timeout=20)

    def load(self, path: object) -> list[pb.LoadCheckpointProgress]:
        return list(self.stub.LoadCheckpoint(pb.LoadCheckpointRequest(path=str(path)), timeout=30))

    def close(self) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.failure is None:
            self.channel.close()


@pytest.fixture
def serve(table_directory: Path) -> Iterator[Callable[..., RunningServer]]:
    """serve(checkpoint=..., ...) -> RunningServer, each with tables of its own; all are stopped at the end."""
    servers: list[RunningServer] = []

    def start(**settings: object) -> RunningServer:
        own = table_directory / str(len(servers))
        chosen = {"port": 0, "table_directory": own, **settings}
        servers.append(RunningServer(EmbeddingServerSettings(**chosen)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def rows_of() -> Callable[[pb.RowGroup], np.ndarray]:
    """The rows of a group as [n, dim]."""

    def rows(group: pb.RowGroup) -> np.ndarray:
        dtype = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_FLOAT16: np.float16}[group.dtype]
        return np.frombuffer(group.rows, dtype).reshape(-1, group.dim)

    return rows


@pytest.fixture(scope="session")
def refused() -> Callable[[Callable[[], object]], tuple[grpc.StatusCode, str]]:
    """The status and the sentence with which a call ends."""

    def status(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return caught.value.code(), caught.value.details()

    return status


@pytest.fixture(scope="session")
def contents_of(persia_data: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """What PERSIA's own loader found in a checkpoint: the arrays of its `_contents.npz`."""

    def arrays(name: str) -> dict[str, np.ndarray]:
        with np.load(persia_data / f"{name}_contents.npz") as contents:
            return dict(contents)

    return arrays


@pytest.fixture
def write_ours() -> Callable[..., Manifest]:
    """write_ours(path or URL, {dim: (signs, rows)}, sequence, ...) -> the manifest of a checkpoint of ours."""

    def write(
        location: object,
        rows: Mapping[int, tuple[np.ndarray, np.ndarray]],
        sequence: int,
        *,
        stream: str = "ads",
        published_ns: int | None = None,
        page: int = 1000,
        **options: object,
    ) -> Manifest:
        storage = open_storage(str(location))
        with CheckpointWriter(storage, stream=stream, writer="w", sequence=sequence, **options) as writer:
            for dim, (signs, values) in rows.items():
                for start in range(0, len(signs), page):
                    writer.write(dim, signs[start : start + page], values[start : start + page])
            return writer.finish(published_ns=published_ns)

    return write


@pytest.fixture
def shard_state(table_directory: Path) -> Iterator[Callable[..., ShardState]]:
    """shard_state(ShardRoute(), row_dtype) -> ShardState over the same tables; the one before is closed."""
    with ExitStack() as stack:

        def make(
            owner: ShardRoute = ShardRoute(),  # noqa: B008  frozen
            row_dtype: str = "float32",
            **options: object,
        ) -> ShardState:
            stack.pop_all().close()
            directory = TableDirectory(TablePlace(table_directory), owner)
            stack.callback(directory.close)
            state = ShardState(directory, row_dtype, 2, persia_replay_margin_seconds=100, **options)
            stack.callback(state.close)
            return state

        yield make
