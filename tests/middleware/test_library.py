"""The middleware in this process: what it refuses, what it says when shards are away, and that they come back."""

import logging
import threading
import time
from dataclasses import replace

import batch_twin
import numpy as np
import pytest

from satrap.batch import Batch, IdFeature, decode
from satrap.embedding_server import EmbeddingServerSettings, run
from satrap.errors import (
    BatchDecodeError,
    BatchError,
    InvalidInputError,
    ShardMismatchError,
    ShardUnavailableError,
    UnknownFeatureError,
    UnsupportedBatchError,
)

NOWHERE = "127.0.0.1:1"


def features_of(data: bytes) -> list[IdFeature]:
    decoded = decode(data)
    return [IdFeature(*decoded.id_feature(i)) for i in range(len(decoded.feature_names))]


def other_order(feature: IdFeature) -> tuple[str, np.ndarray, np.ndarray]:
    return feature.name, feature.values, feature.offsets


class TestRefused:
    """None of these needs a shard."""

    @pytest.fixture
    def middleware(self, two_shards, open_middleware):
        return open_middleware(two_shards.config, [NOWHERE, NOWHERE])

    def test_unknown_feature(self, middleware):
        data = batch_twin.batch(batch_twin.ids([batch_twin.feature("colour", [[1]])]))
        with pytest.raises(
            UnknownFeatureError, match="feature 'colour': the embedding config has no slot"
        ) as caught:
            middleware.lookup(data)
        assert caught.value.feature == "colour"

    def test_batch_for_training(self, middleware):
        data = batch_twin.batch(batch_twin.ids([batch_twin.feature("f0", [[1]])], requires_grad=True))
        with pytest.raises(UnsupportedBatchError, match="requires_grad=False"):
            middleware.lookup(data)

    def test_arrow_batch_for_training(self, middleware):
        with pytest.raises(UnsupportedBatchError, match="requires_grad=False"):
            middleware.lookup(Batch(requires_grad=True).to_arrow())

    def test_arrow_batch_of_an_unknown_feature(self, middleware):
        ids = IdFeature("colour", np.zeros(1, np.uint64), np.array([0, 1], np.uint32))
        with pytest.raises(UnknownFeatureError, match="feature 'colour'"):
            middleware.lookup(Batch([ids]).to_arrow())

    def test_no_arrow_stream(self, middleware):
        with pytest.raises(BatchDecodeError, match="an Arrow message says"):
            middleware.lookup(b"\xff" * 100)

    def test_ids_that_are_elsewhere(self, middleware, persia_data):
        data = (persia_data / "batch_remote_ref_b7.bin").read_bytes()
        with pytest.raises(UnsupportedBatchError, match=r"10\.1\.2\.3:8887"):
            middleware.lookup(data)

    def test_no_batch(self, middleware):
        with pytest.raises(BatchDecodeError, match="at byte 0"):
            middleware.lookup(b"")

    def test_one_bad_batch_of_several(self, middleware):
        with pytest.raises(BatchDecodeError):
            middleware.lookup_many([batch_twin.batch(), b"x"])

    def test_offsets_that_are_none(self, middleware):
        feature = IdFeature("f0", np.zeros(2, np.uint64), np.array([0, 5], np.uint32))
        with pytest.raises(BatchError, match="feature 'f0': offsets end at 5"):
            middleware.lookup_features([feature])

    def test_too_many_samples(self, middleware):
        feature = IdFeature("f0", np.zeros(0, np.uint64), np.zeros(65_537, np.uint32))
        with pytest.raises(BatchError, match="feature 'f0': 65536 samples; a batch has 65535 at most"):
            middleware.lookup_features([feature])

    def test_null_ids_are_no_features(self, middleware, persia_data):
        assert middleware.lookup((persia_data / "batch_null_ids_b7.bin").read_bytes()) == []

    def test_no_ids_at_all_ask_nobody(self, middleware):
        data = batch_twin.batch(batch_twin.ids([batch_twin.feature("f0", [[], []])]))
        (embedding,) = middleware.lookup(data)
        assert embedding.values.shape == (2, 16)
        assert not embedding.values.any()

    def test_no_addresses(self, two_shards, open_middleware):
        with pytest.raises(InvalidInputError, match=r"infer_config\.servers"):
            open_middleware(two_shards.config, [])

    def test_closed(self, two_shards, middleware):
        middleware.close()
        with pytest.raises(InvalidInputError, match="closed"):
            middleware.lookup(two_shards.batch)


