"""A trainer whose packets and checkpoints go to S3, as moto's server answers it, and whose bucket comes late."""

import numpy as np
import pytest

from satrap.errors import StorageError
from satrap.storage import open_storage
from satrap.trainer import TrainCtx

pytestmark = pytest.mark.slow

USER = 1 << 56


def test_packets_and_checkpoints_on_s3(s3_endpoint, config, embedding_config, published, checkpoint_rows):
    import boto3

    places = {"directory": "s3://trained/packets", "checkpoint_directory": "s3://trained/checkpoints"}
    with TrainCtx(config(num_shards=2), embedding_config, retry_seconds=0.2, **places) as ctx:
        with pytest.raises(StorageError):
            ctx.commit("user", range(10), np.ones((10, 4), np.float32))
        boto3.client("s3").create_bucket(Bucket="trained")
        ctx.commit("user", range(10), np.ones((10, 4), np.float32))
        first = ctx.dump(blocking=False)
        ctx.commit("user", [3], np.full((1, 4), 2, np.float32))
        ctx.delete("user", [4])
    assert first.wait().sequence == 1
    states = type(published)("s3://trained/packets", shards=2).states()
    assert checkpoint_rows(first.url, 2) == states[1]
    assert states[2][4, USER + 3] == [2.0] * 4
    assert (4, USER + 4) not in states[2]
    with TrainCtx(config(), embedding_config, **places) as again:
        again.load("s3://trained/checkpoints")
        again.commit("user", [5], np.full((1, 4), 3, np.float32))
        assert again.flush() == 3  # a full checkpoint: packet 2 came after the one that was loaded
    newest = max(entry.name for entry in _folders("s3://trained/checkpoints"))
    state = checkpoint_rows(f"s3://trained/checkpoints/{newest}")
    assert state == {**states[1], (4, USER + 5): [3.0] * 4}


def _folders(url):
    return open_storage(url).list()
