"""Whatever kills a server while it applies PERSIA's packets: afterwards each file is applied, in the order of all.

As `test_exactly_once`, with files that share seconds, signs that change their dim, directories without a marker, and a
late file of a second that others are applied of already.
"""

import os
import pickle
import random
import shutil
import time
from pathlib import Path

import numpy as np
import packet_history
import pytest
from persia_packets import PersiaTrainer

pytestmark = pytest.mark.slow

SEED = 20261121
FIRST, LAST = 5_000, 5_019
CUTS = 150
SIGNS = 400
LATE = ("s0/inc_20260101000007", "0_0.inc", 5_007)
"""Appears after everything else, and sorts before most files of its second."""


def files() -> list[tuple[str, str, int]]:
    """directory, file, time: two a second in one directory, now and then one more in another."""
    found = []
    for second in range(FIRST, LAST + 1):
        directory = f"s{second % 2}/inc_202601010000{59 - (second - FIRST):02d}"
        found += [(directory, "0_0.inc", second), (directory, "0_1.inc", second)]
        if second % 5 == 2:
            found.append((f"s1/inc_202601010001{second % 60:02d}", "1_0.inc", second))
    return found


def rows_of(directory: str, file: str, second: int) -> list[tuple[int, np.ndarray]]:
    """Some of the signs, now with this dim, now with that; of a sign one record."""
    chance = np.random.default_rng([SEED, second, *directory.encode(), *file.encode()])
    signs = np.unique(chance.integers(0, SIGNS, 60))
    return [(int(sign), chance.normal(size=chance.choice([4, 4, 4, 8])).astype(np.float32)) for sign in signs]


def expected(of: list[tuple[str, str, int]]) -> packet_history.Contents:
    """What is there after all of them, record by record."""
    held: dict[int, tuple[int, np.ndarray]] = {}
    ordered = sorted(of, key=lambda item: (item[2], item[0].split("/")[1], item[1], item[0].split("/")[0]))
    for directory, file, second in ordered:
        held |= {sign: (second, row) for sign, row in rows_of(directory, file, second)}
    found = {}
    for dim in (4, 8):
        signs = sorted(sign for sign, (_, row) in held.items() if len(row) == dim)
        found[dim] = (
            np.array(signs, np.uint64),
            np.array([held[sign][0] for sign in signs], np.uint32),
            np.array([held[sign][1] for sign in signs], np.float32).reshape(-1, dim),
        )
    return found


@pytest.fixture
def trainer(tmp_path) -> PersiaTrainer:
    """What is published at first; every fourth directory has no marker."""
    trainer = PersiaTrainer(tmp_path / "packets")
    for directory, file, second in files():
        path = trainer.write(directory, file, rows_of(directory, file, second), second)
        os.utime(path, (time.time() - 3600,) * 2)
        if second % 4:
            trainer.mark(directory)
    return trainer


def publish_late(trainer: PersiaTrainer) -> list[tuple[str, str, int]]:
    directory, file, second = LATE
    trainer.write(directory, file, rows_of(*LATE), second)
    trainer.mark(directory)
    return [*files(), LATE]


def check(result: Path, contents: packet_history.Contents) -> dict:
    found = pickle.loads(result.read_bytes())
    assert packet_history.difference(found["contents"], contents) == ""
    assert found["applied"] == (LAST, LAST * 10**9)
    assert found["alarms"] == []
    return found


def test_a_process_that_nothing_kills(pipelines, trainer, table_directory, tmp_path):
    result = tmp_path / "result"
    where = {"tables": table_directory, "packets": trainer.root, "last": LAST, "result": result}
    assert pipelines.live(**where) == 0
    assert check(result, expected(files()))["packets"] == len(files())
    assert pipelines.live(**where) == 0
    again = check(result, expected(files()))
    assert (again["packets"], again["started"]) == (0, "warm")
    everything = publish_late(trainer)
    assert pipelines.live(**where) == 0
    after = check(result, expected(everything))["packets"]
    of_its_second = sum(second == LATE[2] for _, _, second in files())
    assert after == 1 + of_its_second
    shutil.rmtree(table_directory)
    assert pipelines.live(**where) == 0
    check(result, expected(everything))


@pytest.mark.parametrize(
    "step", ["fetched", "undo_written", "part_written", "rows_written", "watermark_written", "noted"]
)
def test_killed_at(step, pipelines, trainer, table_directory, tmp_path):
    result = tmp_path / "result"
    where = {"tables": table_directory, "packets": trainer.root, "last": LAST, "result": result}
    for times in (1, 2, 21):
        assert pipelines.live(**where, named=[step, times]) == -9
    everything = publish_late(trainer)
    for times in (1, 2):  # while the files of a second are applied again
        assert pipelines.live(**where, named=[step, times]) in (0, -9)
    assert pipelines.live(**where) == 0
    assert check(result, expected(everything))["started"] == "warm"


def test_random_cuts(pipelines, trainer, table_directory, tmp_path):
    chance = random.Random(SEED)
    everything = expected(publish_late(trainer))
    cuts = runs = 0
    while cuts < CUTS:
        runs += 1
        tables, result = table_directory / str(runs), tmp_path / f"result-{runs}"
        where = {"tables": tables, "packets": trainer.root, "last": LAST, "result": result}
        config = {"undo_packets": chance.choice([0, 1, 16])}
        while True:
            cut = (
                {"at_step": chance.randrange(1, 150)}
                if chance.random() < 0.5
                else {"after_us": chance.randrange(1, 80_000)}
            )
            if pipelines.live(**where, config=config, **cut) == 0:
                break
            cuts += 1
            if chance.random() < 0.05:
                shutil.rmtree(tables, ignore_errors=True)
        check(result, everything)
