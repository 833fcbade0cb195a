"""What an enemy, or a bad day, does to tables that follow packets: nothing is lost, doubled, or believed by half."""

import shutil

import numpy as np
import pytest
from persia_packets import PersiaTrainer, rows_of

from satrap.config import UpdatesConfig
from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.protos import embedding_pb2 as pb
from satrap.storage import open_storage

SIGNS = list(range(100, 120))


class TestPersiaDirectoriesThatGo:
    """A trainer, or a cron job, removes old directories, whose rows stay."""

    @pytest.fixture
    def trainer(self, tmp_path) -> PersiaTrainer:
        (tmp_path / "packets").mkdir()
        return PersiaTrainer(tmp_path / "packets")

    def publish(self, trainer: PersiaTrainer, second: int, sign: int) -> None:
        directory = f"s0/inc_{second}"
        trainer.write(directory, "0_0.inc", rows_of([sign], float(second)), second)
        trainer.mark(directory)

    def now(self, server) -> pb.UpdateStatus:
        server.stub.FollowNow(pb.FollowNowRequest(), timeout=30)
        return server.status().updates

    def values(self, server) -> dict[int, float]:
        rows = np.frombuffer(server.lookup((4, SIGNS)).groups[0].rows, np.float32).reshape(-1, 4)
        return {sign: float(row[0]) for sign, row in zip(SIGNS, rows, strict=True) if row.any()}

    def test_rows_of_the_last_packet_stay_when_its_directory_goes(self, serve, trainer):
        server = serve(packets=str(trainer.root), updates=UpdatesConfig(poll_seconds=0.05))
        self.publish(trainer, 1000, 100)
        assert self.now(server).applied_packets == 1 and self.values(server) == {100: 1000}
        trainer.write("s0/inc_2000", "0_0.inc", rows_of([101], 2000.0), 2000)  # begun
        shutil.rmtree(trainer.root / "s0/inc_1000")
        self.now(server)
        trainer.mark("s0/inc_2000")
        assert self.now(server).applied_packets == 2
        assert self.values(server) == {100: 1000, 101: 2000}

    def test_also_after_a_restart(self, serve, trainer, table_directory):
        settings = {
            "packets": str(trainer.root),
            "updates": UpdatesConfig(poll_seconds=0.05),
            "table_directory": table_directory,
        }
        server = serve(**settings)
        self.publish(trainer, 1000, 100)
        self.now(server)
        trainer.write("s0/inc_2000", "0_0.inc", rows_of([101], 2000.0), 2000)
        shutil.rmtree(trainer.root / "s0/inc_1000")
        self.now(server)
        server.close()
        server = serve(**settings)
        assert self.now(server) and self.values(server) == {100: 1000}

    def test_also_when_what_came_after_it_is_taken_back(self, serve, trainer):
        server = serve(packets=str(trainer.root), updates=UpdatesConfig(poll_seconds=0.05))
        self.publish(trainer, 1000, 100)
        self.now(server)
        self.publish(trainer, 2000, 101)
        self.now(server)
        shutil.rmtree(trainer.root / "s0/inc_1000")
        self.now(server)
        storage = open_storage(trainer.root)
        write_hold(storage, Hold("persia", 1500, "me", "bad", 1))
        assert self.now(server).applied_sequence == 1000
        assert self.values(server) == {100: 1000}
        remove_hold(storage, "persia")
        self.now(server)
        assert self.values(server) == {100: 1000, 101: 2000}
