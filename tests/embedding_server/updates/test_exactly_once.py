"""Whatever kills a server while it applies packets: afterwards every packet is applied once, in order.

Real processes and real kills: pipelines without gRPC, forked from a warm process, killed at each named step and at
random; the oracle is `packet_history`, record by record. After each kill comes the next process over the same tables
(warm), or over none (cold: the machine was started again, or another checkpoint is named).
"""

import pickle
import random
import shutil
from pathlib import Path

import packet_history
import pytest

from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.storage import open_storage

pytestmark = pytest.mark.slow

SEED = 20261121
LAST = 40
NAMED_STEPS = (
    "listed",
    "fetched",
    "guarded",
    "adopted",
    "undo_written",
    "part_written",
    "rows_written",
    "watermark_written",
    "noted",
    "finished",
)
CUTS = 300


@pytest.fixture(scope="module")
def packets(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("packets")
    packet_history.publish(directory, SEED, range(1, LAST + 1))
    return directory


@pytest.fixture(scope="module")
def expected() -> packet_history.Contents:
    return packet_history.oracle(SEED, LAST)


def check(result: Path, expected: packet_history.Contents) -> dict:
    """What the last process found is what must be there."""
    found = pickle.loads(result.read_bytes())
    assert packet_history.difference(found["contents"], expected) == ""
    assert found["applied"] == (LAST, LAST * 1000 + 999)
    assert found["alarms"] == []
    return found


def test_a_process_that_nothing_kills(pipelines, packets, expected, table_directory, tmp_path):
    result = tmp_path / "result"
    assert pipelines.live(tables=table_directory, packets=packets, last=LAST, result=result) == 0
    found = check(result, expected)
    assert found["packets"] == LAST
    assert set(found["steps"]) == set(NAMED_STEPS)  # so that every one of them is killed at, below
    # and once more: nothing is left to do
    assert pipelines.live(tables=table_directory, packets=packets, last=LAST, result=result) == 0
    again = check(result, expected)
    assert (again["packets"], again["started"], again["steps"]) == (0, "warm", ["listed"])


@pytest.mark.parametrize("step", NAMED_STEPS)
def test_killed_at(step, pipelines, packets, expected, table_directory, tmp_path):
    """At the step's first time, its second, and its 21st, one process after the other over the same tables."""
    result = tmp_path / "result"
    where = {"tables": table_directory, "packets": packets, "last": LAST, "result": result}
    for time in (1, 2, 21):
        ended = pipelines.live(**where, named=[step, time])
        assert ended == -9 or (time > 1 and ended == 0 and step in ("adopted", "listed"))
    assert pipelines.live(**where) == 0
    assert check(result, expected)["started"] == "warm"


def test_random_cuts(pipelines, packets, expected, table_directory, tmp_path):
    """A third at a step, a third at a moment, a third among a packet's rows. Now and then all tables are lost, or an
    operator rolls back.
    """
    chance = random.Random(SEED)
    storage = open_storage(packets)
    cuts = runs = 0
    while cuts < CUTS:
        runs += 1
        tables, result = table_directory / str(runs), tmp_path / f"result-{runs}"
        config = {"undo_packets": chance.choice([0, 1, 16])}
        where = {"tables": tables, "packets": packets, "result": result, "config": config}
        while True:
            held = chance.random() < 0.15
            if held:
                keep = chance.randrange(1, LAST)
                write_hold(storage, Hold(packet_history.STREAM, keep, "anna", "why", 1))
            cut = chance.choice(
                [
                    {"at_step": chance.randrange(1, 90)},
                    {"after_us": chance.randrange(1, 60_000)},
                    {"soon_after": ["undo_written", chance.randrange(1, 12), chance.randrange(1, 400)]},
                ]
            )
            ended = pipelines.live(**where, last=None if held else LAST, **cut)
            cuts += ended != 0
            if held:
                remove_hold(storage, packet_history.STREAM)
            elif ended == 0:
                break
            if chance.random() < 0.05:
                shutil.rmtree(tables, ignore_errors=True)
        check(result, expected)
        shutil.rmtree(tables)


@pytest.mark.parametrize("switch", ["beside", "in_place"])
def test_a_checkpoint_ends_a_gap(switch, pipelines, expected, table_directory, tmp_path):
    """Packets 16 to 22 are lost. A checkpoint of 22 appears, and every process on the way to it is killed somewhere."""
    chance = random.Random(SEED)
    packets, ready = tmp_path / "packets", tmp_path / "checkpoint"
    packets.mkdir()
    packet_history.publish(packets, SEED, range(1, 16))
    packet_history.publish(packets, SEED, range(23, LAST + 1))
    packet_history.write_checkpoint(ready, SEED, 22)
    wanted = packet_history.since_checkpoint(expected, 22)
    config = {"poll_seconds": 0.02, "checkpoint_switch": switch}
    for run in range(6):
        tables, folder, result = (
            table_directory / str(run),
            tmp_path / f"folder-{run}",
            tmp_path / f"result-{run}",
        )
        folder.mkdir()
        where = {
            "tables": tables,
            "packets": packets,
            "checkpoints": folder,
            "config": config,
            "result": result,
        }
        assert pipelines.live(**where, last=15, after_us=chance.choice([20_000, 2_000_000])) in (0, -14)
        shutil.copytree(ready, folder / "22")
        for _ in range(12):
            if pipelines.live(**where, last=LAST, after_us=chance.randrange(5_000, 90_000)) == 0:
                break
        else:
            assert pipelines.live(**where, last=LAST) == 0
        check(result, wanted)
