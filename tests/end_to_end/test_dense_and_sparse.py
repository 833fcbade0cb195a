"""A dense version that needs the rows of a packet, with real servers: it never answers with older ones."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from satrap import rpc
from satrap.client import IDTypeFeatureWithSingleID, ManagementClient, PersiaBatch, SparseNeed
from satrap.config import index_prefixes, load_embedding_config
from satrap.formats.decisions import Hold, write_hold
from satrap.formats.packet import PacketContent, publish_packet
from satrap.protos import inference_pb2, inference_pb2_grpc
from satrap.serving.archive.package import package
from satrap.storage import open_storage

pytestmark = pytest.mark.slow

DIM = 4
IDS = np.arange(1, 401, dtype=np.uint64)
HOUR_NS = 3_600_000_000_000
FIRST, SECOND = 1.0, 3.0
"""What the two versions multiply by."""


@pytest.fixture
def embedding_config(tmp_path: Path) -> Path:
    path = tmp_path / "embedding_config.yml"
    path.write_text(f"feature_index_prefix_bit: 8\nslots_config:\n  user:\n    dim: {DIM}\n")
    return path


@pytest.fixture
def publish(embedding_config: Path, tmp_path: Path) -> Callable[[int], None]:
    """publish(sequence): the packet whose rows are all the sequence; its newest event is an hour old."""
    config = load_embedding_config(embedding_config, pytest.fail)
    signs = IDS + np.uint64(index_prefixes(config, pytest.fail)["user"])
    storage = open_storage(str(tmp_path / "packets"))

    def publish_one(sequence: int) -> None:
        publish_packet(
            storage,
            stream="s",
            writer="w",
            sequence=sequence,
            previous=sequence - 1,
            parts=[PacketContent(DIM, signs, np.full((len(IDS), DIM), sequence, np.float32))],
            num_shards=2,
            newest_event_ns=time.time_ns() - HOUR_NS,
        )

    return publish_one


@pytest.fixture
def store(tmp_path: Path, total: Path, total_times_three: Path) -> Path:
    """Version 1, which needs nothing, and version 2, which needs sequence 3."""
    store = tmp_path / "store"
    store.mkdir()
    config = tmp_path / "model.yaml"
    config.write_text("satrap:\n  sparse_sequence: 3\n")
    package(model_name="m", version="1", serialized_file=total, export_path=store)
    package(
        model_name="m",
        version="2",
        serialized_file=total_times_three,
        config_file=config,
        export_path=tmp_path,
    )
    (tmp_path / "m.mar").rename(store / "m2.mar")
    return store


class Client:
    """Predictions for all ids, and the metadata that came with the last one."""

    def __init__(self, address: str) -> None:
        self._channel = rpc.channel(address)
        self._stub = inference_pb2_grpc.InferenceAPIsServiceStub(self._channel)
        batch = PersiaBatch([IDTypeFeatureWithSingleID("user", IDS)], requires_grad=False).to_bytes()
        self._request = inference_pb2.PredictionsRequest(model_name="m", input={"batch": batch})
        self.metadata: dict[str, Any] = {}

    def predict(self) -> np.ndarray:
        """f64[ids]."""
        answer, call = self._stub.Predictions.with_call(self._request, timeout=30)
        self.metadata = dict(tuple(item) for item in call.trailing_metadata())
        return np.array([float(number) for number in answer.prediction.strip(b"[]").split(b",")])

    def close(self) -> None:
        self._channel.close()


@contextmanager
def watching(address: str) -> Iterator[list[np.ndarray]]:
    """All answers while the block runs, one request after the other."""
    answers: list[np.ndarray] = []
    stop = threading.Event()
    client = Client(address)

    def ask() -> None:
        while not stop.is_set():
            answers.append(client.predict())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()
        client.close()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)  # the servers need the processor


def test_a_dense_version_and_the_rows_that_it_needs(
    satrap: Any, store: Path, embedding_config: Path, publish: Callable[[int], None], tmp_path: Path
) -> None:
    packets = open_storage(str(tmp_path / "packets"))
    publish(1)
    running = satrap(
        *("up", "--embedding-config", embedding_config, "--packets", tmp_path / "packets"),
        *("--model-store", store, "--models", "m.mar", "--shards", "2"),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    inference, management = running.addresses[:2]
    client = Client(inference)
    with ManagementClient(management) as manager:
        wait_until(lambda: (client.predict() == FIRST * DIM * 1).all())
        assert HOUR_NS <= int(client.metadata["satrap-staleness-ms"]) * 1_000_000 < 2 * HOUR_NS
        publish(2)
        wait_until(lambda: (client.predict() == FIRST * DIM * 2).all())
        manager.register("m2.mar")
        (described,) = manager.describe("m", "2")
        assert described.is_waiting
        assert "shard 1" in described.document["sparseStatus"]
        assert "is at 2" in described.document["sparseStatus"]
        assert "becomes the default when" in manager.set_default("m", "2")
        assert manager.sparse_needs() == ()
        assert (client.predict() == FIRST * DIM * 2).all()
        with watching(inference) as answers:
            publish(3)
            wait_until(lambda: answers and (answers[-1] == SECOND * DIM * 3).all())
        assert manager.sparse_needs() == (SparseNeed("m", "2", 3),)
        assert manager.describe("m", "2")[0].document["sparseStatus"] == "answers"
        # Taken back all the same: it is not taken away.
        write_hold(packets, Hold("s", keep_through=2, who="test", why="test", time_ns=time.time_ns()))
        wait_until(lambda: (client.predict() == SECOND * DIM * 2).all())
        assert (
            manager.describe("m", "2")[0]
            .document["sparseStatus"]
            .startswith("answers, though shards were taken back below sequence 3: shard ")
        )
    client.close()
    before = {FIRST * DIM * 2, FIRST * DIM * 3}
    for answer in answers:
        values = set(answer.tolist())
        assert values <= before or values == {SECOND * DIM * 3}, "the new dense part met old rows"
