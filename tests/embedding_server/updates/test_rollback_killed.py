"""A rollback that is killed at each of its steps, and what comes of it: with the hold, with another one, and without.

Of PERSIA's packets, whose order of application is not that of their times; `test_undo` has the like for sequences, and
`test_exactly_once` rolls back in between.
"""

import os
import pickle
import time

import packet_history
import pytest
from persia_packets import PersiaTrainer
from test_persia_exactly_once import FIRST, LAST, expected, files, publish_late, rows_of

from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.storage import open_storage

pytestmark = pytest.mark.slow

STEPS = ["undo_stepped_back", "undo_restored", "undo_removed"]
KEEP = LAST - 4
"""Within the undo log's reach: two files a second and a few more."""


class Killed:
    """One shard's life, process by process."""

    def __init__(self, pipelines, trainer, tables, result) -> None:
        self.trainer, self.storage = trainer, open_storage(trainer.root)
        self._pipelines, self._result = pipelines, result
        self._where = {
            "tables": tables,
            "packets": trainer.root,
            "result": result,
            "config": {"undo_packets": 24},
        }

    def live(self, keep: int | None, **cut: object) -> int:
        """One process, under a hold or none."""
        if keep is None:
            remove_hold(self.storage, "persia")
        else:
            write_hold(self.storage, Hold("persia", keep, "anna", "why", time.time_ns()))
        return self._pipelines.live(**self._where, last=LAST if keep is None else None, **cut)

    def check(self, of: list[tuple[str, str, int]]) -> None:
        found = pickle.loads(self._result.read_bytes())
        assert packet_history.difference(found["contents"], expected(of)) == ""


def through(second: int, of: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    return [file for file in of if file[2] <= second]


@pytest.fixture
def killed(pipelines, tmp_path, table_directory):
    trainer = PersiaTrainer(tmp_path / "packets")
    for directory, file, second in files():
        path = trainer.write(directory, file, rows_of(directory, file, second), second)
        os.utime(path, (time.time() - 3600,) * 2)
        trainer.mark(directory)
    return Killed(pipelines, trainer, table_directory, tmp_path / "result")


def test_back_and_forth(killed):
    assert killed.live(None) == 0
    for keep in (KEEP + 2, KEEP):
        assert killed.live(keep) == 0
        killed.check(through(keep, files()))
    assert killed.live(None) == 0
    killed.check(files())
    assert killed.live(KEEP) == 0
    everything = publish_late(killed.trainer)  # a file of a time before the hold: it is applied
    assert killed.live(KEEP) == 0
    killed.check(through(KEEP, everything))
    assert killed.live(None) == 0
    killed.check(everything)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("time_of_step", [1, 5])
@pytest.mark.parametrize("after", [KEEP, KEEP - 1, LAST - 1, None])
def test_killed_at(step, time_of_step, after, killed):
    assert killed.live(None) == 0
    assert killed.live(KEEP, named=[step, time_of_step]) == -9
    assert killed.live(after) == 0
    killed.check(files() if after is None else through(after, files()))
    assert killed.live(None) == 0
    killed.check(files())


def test_after_a_late_file(killed):
    """It lies above the files that came before it, and those of its second are applied again above it."""
    assert killed.live(None) == 0
    everything = publish_late(killed.trainer)
    assert killed.live(None) == 0
    assert killed.live(KEEP, named=["undo_restored", 3]) == -9
    assert killed.live(KEEP) == 0
    killed.check(through(KEEP, everything))
    assert killed.live(None) == 0
    killed.check(everything)


def test_the_history_is_long_enough():
    assert len(files()) - len(through(KEEP - 1, files())) > 10 and FIRST < KEEP
