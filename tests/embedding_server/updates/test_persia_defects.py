"""PERSIA's twelve defects of incremental updates, each as a test of what happens here instead.

They are numbered as in `docs/persia.md`. Files are PERSIA's, the server is real; what the trainer's side does about
defects 9 and 10 is asked of our trainer.
"""

import os
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from persia_packets import PersiaTrainer, inc_bytes, rows_of

from satrap.config import EmbeddingConfig, GlobalConfig, UpdatesConfig
from satrap.protos import embedding_pb2 as pb
from satrap.trainer import TrainCtx

SIGNS = list(range(100, 140))


@pytest.fixture
def trainer(tmp_path) -> PersiaTrainer:
    (tmp_path / "packets").mkdir()
    return PersiaTrainer(tmp_path / "packets")


@pytest.fixture
def follow(serve, trainer):
    """Start a server that follows the trainer's packets, in a namespace of its own, or of one before."""

    def start(namespace: str = "default", updates: dict[str, object] | None = None, **settings: object):
        config = UpdatesConfig(**{"poll_seconds": 0.05, **(updates or {})})
        return serve(packets=str(trainer.root), updates=config, namespace=namespace, **settings)

    return start


def now(server) -> pb.StatusResponse:
    """The server's status when nothing more can be applied."""
    server.stub.FollowNow(pb.FollowNowRequest(), timeout=30)
    return server.status()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes by a later look."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def values(server, signs=SIGNS, dim: int = 4) -> list[float]:
    """The value of each sign's row (all floats of a row are the same), 0 where there is none."""
    rows = np.frombuffer(server.lookup((dim, signs)).groups[0].rows, np.float32).reshape(-1, dim)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0].tolist()


def age(root: Path, directory: str, seconds: float = 3600) -> None:
    """Let a directory's files look as if they had been written so long ago."""
    past = time.time() - seconds
    for path in (root / directory).iterdir():
        os.utime(path, (past, past))


def test_1_what_is_there_at_the_start_is_applied(trainer, follow):
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS, 1.0), 1000)
    trainer.mark("s0/inc_20260101000000")
    server = follow(purge=False)
    assert values(server) == [1.0] * len(SIGNS)
    server.close()
    # And what came while there was no server.
    trainer.write("s0/inc_20260101000010", "0_0.inc", rows_of(SIGNS[:5], 2.0), 1010)
    trainer.mark("s0/inc_20260101000010")
    again = follow(table_directory=server.settings.table_directory)
    assert again.status().started == "warm"
    now(again)
    assert values(again) == [2.0] * 5 + [1.0] * (len(SIGNS) - 5)
    assert again.status().updates.applied_packets == 1


def test_2_a_directory_that_is_seen_before_its_marker_is_applied_after_it(trainer, follow):
    server = follow()
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS[:3], 1.0), 1000, cut=50)
    for _ in range(4):
        status = now(server)
    assert status.updates.applied_packets == 0 and status.updates.quarantined_packets == 0
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS[:3], 1.0), 1000)
    trainer.write("s0/inc_20260101000000", "0_1.inc", rows_of(SIGNS[3:6], 2.0), 1000)
    assert now(server).updates.applied_packets == 0
    trainer.mark("s0/inc_20260101000000")
    now(server)
    assert values(server, SIGNS[:6]) == [1.0] * 3 + [2.0] * 3
    # Nor is it done with then: what appears in it later is applied, too.
    trainer.write("s0/inc_20260101000000", "0_2.inc", rows_of(SIGNS[6:8], 3.0), 1000)
    now(server)
    assert values(server, SIGNS[:8]) == [1.0] * 3 + [2.0] * 3 + [3.0] * 2


def test_3_a_packet_that_is_split_over_two_directories_is_applied_whole(trainer, follow, caplog):
    trainer.write("s0/inc_20260101000059", "0_0.inc", rows_of(SIGNS[:20], 1.0), 1059)
    trainer.write("s0/inc_20260101000100", "0_1.inc", rows_of(SIGNS[20:], 1.0), 1060)
    trainer.mark("s0/inc_20260101000100")  # the other one never gets a marker
    server = follow()
    assert values(server) == [0.0] * 20 + [1.0] * (len(SIGNS) - 20)
    age(trainer.root, "s0/inc_20260101000059", 61)
    server.close()
    again = follow()
    assert values(again) == [1.0] * len(SIGNS)
    assert again.status().updates.unmarked_packets == 1
    assert "s0/inc_20260101000059 has no marker" in caplog.text


