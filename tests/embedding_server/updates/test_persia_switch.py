"""A newer checkpoint of PERSIA's while its packets are followed: afterwards its rows, and every packet since."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from persia_packets import PersiaTrainer, rows_of

from satrap.config import UpdatesConfig
from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.protos import embedding_pb2 as pb
from satrap.storage import open_storage
from satrap.trainer import write_persia_checkpoint

SIGNS = list(range(100, 110))


@pytest.fixture
def trainer(tmp_path) -> PersiaTrainer:
    (tmp_path / "packets").mkdir()
    return PersiaTrainer(tmp_path / "packets")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def follow(serve, trainer) -> Callable:
    def start(checkpoint: Path, **updates: object):
        config = UpdatesConfig(**{"poll_seconds": 0.05, "persia_replay_margin_seconds": 10, **updates})
        return serve(checkpoint=checkpoint, packets=str(trainer.root), updates=config)

    return start


def publish(trainer: PersiaTrainer, second: int, signs: list[int]) -> None:
    trainer.write(f"s0/inc_{second}", "0_0.inc", rows_of(signs, float(second)), second)
    trainer.mark(f"s0/inc_{second}")


def dump(folder: Path, second: int, value: float) -> Path:
    """All signs with one value."""
    rows = np.full((len(SIGNS), 4), value, np.float32)
    path = folder / str(second)
    write_persia_checkpoint(
        path, {4: (np.array(SIGNS, np.uint64), rows)}, num_shards=1, written_ns=second * 10**9
    )
    return path


def now(server) -> pb.UpdateStatus:
    server.stub.FollowNow(pb.FollowNowRequest(), timeout=30)
    return server.status().updates


def values(server) -> list[float]:
    now(server)
    rows = np.frombuffer(server.lookup((4, SIGNS)).groups[0].rows, np.float32).reshape(-1, 4)
    return rows[:, 0].tolist()


def until_values(server, expected: list[float]) -> None:
    deadline = time.monotonic() + 20
    while (found := values(server)) != expected:
        assert time.monotonic() < deadline, found


def test_one_that_is_named(follow, trainer, folder):
    server = follow(dump(folder, 1000, 1.0))
    publish(trainer, 1020, SIGNS[:5])
    publish(trainer, 1050, SIGNS[:2])
    assert values(server) == [1050.0] * 2 + [1020.0] * 3 + [1.0] * 5
    server.load(dump(folder, 1055, 2.0))
    # 1020 is in it for sure, 1050 perhaps not: it comes again.
    assert values(server) == [1050.0] * 2 + [2.0] * 8
    publish(trainer, 1060, SIGNS[9:])
    assert values(server) == [1050.0] * 2 + [2.0] * 7 + [1060.0]


@pytest.mark.parametrize("switch", ["beside", "in_place"])
def test_the_newest_of_a_folder(follow, trainer, folder, switch):
    dump(folder, 1000, 1.0)
    dump(folder, 900, 0.5)
    publish(trainer, 950, SIGNS)
    publish(trainer, 1020, SIGNS[:5])
    server = follow(folder, checkpoint_switch=switch)
    assert values(server) == [1020.0] * 5 + [1.0] * 5
    dump(folder, 1040, 2.0)
    until_values(server, [2.0] * 10)
    publish(trainer, 1035, SIGNS[:2])  # late, and within the margin
    until_values(server, [1035.0] * 2 + [2.0] * 8)


def test_a_hold_below_the_newest(follow, trainer, folder):
    dump(folder, 1000, 1.0)
    publish(trainer, 1020, SIGNS[:5])
    dump(folder, 1040, 2.0)
    write_hold(open_storage(trainer.root), Hold("persia", 1035, "me", "bad labels", 1))
    server = follow(folder)
    until_values(server, [1020.0] * 5 + [1.0] * 5)
    remove_hold(open_storage(trainer.root), "persia")
    until_values(server, [2.0] * 10)
