"""Embedding servers and middleware inside the test's process: real gRPC on ports of the kernel's choice."""

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from satrap.config import EmbeddingConfig, load_embedding_config
from satrap.embedding_server import EmbeddingServerSettings
from satrap.embedding_server import run as run_embedding_server
from satrap.middleware import Middleware
from satrap.middleware.server import MiddlewareSettings
from satrap.middleware.server import run as run_middleware


class Running:
    """A server on a thread of its own."""

    def __init__(self, run: Callable[..., None], settings: Any) -> None:
        self.stopping = threading.Event()
        self.line = ""
        ready = threading.Event()

        def announce(line: str) -> None:
            self.line = line
            ready.set()

        def serve() -> None:
            try:
                run(settings, self.stopping, announce)
            finally:
                ready.set()

        self._thread = threading.Thread(target=serve)
        self._thread.start()
        assert ready.wait(30)
        assert self.line, "the server did not become ready"

    @property
    def address(self) -> str:
        return self.line.split(" on ")[1].split(": ")[0]

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """serve(run, settings) -> Running; all are stopped at the end, the last one first."""
    running: list[Running] = []

    def start(run: Callable[..., None], settings: Any) -> Running:
        running.append(Running(run, settings))
        return running[-1]

    yield start
    for server in reversed(running):
        server.stop()


@pytest.fixture
def shards(serve, table_directory: Path) -> Callable[..., list[str]]:
    """shards(checkpoint or None, how many, **settings) -> addresses; tables of their own unless settings name some."""

    def start(checkpoint: Path | None, size: int, **settings: Any) -> list[str]:
        settings = {"table_directory": Path(tempfile.mkdtemp(dir=table_directory)), **settings}
        return [
            serve(
                run_embedding_server,
                EmbeddingServerSettings(
                    port=0, replica_index=index, replica_size=size, checkpoint=checkpoint, **settings
                ),
            ).address
            for index in range(size)
        ]

    return start


@pytest.fixture
def middleware_server(serve) -> Callable[..., Running]:
    """middleware_server(config, shard addresses, **settings) -> Running."""

    def start(config: EmbeddingConfig, addresses: list[str], **settings: Any) -> Running:
        return serve(run_middleware, MiddlewareSettings(config, addresses, port=0, **settings))

    return start


@pytest.fixture
def open_middleware() -> Iterator[Callable[..., Middleware]]:
    """open_middleware(config, addresses, ...) -> Middleware; all are closed at the end."""
    opened: list[Middleware] = []

    def make(*args: Any, **kwargs: Any) -> Middleware:
        opened.append(Middleware(*args, **kwargs))
        return opened[-1]

    yield make
    for middleware in opened:
        middleware.close()


class GoldenCase:
    """A batch, a table, and what PERSIA's own worker answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = load_embedding_config(folder / "embedding_config.yml", pytest.fail)
        self.said = json.loads((folder / "expected.json").read_text())
        self.replica_size: int = self.said["replica_size"]
        self.batch = (folder / "batch.bin").read_bytes()
        with np.load(folder / "expected.npz") as arrays:
            self.expected = dict(arrays)

    def rows(self) -> Callable[[int, int], np.ndarray]:
        """(sign, dim) -> f32[dim], zeros where the table has none of that dim."""
        with np.load(self.folder / "table.npz") as table:
            dims, signs, values, offsets = (table[key] for key in ("dim", "sign", "values", "offsets"))
        found = {
            (int(sign), int(dim)): values[offsets[i] : offsets[i + 1]]
            for i, (sign, dim) in enumerate(zip(signs, dims, strict=True))
        }
        return lambda sign, dim: found.get((sign, dim), np.zeros(dim, np.float32))


GOLDEN = [
    "a_defaults_r1_b1",
    "a_sum_prefix8_r1_b7",
    "b_groups_prefix12_r2_b7",
    "b_shared_group_r1_b7",
    "c_hashstack_prefix8_r1_b7",
]


@pytest.fixture(params=GOLDEN)
def golden(request, persia_data) -> GoldenCase:
    """Every golden case."""
    return GoldenCase(persia_data / "golden" / request.param)


@pytest.fixture
def two_shards(persia_data) -> GoldenCase:
    """The case that was recorded with two shards, and has summed and raw features in groups."""
    return GoldenCase(persia_data / "golden" / "b_groups_prefix12_r2_b7")


@pytest.fixture(scope="session")
def assert_golden() -> Callable[[GoldenCase, list], None]:
    """Bit for bit what PERSIA's worker answered."""

    def check(case: GoldenCase, embeddings: list) -> None:
        features = case.said["features"]
        assert [embedding.name for embedding in embeddings] == [feature["feature"] for feature in features]
        for i, (embedding, feature) in enumerate(zip(embeddings, features, strict=True)):
            values = case.expected[f"f{i}_emb_f16"]
            assert embedding.values.dtype == np.float16
            assert embedding.values.shape == values.shape
            np.testing.assert_array_equal(embedding.values.view(np.uint16), values.view(np.uint16))
            if feature["kind"] == "raw":
                np.testing.assert_array_equal(embedding.index.ravel(), case.expected[f"f{i}_index"])
                np.testing.assert_array_equal(embedding.sample_id_num, case.expected[f"f{i}_sample_id_num"])

    return check
