"""A warm process that forks trainers, each of which is killed before one of its operations on the disk.

It is started by exec, so that nothing of gRPC is in it, whose threads do not survive a fork; it reads one pickled tuple
of `train_on`'s arguments after the other, and answers each with a line: how the trainer ended.
"""

import os
import pickle
import random
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import pyarrow.ipc  # noqa: F401  here, so that the forked ones need not

from satrap.errors import ConflictError, MissingFileError
from satrap.trainer import TrainCtx

OPERATIONS = ("write", "fsync", "link", "rename", "replace", "unlink")
STEPS = 12


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


def main() -> None:
    """Fork one trainer after the other."""
    orders = pickle.Unpickler(sys.stdin.buffer)
    while True:
        try:
            arguments = orders.load()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train_on(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