def test_4_a_packet_whose_marker_never_comes_is_applied_with_a_warning(trainer, follow, caplog):
    server = follow(updates={"persia_unmarked_seconds": 0.3})
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS, 1.0), 1000)
    until(lambda: server.status().updates.unmarked_packets == 1)
    assert values(server) == [1.0] * len(SIGNS)
    assert "has no marker" in caplog.text
    # One that is not whole is waited for, and somebody is told.
    trainer.write("s0/inc_20260101000010", "0_0.inc", rows_of(SIGNS, 2.0), 1010, cut=100)
    trainer.write("s0/inc_20260101000010", "0_1.inc", rows_of([1], 2.0), 1010)
    until(lambda: [alarm.code for alarm in server.status().updates.alarms] == ["unmarked"])
    assert values(server, [1]) == [0.0]
    trainer.write("s0/inc_20260101000010", "0_0.inc", rows_of(SIGNS, 2.0), 1010)
    until(lambda: server.status().updates.unmarked_packets == 3)
    assert values(server, [1, *SIGNS]) == [2.0] * (len(SIGNS) + 1)
    until(lambda: not server.status().updates.alarms)


def test_5_two_packets_of_one_second_in_one_directory_are_both_applied(trainer, follow):
    server = follow()
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS[:10], 1.0), 1000)
    trainer.write("s0/inc_20260101000000", "0_1.inc", rows_of(SIGNS[10:20], 1.0), 1000)
    trainer.mark("s0/inc_20260101000000")
    now(server)
    # The second one is written over the first, names and second being the same.
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS[15:30], 2.0), 1000)
    now(server)
    # Of one second the order is the names': 0_1.inc follows 0_0.inc again.
    assert values(server, SIGNS[:30]) == [1.0] * 20 + [2.0] * 10
    trainer.write("s0/inc_20260101000000", "0_2.inc", rows_of(SIGNS[:30], 3.0), 1000)
    now(server)
    assert values(server, SIGNS[:30]) == [3.0] * 30
    # Another server, which sees only the end of it, agrees where the files are still there.
    other = follow("other")
    assert values(other, SIGNS[:30]) == values(server, SIGNS[:30])


def test_6_an_older_row_never_overwrites_a_newer_one(trainer, follow):
    random = np.random.default_rng(6)
    order = random.permutation(40)
    server = follow()
    for number in order:
        # Later packets have lesser names: the trainer's clock was set back, or its time zone changed.
        directory = f"s0/inc_202601010000{99 - number}"
        trainer.write(directory, "0_0.inc", rows_of([SIGNS[number % 5]], float(number)), 1000 + number)
        trainer.mark(directory)
        if number % 7 == 0:
            now(server)
    now(server)
    assert values(server, SIGNS[:5]) == [35.0, 36.0, 37.0, 38.0, 39.0]
    assert values(follow("cold"), SIGNS[:5]) == [35.0, 36.0, 37.0, 38.0, 39.0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: struct.pack("<I", 2**32 - 1) + data[4:],
        lambda data: data[:4] + struct.pack("<I", 2**32 - 1) + data[8:],
        lambda data: data[:4] + struct.pack("<I", 2**28) + data[8:],
    ],
    ids=[
        "cut by a byte",
        "cut in half",
        "empty",
        "longer",
        "entries",
        "floats",
        "floats that would fit into memory",
    ],
)
def test_7_a_corrupt_file_is_quarantined_and_ends_nothing(trainer, follow, damage):
    server = follow(updates={"quarantine": "skip"})
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS, 1.0), 1000)
    (trainer.root / "s0/inc_20260101000000/0_1.inc").write_bytes(damage(inc_bytes(rows_of(SIGNS, 9.0), 1001)))
    trainer.mark("s0/inc_20260101000000")
    until(lambda: now(server).updates.quarantined_packets == 1)
    assert values(server) == [1.0] * len(SIGNS)
    (record,) = server.stub.Quarantine(pb.QuarantineRequest(), timeout=20).records
    assert (record.name, record.code, record.decision) == (
        "s0/inc_20260101000000/0_1.inc",
        "bad_persia_packet",
        "skipped",
    )
    assert "at byte" in record.reason
    trainer.write("s0/inc_20260101000010", "0_0.inc", rows_of(SIGNS, 2.0), 1010)
    trainer.mark("s0/inc_20260101000010")
    now(server)
    assert values(server) == [2.0] * len(SIGNS)


