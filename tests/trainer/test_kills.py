"""kill -9 of a trainer at any of its writes, then a trainer that goes on: what servers can reach is always whole.

A child process trains by seed, and kills itself before its n-th operation on the disk. Then another one loads the
newest checkpoint and goes on. Whatever was published in the end is replayed as a server would do it, from nothing and
from every checkpoint, and each way to a sequence must lead to the same rows.
"""

import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RUNS = 20


@pytest.fixture(scope="module")
def in_a_process() -> Iterator[Callable[..., int]]:
    """in_a_process(train_on's arguments) -> the exit status of a process that trains; negative: what killed it."""
    command = [sys.executable, str(Path(__file__).with_name("trainer_process.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def train(*arguments: object) -> int:
            pickle.dump(arguments, process.stdin)
            process.stdin.flush()
            return int(process.stdout.readline())

        yield train
        process.stdin.close()


@pytest.mark.parametrize("buffer_size", [4, 1000])
def test_kill_9_and_go_on(
    in_a_process, tmp_path, config, embedding_config, published, checkpoint_rows, buffer_size
):
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
