"""The whole server, as a user starts it, killed by SIGKILL while packets pour in, and started again: warm and cold."""

import random
import shutil
import threading
from pathlib import Path

import numpy as np
import packet_history
import pytest

from satrap import rpc
from satrap._core.table import TableReader
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc

pytestmark = pytest.mark.slow

SEED = 7
LAST = 60
KILLS = 10


def follow(command) -> pb.StatusResponse:
    """Let it look, and say how it is."""
    with rpc.channel(command.addresses[0]) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        stub.FollowNow(pb.FollowNowRequest(), timeout=20)
        return stub.Status(pb.StatusRequest(), timeout=20)


def served(status: pb.StatusResponse) -> packet_history.Contents:
    """Rows as a lookup finds them, without their ordinals."""
    reader = TableReader(status.table_path, status.instance_id, status.server_uid)
    signs = np.arange(packet_history.SIGNS, dtype=np.uint64)
    dims = sorted(table.dim for table in status.tables)
    found = {}
    answers, *_ = reader.lookup([(dim, signs.tobytes()) for dim in dims])
    for dim, (_, rows) in zip(dims, answers, strict=True):
        found[dim] = signs, np.frombuffer(rows, np.float32).reshape(-1, dim)
    reader.close()
    return found


def test_ten_kills(satrap, tmp_path, table_directory):
    chance = random.Random(SEED)
    packets = tmp_path / "packets"
    packets.mkdir()
    arguments = (
        "embedding-server",
        "--port",
        "0",
        "--packets",
        packets,
        "--table-directory",
        table_directory,
    )
    started, published = [], 0
    for kill in range(KILLS):
        command = satrap(*arguments)
        started.append(follow(command).started.partition(":")[0])
        more = chance.randrange(3, 8)
        publisher = threading.Thread(
            target=packet_history.publish,
            args=(packets, SEED, range(published + 1, min(published + more, LAST - 1) + 1)),
        )
        publisher.start()
        published = min(published + more, LAST - 1)
        with rpc.channel(command.addresses[0]) as channel:  # as soon as it has begun with one of them
            stub = pb_grpc.EmbeddingServiceStub(channel)
            goal = published - chance.randrange(0, 3)
            while stub.Status(pb.StatusRequest(), timeout=20).updates.applied_sequence < goal:
                pass
        command.kill()
        publisher.join()
        if kill in (3, 7):  # the machine was started again
            shutil.rmtree(table_directory)
            table_directory.mkdir()
    packet_history.publish(packets, SEED, range(published + 1, LAST + 1))
    status = follow(satrap(*arguments))
    assert status.updates.applied_sequence == LAST and not status.updates.alarms
    assert started.count("cold") == 3 and started.count("warm") == KILLS - 3
    expected = packet_history.oracle(SEED, LAST)
    for dim, (signs, rows) in served(status).items():
        held, _, want = expected[dim]
        whole = np.zeros((len(signs), dim), np.float32)
        whole[held.astype(np.int64)] = want
        assert rows.tobytes() == whole.tobytes()
    assert {table.dim: table.rows for table in status.tables} == {
        dim: len(held) for dim, (held, _, _) in expected.items()
    }


def test_up_follows(satrap, tmp_path: Path):
    """`satrap up --packets`: every shard takes its own."""
    packets, models = tmp_path / "packets", tmp_path / "models"
    packets.mkdir()
    models.mkdir()
    config = tmp_path / "embedding_config.yml"
    config.write_text("slots_config:\n  a: {dim: 4}\n  b: {dim: 8}\n")
    packet_history.publish(packets, SEED, range(1, 9), num_shards=2)
    command = satrap(
        *("up", "--shards", "2", "--packets", packets, "--model-store", models, "--embedding-config", config),
        *("--grpc-inference-port", "0", "--grpc-management-port", "0"),
    )
    expected = packet_history.oracle(SEED, 8)
    rows = sum(len(signs) for signs, _, _ in expected.values())
    assert f"2 shards, {rows:,} rows" in command.line
