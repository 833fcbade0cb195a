"""kill -9 of a trainer at any of its writes, then a trainer that goes on: what servers can reach is always whole.

A child process trains by seed, and kills itself before its n-th operation on the disk. Then another one loads the
newest checkpoint and goes on. Whatever was published in the end is replayed as a server would do it, from nothing and
from every checkpoint, and each way to a sequence must lead to the same rows.
"""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from satrap.errors import ConflictError, MissingFileError
from satrap.trainer import TrainCtx

pytestmark = pytest.mark.slow

OPERATIONS = ("write", "fsync", "link", "rename", "replace", "unlink")
STEPS = 12
RUNS = 20


def kill_before(number: int) -> None:
    """Let this process die before its `number`-th operation on the disk."""
    count = 0

    def counted(operation):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def train_on(folder: Path, config, embedding_config, seed: int, die_at: int | None) -> None:
    """One trainer's life: load what is there, train, publish, dump, and leave what it holds as `last`."""
    if die_at is not None:
        kill_before(die_at)
    chance = random.Random(seed)
    places = {"directory": folder / "packets", "checkpoint_directory": folder / "checkpoints"}
    ctx = TrainCtx(config, embedding_config, **places)
    try:
        ctx.load(folder / "checkpoints", catch_up=chance.random() < 0.5)
    except MissingFileError:
        try:
            ctx.flush()
        except ConflictError:  # killed after its first packets and before its first checkpoint
            ctx = TrainCtx(config, embedding_config, start_over=True, **places)
    with ctx:
        for step in range(STEPS):
            with ctx.step():
                for feature in ("user", "item"):
                    ids = [chance.randrange(30) for _ in range(chance.randrange(6))]
                    ctx.commit(feature, ids, np.full((len(ids), 4), chance.random(), np.float32))
                    ctx.delete(feature, [chance.randrange(30)])
            if chance.random() < 0.5:
                ctx.flush()
            if chance.random() < 0.25 or step == 0:
                ctx.dump(blocking=chance.random() < 0.5)
        if die_at is None:
            ctx.dump(folder / "checkpoints" / "last")


def in_a_process(*arguments) -> int:
    """The exit status of a forked child that trains; negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train_on(*arguments)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("buffer_size", [4, 1000])
def test_kill_9_and_go_on(tmp_path, config, embedding_config, published, checkpoint_rows, buffer_size):
    chance = random.Random(20260 + buffer_size)
    killed = 0
    for run in range(RUNS):
        folder = tmp_path / str(run)
        folder.mkdir()
        global_config = config(buffer_size=buffer_size, seconds=0.02)
        for life in range(3):
            die_at = chance.randrange(1, 120) if life < 2 else None
            seed = chance.randrange(2**32)
            status = in_a_process(folder, global_config, embedding_config, seed, die_at)
            assert status in ((0, -signal.SIGKILL) if die_at else (0,))
            killed += status != 0
        seen = type(published)(folder / "packets", folder / "checkpoints")
        states = seen.states()  # compares every way to each sequence
        last = seen.full()[-1]
        assert checkpoint_rows(folder / "checkpoints" / "last") == states[max(states)]
        assert len({manifest.sequence for manifest in seen.manifests()}) == len(seen.manifests())
        reached = max(states)
        assert reached == max([m.sequence for m in seen.manifests()] + [last[0].sequence])
    assert killed > RUNS
