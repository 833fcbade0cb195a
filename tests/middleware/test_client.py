"""The middleware in another process: errors keep their types, dead servers are skipped."""

import time

import batch_twin
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from satrap import rpc
from satrap.batch import IdFeature, decode
from satrap.errors import (
    BatchDecodeError,
    InvalidInputError,
    MiddlewareUnavailableError,
    ShardMismatchError,
    ShardUnavailableError,
    UnknownFeatureError,
    UnsupportedBatchError,
)
from satrap.middleware import MiddlewareClient
from satrap.protos import middleware_pb2 as pb
from satrap.protos import middleware_pb2_grpc as pb_grpc

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def connect():
    clients: list[MiddlewareClient] = []

    def make(*addresses: str, **settings) -> MiddlewareClient:
        clients.append(MiddlewareClient(addresses, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


class TestErrorsKeepTheirTypes:
    @pytest.fixture
    def client(self, two_shards, middleware_server, connect):
        return connect(middleware_server(two_shards.config, [NOWHERE]).address)

    def test_no_batch(self, client):
        with pytest.raises(BatchDecodeError) as caught:
            client.lookup(b"")
        assert (caught.value.feature, caught.value.offset) == ("non_id_type_features", 0)

    def test_unknown_feature(self, client):
        data = batch_twin.batch(batch_twin.ids([batch_twin.feature("größe", [[1]])]))
        with pytest.raises(UnknownFeatureError) as caught:
            client.lookup(data)
        assert caught.value.feature == "größe"

    def test_batch_for_training(self, client, persia_data):
        with pytest.raises(UnsupportedBatchError, match="requires_grad"):
            client.lookup_many([(persia_data / "batch_requires_grad_b7.bin").read_bytes()] * 2)

    def test_shard_that_is_down(self, client, two_shards):
        with pytest.raises(ShardUnavailableError, match="cannot be reached") as caught:
            client.lookup(two_shards.batch)
        assert (caught.value.replica_index, caught.value.replica_size, caught.value.address) == (
            0,
            1,
            NOWHERE,
        )
        with pytest.raises(ShardUnavailableError, match=f"shard 0 of 1 at {NOWHERE}"):
            client.wait_ready(0.2)

    def test_null_ids(self, client, persia_data):
        assert client.lookup((persia_data / "batch_null_ids_b7.bin").read_bytes()) == []

    def test_other_clients_get_status_and_sentence(self, two_shards, middleware_server):
        address = middleware_server(two_shards.config, [NOWHERE]).address
        with rpc.channel(address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                pb_grpc.MiddlewareServiceStub(channel).Lookup(pb.LookupRequest(batch=b"\xff"))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "bad batch" in caught.value.details()
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_shards_in_the_wrong_order(two_shards, shards, middleware_server, connect):
    addresses = shards(two_shards.folder / "ckpt", 2)
    client = connect(middleware_server(two_shards.config, addresses[::-1]).address)
    with pytest.raises(ShardMismatchError) as caught:
        client.lookup(two_shards.batch)
    assert (caught.value.expected, caught.value.actual) == ((0, 2), (1, 2))


def test_ready_line_and_status(two_shards, shards, middleware_server):
    addresses = shards(two_shards.folder / "ckpt", 2)
    server = middleware_server(two_shards.config, addresses)
    assert server.line == f"satrap middleware ready on {server.address}: 2 shards"
    with rpc.channel(server.address) as channel:
        status = pb_grpc.MiddlewareServiceStub(channel).Status(pb.StatusRequest(), timeout=10)
    assert status.ready
    assert [shard.address for shard in status.shards] == addresses
    assert [shard.replica_index for shard in status.shards] == [0, 1]


class TestSeveralServers:
    def test_dead_one_is_skipped(self, two_shards, shards, middleware_server, connect, assert_golden):
        addresses = shards(two_shards.folder / "ckpt", 2)
        servers = [middleware_server(two_shards.config, addresses) for _ in range(2)]
        client = connect(NOWHERE, *(server.address for server in servers))
        client.wait_ready(10)
        for _ in range(4):
            assert_golden(two_shards, client.lookup(two_shards.batch))
        servers[0].stop()
        for _ in range(6):
            assert_golden(two_shards, client.lookup(two_shards.batch))
            for answer in client.lookup_many([two_shards.batch, two_shards.batch]):
                assert_golden(two_shards, answer)

    def test_all_dead(self, connect, two_shards):
        client = connect(NOWHERE, "127.0.0.1:2")
        with pytest.raises(MiddlewareUnavailableError, match=r"127\.0\.0\.1:1, 127\.0\.0\.1:2") as caught:
            client.lookup(two_shards.batch)
        assert caught.value.addresses == (NOWHERE, "127.0.0.1:2")
        started = time.monotonic()
        with pytest.raises(MiddlewareUnavailableError):
            client.wait_ready(0.3)
        assert 0.2 < time.monotonic() - started < 5

    def test_no_addresses(self):
        with pytest.raises(InvalidInputError, match="no middleware addresses"):
            MiddlewareClient([])

    def test_closed(self, connect, two_shards):
        client = connect(NOWHERE)
        client.close()
        with pytest.raises(InvalidInputError, match="closed"):
            client.lookup(two_shards.batch)


def test_arrays(two_shards, shards, middleware_server, connect):
    client = connect(middleware_server(two_shards.config, shards(two_shards.folder / "ckpt", 2)).address)
    decoded = decode(two_shards.batch)
    features = [IdFeature(*decoded.id_feature(i)) for i in range(len(decoded.feature_names))]
    expected = {embedding.name: embedding for embedding in client.lookup(decoded)}
    for embedding in client.lookup_features(features):
        if hasattr(embedding, "index"):
            theirs = expected[embedding.name]
            np.testing.assert_array_equal(embedding.values[embedding.index], theirs.values[theirs.index])
        else:
            np.testing.assert_array_equal(embedding.values, expected[embedding.name].values)
