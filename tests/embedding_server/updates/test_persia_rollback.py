"""Going back, with files that have times instead of sequences: what was applied after a time, in any order, is taken
back, exactly, and what is older comes again.
"""

import pickle
from pathlib import Path

import numpy as np
import packet_history
import pytest
from persia_packets import PersiaTrainer, rows_of

from satrap.config import UpdatesConfig
from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.protos import embedding_pb2 as pb
from satrap.storage import open_storage

SIGNS = list(range(100, 120))


@pytest.fixture
def trainer(tmp_path) -> PersiaTrainer:
    (tmp_path / "packets").mkdir()
    return PersiaTrainer(tmp_path / "packets")


@pytest.fixture
def server(serve, trainer):
    return serve(packets=str(trainer.root), updates=UpdatesConfig(poll_seconds=0.05))


def publish(
    trainer: PersiaTrainer, second: int, signs: list[int], name: str = "0_0.inc", dim: int = 4
) -> None:
    directory = f"s0/inc_{second}"
    trainer.write(directory, name, rows_of(signs, float(second), dim), second)
    trainer.mark(directory)


def hold(trainer: PersiaTrainer, keep_through: int) -> None:
    write_hold(open_storage(trainer.root), Hold("persia", keep_through, "me", "bad labels", 1))


def now(server) -> pb.UpdateStatus:
    server.stub.FollowNow(pb.FollowNowRequest(), timeout=30)
    return server.status().updates


def values(server, dim: int = 4) -> dict[int, float]:
    rows = np.frombuffer(server.lookup((dim, SIGNS)).groups[0].rows, np.float32).reshape(-1, dim)
    return {sign: float(row[0]) for sign, row in zip(SIGNS, rows, strict=True) if row.any()}


def test_back_and_on_again(server, trainer):
    for second in range(1000, 1008):
        publish(trainer, second, SIGNS[: second - 999])
        now(server)
    newest = values(server)
    hold(trainer, 1004)
    status = now(server)
    assert status.applied_sequence == 1004 and status.hold.keep_through == 1004
    assert values(server) == dict.fromkeys(SIGNS[:5], 1004.0)
    publish(trainer, 1009, SIGNS)
    assert now(server).packets_behind == 4 and values(server) == dict.fromkeys(SIGNS[:5], 1004.0)
    remove_hold(open_storage(trainer.root), "persia")
    status = now(server)
    assert (status.applied_sequence, status.packets_behind) == (1009, 0) and not status.alarms
    assert values(server) == dict.fromkeys(SIGNS, 1009.0) and newest != values(server)


def test_a_late_file_is_taken_back_and_comes_again(server, trainer):
    publish(trainer, 1000, SIGNS)
    now(server)
    publish(trainer, 1006, SIGNS[:10])
    now(server)
    publish(trainer, 1003, SIGNS[5:15])  # late
    now(server)
    publish(trainer, 1007, SIGNS[12:])
    now(server)
    hold(trainer, 1004)
    assert now(server).applied_sequence == 1003
    expected = {sign: 1003.0 if sign in SIGNS[5:15] else 1000.0 for sign in SIGNS}
    assert values(server) == expected


def test_a_row_that_changed_its_dim_has_its_old_one_again(server, trainer):
    publish(trainer, 1000, SIGNS)
    now(server)
    publish(trainer, 1001, SIGNS[:5], dim=8)
    now(server)
    assert values(server, 8) == dict.fromkeys(SIGNS[:5], 1001.0) and len(values(server)) == len(SIGNS) - 5
    hold(trainer, 1000)
    now(server)
    assert values(server, 8) == {} and values(server) == dict.fromkeys(SIGNS, 1000.0)


def test_dropping_a_file_beyond_the_hold_moves_nothing(server, trainer):
    publish(trainer, 1000, SIGNS)
    now(server)
    trainer.write("s0/inc_1001", "0_0.inc", [(7, np.full(4, np.nan, np.float32))], 1001)
    trainer.mark("s0/inc_1001")
    assert [alarm.code for alarm in now(server).alarms] == ["quarantined"]
    hold(trainer, 1000)
    request = pb.QuarantineRequest(action=pb.QuarantineRequest.ACTION_DROP, name="s0/inc_1001/0_0.inc")
    server.stub.Quarantine(request, timeout=20)
    status = now(server)
    assert status.applied_sequence == 1000 and [alarm.code for alarm in status.alarms] == ["held"]
    remove_hold(open_storage(trainer.root), "persia")
    publish(trainer, 1002, SIGNS[:3])
    assert now(server).applied_sequence == 1002 and values(server)[SIGNS[0]] == 1002.0


def test_further_back_than_the_undo_log_without_a_checkpoint(server, trainer):
    for second in range(1000, 1020):
        publish(trainer, second, SIGNS)
    now(server)
    hold(trainer, 1001)
    status = now(server)
    assert [alarm.code for alarm in status.alarms] == ["held"] and "cannot go back" in status.alarms[
        0
    ].message
    assert values(server) == dict.fromkeys(SIGNS, 1019.0)


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("step", ["undo_stepped_back", "undo_restored", "undo_removed"])
    def test_in_the_middle(self, step, times, pipelines, trainer, table_directory, tmp_path):
        """A late file and its second's others are among what is taken back."""
        where = {"tables": table_directory, "packets": trainer.root, "result": tmp_path / "result"}

        def contents(last: int) -> packet_history.Contents:
            assert pipelines.live(**where, last=last) == 0
            return pickle.loads(Path(where["result"]).read_bytes())["contents"]

        for second in (1000, 1001, 1002):
            publish(trainer, second, SIGNS[second - 1000 :], "0_5.inc")
        kept = contents(1002)
        publish(trainer, 1006, SIGNS[:8], "0_5.inc")
        publish(trainer, 1008, SIGNS[4:], "0_5.inc", dim=8)
        contents(1008)
        publish(trainer, 1006, SIGNS[:4], "0_1.inc")  # late, and before 0_5.inc, which comes again
        newest = contents(1008)
        hold(trainer, 1002)
        assert pipelines.live(**where, last=1002, named=[step, times]) == -9
        assert packet_history.difference(contents(1002), kept) == ""
        remove_hold(open_storage(trainer.root), "persia")
        assert packet_history.difference(contents(1008), newest) == ""