def test_7_with_the_policy_hold_the_stream_waits_until_somebody_decides(trainer, follow):
    server = follow()
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS, 1.0), 1000)
    trainer.write("s0/inc_20260101000000", "0_1.inc", rows_of(SIGNS, 9.0), 1001, cut=99)
    trainer.mark("s0/inc_20260101000000")
    until(lambda: [alarm.code for alarm in now(server).updates.alarms] == ["quarantined"])
    later = int(time.time()) + 10
    trainer.write("s0/inc_20260101000010", "0_0.inc", rows_of(SIGNS[:5], 2.0), later)
    trainer.mark("s0/inc_20260101000010")
    now(server)
    assert values(server) == [1.0] * len(SIGNS)
    (record,) = server.stub.Quarantine(pb.QuarantineRequest(), timeout=20).records
    kept = sorted(path.name for path in Path(record.kept_at).iterdir())
    assert "0_1.inc" in kept and "reason.json" in kept
    request = pb.QuarantineRequest(action=pb.QuarantineRequest.ACTION_DROP, name=record.name)
    server.stub.Quarantine(request, timeout=20)
    until(lambda: "quarantined" not in [alarm.code for alarm in now(server).updates.alarms])
    assert values(server) == [2.0] * 5 + [1.0] * (len(SIGNS) - 5)


def test_8_a_trainers_clock_that_is_ahead_is_told_and_harms_nothing(trainer, follow):
    server = follow()
    ahead = int(time.time()) + 3600
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS, 1.0), ahead)
    trainer.mark("s0/inc_20260101000000")
    status = now(server)
    assert values(server) == [1.0] * len(SIGNS)
    assert 3500 < status.updates.clock_skew_seconds < 3700
    until(lambda: [alarm.code for alarm in server.status().updates.alarms] == ["clock_ahead"])
    assert status.updates.applied_sequence == ahead


def test_8_a_time_that_no_row_can_carry_is_refused(trainer, follow):
    server = follow(updates={"quarantine": "skip"})
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of(SIGNS, 1.0), 2**32)
    trainer.write("s0/inc_20260101000000", "0_1.inc", rows_of(SIGNS, 2.0), 2000)
    trainer.mark("s0/inc_20260101000000")
    until(lambda: now(server).updates.quarantined_packets == 1)
    (record,) = server.stub.Quarantine(pb.QuarantineRequest(), timeout=20).records
    assert record.code == "ordinal_range"
    assert values(server) == [2.0] * len(SIGNS)
    assert now(server).updates.applied_sequence == 2000


def test_8_a_file_from_the_far_future_does_not_freeze_its_rows(trainer, follow):
    """A damaged time, or a clock that is off by a day: as an ordinal it would win for as long."""
    server = follow()
    ahead = int(time.time()) + 86_450  # "86,4.. s ahead" for fifty seconds
    for number, (value, second) in enumerate([(1.0, 1000), (2.0, ahead), (3.0, 2000)]):
        trainer.write("s0/inc_20260101000000", f"0_{number}.inc", rows_of(SIGNS, value), second)
    trainer.mark("s0/inc_20260101000000")
    status = now(server).updates
    assert values(server) == [3.0] * len(SIGNS)
    assert (status.applied_sequence, status.packets_behind) == (2000, 1)
    until(lambda: [alarm.code for alarm in server.status().updates.alarms] == ["clock_ahead"])
    (alarm,) = server.status().updates.alarms
    assert "0_1.inc is not applied yet" in alarm.message and "86,4" in alarm.message
    (trainer.root / "s0/inc_20260101000000/0_1.inc").unlink()
    now(server)
    until(lambda: not server.status().updates.alarms)