@pytest.mark.parametrize("local", [True, False], ids=["local", "rpc"])
class TestAnswers:
    @pytest.fixture
    def middleware(self, two_shards, shards, open_middleware, local):
        opened = open_middleware(two_shards.config, shards(two_shards.folder / "ckpt", 2), local=local)
        opened.wait_ready(10)
        return opened

    def test_order_is_the_batches(self, two_shards, middleware):
        features = features_of(two_shards.batch)
        expected = {embedding.name: embedding.values for embedding in middleware.lookup_features(features)}
        answer = middleware.lookup_features(features[::-1])
        assert [embedding.name for embedding in answer] == [feature.name for feature in features[::-1]]
        for embedding in answer:
            np.testing.assert_array_equal(embedding.values, expected[embedding.name])

    def test_arrays_are_answered_as_bytes_are(self, two_shards, middleware):
        features = features_of(two_shards.batch)
        from_bytes = middleware.lookup(batch_twin.encode([other_order(feature) for feature in features]))
        for mine, theirs in zip(middleware.lookup_features(features), from_bytes, strict=True):
            np.testing.assert_array_equal(mine.values, theirs.values)

    def test_many_batches_are_answered_as_each_alone(self, two_shards, middleware, assert_golden):
        other = batch_twin.batch(batch_twin.ids([batch_twin.feature("f1", [[1, 2], [3]])]))
        alone = middleware.lookup(other)
        first, second, third = middleware.lookup_many([two_shards.batch, other, decode(two_shards.batch)])
        assert_golden(two_shards, first)
        assert_golden(two_shards, third)
        np.testing.assert_array_equal(second[0].values, alone[0].values)
        assert middleware.lookup_many([]) == []

    def test_threads(self, two_shards, middleware, assert_golden):
        wrong = []

        def look_up() -> None:
            try:
                for _ in range(50):
                    assert_golden(two_shards, middleware.lookup(two_shards.batch))
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=look_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestShardsThatAreAway:
    def test_down_shard_is_named(self, two_shards, shards, open_middleware):
        addresses = shards(two_shards.folder / "ckpt", 2)
        middleware = open_middleware(two_shards.config, [addresses[0], NOWHERE])
        with pytest.raises(
            ShardUnavailableError, match=r"shard 1 of 2 at 127\.0\.0\.1:1: cannot be reached"
        ) as caught:
            middleware.lookup(two_shards.batch)
        assert (caught.value.replica_index, caught.value.replica_size) == (1, 2)
        with pytest.raises(ShardUnavailableError, match=r"shard 1 of 2 at 127\.0\.0\.1:1"):
            middleware.wait_ready(0.2)

    def test_down_shard_that_is_not_needed_costs_nothing(self, two_shards, shards, open_middleware):
        addresses = shards(two_shards.folder / "ckpt", 2)
        plans = [batch_twin.batch(batch_twin.ids([batch_twin.feature("f1", [[sign]])])) for sign in range(20)]
        middleware = open_middleware(two_shards.config, [addresses[0], NOWHERE])
        answered = 0
        for data in plans:
            try:
                middleware.lookup(data)
                answered += 1
            except ShardUnavailableError:
                continue
        assert 0 < answered < 20

    def test_wrong_order_of_addresses(self, two_shards, shards, open_middleware):
        addresses = shards(two_shards.folder / "ckpt", 2)
        middleware = open_middleware(two_shards.config, addresses[::-1])
        with pytest.raises(ShardMismatchError, match="shard 1 of 2, but the client asked for shard 0 of 2"):
            middleware.lookup(two_shards.batch)
        with pytest.raises(ShardMismatchError):
            middleware.wait_ready(5)

    def test_too_few_addresses(self, two_shards, shards, open_middleware):
        addresses = shards(two_shards.folder / "ckpt", 2)
        with pytest.raises(ShardMismatchError, match="shard 0 of 1"):
            open_middleware(two_shards.config, addresses[:1]).lookup(two_shards.batch)

    def test_shard_that_comes_back_answers_within_a_second(
        self, two_shards, serve, shards, open_middleware, assert_golden, table_directory
    ):
        checkpoint = two_shards.folder / "ckpt"
        first = shards(checkpoint, 2)[0]
        settings = EmbeddingServerSettings(
            port=0, replica_index=1, replica_size=2, checkpoint=checkpoint, table_directory=table_directory
        )
        second = serve(run, settings)
        address = second.address
        middleware = open_middleware(two_shards.config, [first, address], local=False)
        for _ in range(3):
            assert_golden(two_shards, middleware.lookup(two_shards.batch))
        second.stop()
        outage = time.monotonic() + 2.5  # long enough for the longest back-off
        while time.monotonic() < outage:
            with pytest.raises(ShardUnavailableError, match="shard 1 of 2"):
                middleware.lookup(two_shards.batch)
        port = int(address.rpartition(":")[2])
        serve(run, replace(settings, port=port))
        back = time.monotonic()
        while True:
            try:
                answer = middleware.lookup(two_shards.batch)
                break
            except ShardUnavailableError:
                assert time.monotonic() - back < 1.0
        assert_golden(two_shards, answer)

    def test_start_without_shards(self, two_shards, open_middleware):
        middleware = open_middleware(two_shards.config, [NOWHERE])
        middleware.start()
        middleware.start()
        (state,) = middleware.states()
        assert not state.ready
        assert "cannot be reached" in state.message

    def test_unix_socket(
        self, two_shards, serve, shards, open_middleware, assert_golden, tmp_path, table_directory
    ):
        addresses = []
        for index in range(2):
            socket = tmp_path / f"s{index}"
            settings = EmbeddingServerSettings(
                port=0,
                replica_index=index,
                replica_size=2,
                checkpoint=two_shards.folder / "ckpt",
                unix_address=f"unix:{socket}",
                table_directory=table_directory,
            )
            serve(run, settings)
            addresses.append(f"unix:{socket}")
        middleware = open_middleware(two_shards.config, addresses, local=False)
        assert_golden(two_shards, middleware.lookup(two_shards.batch))


def test_overflowing_prefixes_are_warned_of_once(tmp_path, caplog, open_middleware):
    from satrap.config import load_embedding_config

    path = tmp_path / "embedding_config.yml"
    slots = ", ".join(f"s{i}: {{dim: 4}}" for i in range(4))
    path.write_text(f"feature_index_prefix_bit: 2\nslots_config: {{{slots}}}")
    with caplog.at_level(logging.WARNING):
        middleware = open_middleware(load_embedding_config(path, pytest.fail), [NOWHERE])
        for _ in range(3):
            middleware.lookup(batch_twin.batch())
    assert len([record for record in caplog.records if "feature_index_prefix_bit" in record.message]) == 1
