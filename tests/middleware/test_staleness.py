"""How old the newest event in looked up rows is: from the shards' answers to whoever asked."""

import pytest

from satrap import rpc
from satrap.middleware import MiddlewareClient, hear
from satrap.protos import middleware_pb2, middleware_pb2_grpc

HOUR_MS = 3_600_000


@pytest.fixture
def aged(fake_shards):
    """Two shards whose newest events are as old as a test says."""
    return fake_shards(2)


def is_about(staleness_ms: int | None, expected: int) -> bool:
    """Not less, and less than a minute more."""
    return staleness_ms is not None and expected <= staleness_ms < expected + 60_000


AGES = [
    (None, None, None),
    (None, HOUR_MS, HOUR_MS),
    (HOUR_MS, None, HOUR_MS),
    (2 * HOUR_MS, HOUR_MS, 2 * HOUR_MS),
]


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize(("first", "second", "greatest"), AGES)
def test_the_greatest_of_the_shards(aged, two_shards, open_middleware, coalesce, first, second, greatest):
    aged[0].age_ms, aged[1].age_ms = first, second
    middleware = open_middleware(
        two_shards.config, [shard.address for shard in aged], local=False, coalesce=coalesce
    )
    with hear() as marks:
        answers = middleware.lookup_many([two_shards.batch, two_shards.batch])
    for answer in answers:
        assert not answer.is_stale
        if greatest is None:
            assert answer.staleness_ms is None
        else:
            assert is_about(answer.staleness_ms, greatest)
    assert marks.staleness_ms == answers[0].staleness_ms


def test_a_clock_ahead_is_no_staleness(aged, two_shards, open_middleware):
    aged[0].age_ms = aged[1].age_ms = -HOUR_MS
    middleware = open_middleware(two_shards.config, [shard.address for shard in aged], local=False)
    assert middleware.lookup(two_shards.batch).staleness_ms == 0


def test_through_a_middleware_server(aged, two_shards, middleware_server):
    aged[1].age_ms = HOUR_MS
    running = middleware_server(two_shards.config, [shard.address for shard in aged])
    client = MiddlewareClient([running.address])
    try:
        with hear() as marks:
            alone = client.lookup(two_shards.batch)
            together = client.lookup_many([two_shards.batch, two_shards.batch])
        assert all(is_about(answer.staleness_ms, HOUR_MS) for answer in (alone, *together))
        assert is_about(marks.staleness_ms, HOUR_MS)
        aged[1].age_ms = None
        assert client.lookup(two_shards.batch).staleness_ms is None
    finally:
        client.close()
    aged[1].age_ms = HOUR_MS
    with rpc.channel(running.address) as channel:
        stub = middleware_pb2_grpc.MiddlewareServiceStub(channel)
        _, call = stub.Lookup.with_call(middleware_pb2.LookupRequest(batch=two_shards.batch))
        metadata = dict(tuple(item) for item in call.trailing_metadata())
    assert is_about(int(metadata["satrap-staleness-ms"]), HOUR_MS)
    assert "satrap-stale" not in metadata
