"""A shard of this machine, with real servers: the same rows by either way, and no way lost for good."""

import os
import signal
import struct
import threading
import time

import numpy as np
import pytest

from satrap.errors import ShardUnavailableError
from satrap.middleware.local_shard import LocalShard
from satrap.middleware.shards import RpcShard

pytestmark = pytest.mark.slow

DIM = 8


class ByRpc:
    """Counts what is asked by gRPC."""

    def __init__(self, shard: RpcShard) -> None:
        self.shard, self.asked = shard, 0
        self.replica_index, self.address = shard.replica_index, shard.address

    def ask(self, groups):
        self.asked += 1
        return self.shard.ask(groups)

    def close(self) -> None:
        self.shard.close()


@pytest.fixture
def connect():
    opened: list[LocalShard] = []

    def make(address: str, size: int = 1, timeout: float = 10.0) -> tuple[LocalShard, ByRpc]:
        shard = RpcShard(0, size, address, timeout)
        by_rpc = ByRpc(shard)
        opened.append(LocalShard(shard, by_rpc, timeout))
        return opened[-1], by_rpc

    yield make
    for shard in opened:
        shard.close()


@pytest.fixture
def contents(persia_data):
    with np.load(persia_data / "ckpt_1x1_contents.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def server(satrap, persia_data):
    return satrap("embedding-server", "--port", "0", "--checkpoint", persia_data / "ckpt_1x1")


def rows(answer) -> list[tuple[int, np.ndarray]]:
    return [(dtype, np.frombuffer(values, np.float32)) for dtype, values in answer.result()]


def ask_until_local(shard: LocalShard, by_rpc: ByRpc, groups) -> None:
    """The instance id is found without anybody waiting for it: ask until a question stays off gRPC."""
    before = -1
    while by_rpc.asked != before:
        before = by_rpc.asked
        shard.ask(groups).result()


def test_rows_are_the_same_by_either_way(server, connect, contents):
    shard, by_rpc = connect(server.addresses[0])
    signs = np.concatenate([contents["sign"], np.array([1, 2], np.uint64)])
    groups = [(DIM, signs.tobytes()), (16, contents["sign"][:3].tobytes()), (DIM, b"")]
    first = rows(by_rpc.shard.ask(groups))
    ask_until_local(shard, by_rpc, groups)
    before = by_rpc.asked
    second = rows(shard.ask(groups))
    assert by_rpc.asked == before
    assert [dtype for dtype, _ in second] == [dtype for dtype, _ in first]
    for (_, left), (_, right) in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(second[0][1][-2 * DIM :], 0)
    np.testing.assert_array_equal(second[0][1][: len(contents["sign"]) * DIM], contents["values"])


def test_what_is_asked_locally_is_counted(server, connect, contents):
    from satrap import rpc
    from satrap.protos import embedding_pb2, embedding_pb2_grpc

    shard, by_rpc = connect(server.addresses[0])
    ask_until_local(shard, by_rpc, [(DIM, contents["sign"].tobytes())])
    with rpc.channel(server.addresses[0]) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        before = stub.Status(embedding_pb2.StatusRequest())
        shard.ask([(DIM, struct.pack("<QQ", 1, 2)), (16, contents["sign"][:4].tobytes())]).result()
        after = stub.Status(embedding_pb2.StatusRequest())
    assert after.lookups - before.lookups == 6
    assert after.missing - before.missing == 2
    assert after.dim_mismatch - before.dim_mismatch == 4


def test_many_threads_ask_at_once(server, connect, contents):
    shard, by_rpc = connect(server.addresses[0])
    ask_until_local(shard, by_rpc, [(DIM, contents["sign"].tobytes())])
    wrong: list[int] = []

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        table = contents["values"].reshape(-1, DIM)
        for _ in range(200):
            chosen = random.integers(0, len(table), 50)
            ((_, values),) = rows(shard.ask([(DIM, contents["sign"][chosen].tobytes())]))
            if not np.array_equal(values.reshape(-1, DIM), table[chosen], equal_nan=True):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_killed_server_is_named_and_found_again_under_its_new_instance(
    satrap, connect, contents, persia_data
):
    checkpoint = persia_data / "ckpt_1x1"
    server = satrap("embedding-server", "--port", "0", "--checkpoint", checkpoint)
    address = server.addresses[0]
    shard, by_rpc = connect(address)
    groups = [(DIM, contents["sign"].tobytes())]
    ask_until_local(shard, by_rpc, groups)
    server.kill()
    with pytest.raises(ShardUnavailableError, match="embedding shard 0 of 1 at"):
        shard.ask(groups).result()
    satrap("embedding-server", "--port", address.rpartition(":")[2], "--checkpoint", checkpoint)
    back = time.monotonic()
    while True:
        try:
            answer = rows(shard.ask(groups))
            break
        except ShardUnavailableError:
            assert time.monotonic() - back < 20
    np.testing.assert_array_equal(answer[0][1], contents["values"])
    before = -1
    while by_rpc.asked != before:  # local again: a question stays off gRPC
        before = by_rpc.asked
        shard.ask(groups).result()


def test_a_server_that_hangs_is_unavailable_at_the_deadline(server, connect, contents):
    shard, by_rpc = connect(server.addresses[0], timeout=1.0)
    groups = [(DIM, contents["sign"].tobytes())]
    ask_until_local(shard, by_rpc, groups)
    server.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
    try:
        started = time.monotonic()
        with pytest.raises(ShardUnavailableError, match="no answer within 1 s"):
            shard.ask(groups).result()
        assert time.monotonic() - started >= 1.0
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert len(rows(shard.ask(groups))) == 1


def test_another_shard_than_meant_is_asked_by_grpc_which_says_so(server, connect, contents):
    from satrap.errors import ShardMismatchError

    shard, _ = connect(server.addresses[0], size=2)
    for _ in range(3):
        with pytest.raises(ShardMismatchError, match="shard 0 of 1"):
            shard.ask([(DIM, contents["sign"].tobytes())]).result()