@pytest.fixture
def training(trainer):
    """A training job of ours with one feature of dim 4, whose ids are signs from 2^56 on."""

    def start(rows_of_a_packet: int, seconds: float, waiting_packets: int = 4) -> TrainCtx:
        config = GlobalConfig.model_validate(
            {
                "embedding_parameter_server_config": {"incremental_buffer_size": rows_of_a_packet},
                "trainer": {"incremental_flush_seconds": seconds, "waiting_packets": waiting_packets},
            }
        )
        features = EmbeddingConfig.model_validate({"slots_config": {"item": {"dim": 4}}})
        return TrainCtx(config, features, directory=trainer.root)

    return start


def committed(values: Iterable[float]) -> np.ndarray:
    return np.repeat(np.array(list(values), np.float32)[:, None], 4, axis=1)


def test_9_rows_of_little_traffic_are_published_by_time(training, follow):
    server = follow()
    with training(rows_of_a_packet=1_000_000, seconds=0.2) as job:
        job.commit("item", [1, 2, 3], committed([1, 2, 3]))
        until(lambda: server.status().updates.applied_packets == 1)
        assert values(server, [(1 << 56) + sign for sign in (1, 2, 3)]) == [1.0, 2.0, 3.0]


def test_10_what_cannot_be_written_fast_enough_waits_and_is_not_dropped(training, follow, trainer):
    server = follow()
    steps = 200
    last: dict[int, float] = {}
    with training(rows_of_a_packet=10, seconds=60.0, waiting_packets=1) as job:
        for step in range(steps):
            signs = [(step * 7 + number) % 97 for number in range(11)]
            job.commit("item", signs, committed([step] * 11))
            last |= dict.fromkeys(signs, float(step))
    until(lambda: now(server).updates.packets_behind == 0)
    status = now(server).updates
    manifests = sorted(path for path in trainer.root.glob("*.json"))
    assert status.applied_sequence == status.applied_packets == len(manifests)
    assert len(manifests) > 10 and not status.alarms
    assert values(server, [(1 << 56) + sign for sign in last]) == list(last.values())


def test_11_fewer_signs_than_shards_threads_or_files(trainer, follow):
    trainer.write("s0/inc_20260101000000", "0_0.inc", rows_of([7], 1.0), 1000)
    trainer.write("s0/inc_20260101000000", "0_1.inc", [], 1000)
    trainer.mark("s0/inc_20260101000000", "s1/inc_20260101000000")
    servers = [follow("three", replica_index=index, replica_size=3) for index in range(3)]
    found = [values(server, [7]) if now(server).tables else [0.0] for server in servers]
    assert sorted(found) == [[0.0], [0.0], [1.0]]
    assert {server.status().updates.packets_behind for server in servers} == {0}


def test_12_any_number_of_shards_without_the_optimizers_floats(trainer, follow):
    """Retention is `satrap prune`, deletes and the link to dense versions are our own format's; tested there."""
    random = np.random.default_rng(12)
    expected = {}
    for shard in range(2):
        rows = [(int(sign), random.standard_normal(4).astype(np.float32)) for sign in range(shard, 60, 2)]
        path = trainer.write(f"s{shard}/inc_20260101000000", f"{shard}_0.inc", rows, 1000)
        path.write_bytes(inc_bytes(rows, 1000, optimizer_floats=8))
        trainer.mark(f"s{shard}/inc_20260101000000")
        expected |= {sign: row.tobytes() for sign, row in rows}
    for size in (1, 3):
        found = {}
        for index in range(size):
            server = follow(f"of{size}", replica_index=index, replica_size=size)
            answer = server.lookup((4, sorted(expected)), shard=(index, size)).groups[0]
            rows = np.frombuffer(answer.rows, np.float32).reshape(-1, 4)
            found |= {
                sign: row.tobytes() for sign, row in zip(sorted(expected), rows, strict=True) if row.any()
            }
            (table,) = server.status().tables
            assert table.rows == 60 - answer.missing
        assert found == expected
