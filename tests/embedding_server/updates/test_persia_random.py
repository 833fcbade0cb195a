"""Random lives of a directory of PERSIA's packets: whatever happens in whatever order, the rows are those of the files
that count, the latest one of each sign.
"""

import random
import shutil
import threading

import numpy as np
import pytest
from persia_packets import PersiaTrainer

from satrap.config import UpdatesConfig
from satrap.embedding_server.updates.decisions import DecisionFiles
from satrap.embedding_server.updates.following import Feeds, Following
from satrap.embedding_server.updates.pipeline import Pipeline
from satrap.embedding_server.updates.quarantine import Quarantine
from satrap.formats.decisions import Hold, remove_hold, write_hold
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import open_storage

SIGNS = np.arange(10, dtype=np.uint64)
STEPS = 40
EVENTS = [*["publish"] * 6, "late", "late", "same_second", "hold", "release", "remove", "restart", "tear"]


class Life:
    """A trainer, an operator, and one shard's tables; every event is a method."""

    def __init__(self, seed: int, folder, state) -> None:
        self.chance = random.Random(seed)
        (folder / "packets").mkdir()
        self.trainer = PersiaTrainer(folder / "packets")
        self.storage = open_storage(self.trainer.root)
        self.quarantine = Quarantine(folder / "quarantine")
        self.files: dict[tuple[str, str], tuple[int, dict[int, float]]] = {}
        self.hold_at: int | None = None
        self.newest = self.floor = 100
        self.now_ns = 10**18
        self.write(100)
        state.start(None, lambda progress: None, threading.Event())
        self.target = state.target()
        self.restart()

    def write(self, second: int) -> None:
        number = len(self.files) + 1
        directory = f"s{self.chance.randint(0, 2)}/inc_{self.chance.randint(0, 9)}{number}"
        file = f"0_{self.chance.randint(0, 2)}.inc"
        rows = {self.chance.randint(0, 8): float(number) for _ in range(self.chance.randint(1, 4))}
        written = [(sign, np.full(4, value, np.float32)) for sign, value in rows.items()]
        self.trainer.write(directory, file, written, second)
        self.trainer.mark(directory)
        self.files[directory, file] = second, rows
        self.newest = max(self.newest, second)

    def publish(self) -> None:
        self.write(self.newest + self.chance.randint(0, 3))

    def late(self) -> None:
        self.write(self.chance.randint(self.floor, self.newest))

    def same_second(self) -> None:
        self.write(self.newest)

    def hold(self) -> None:
        self.hold_at = self.chance.randint(self.floor, self.newest)
        write_hold(self.storage, Hold("persia", self.hold_at, "anna", "why", len(self.files)))

    def release(self) -> None:
        self.hold_at = None
        remove_hold(self.storage, "persia")

    def remove(self) -> None:
        """A directory that is applied goes; nobody goes back behind that, nor publishes anything of its second."""
        there = [name for name, _ in self.files if (self.trainer.root / name).exists()]
        if self.hold_at is None and len(there) > 1:
            shutil.rmtree(self.trainer.root / self.chance.choice(there))
            self.floor = self.newest = self.newest + 1

    def restart(self) -> None:
        config = UpdatesConfig(undo_packets=1000, poll_seconds=0.001)
        feeds = Feeds(Following(self.storage, config), ShardRoute())
        self.pipeline = Pipeline(
            self.target,
            feeds.of(self.target),
            DecisionFiles(self.storage),
            self.quarantine,
            config,
            lambda packet, target: None,
            now_ns=lambda: self.now_ns,
        )
        self.pipeline.recover()

    def tear(self) -> None:
        """The lists of applied files are cut, while all that they name is there."""
        if all((self.trainer.root / name).exists() for name, _ in self.files):
            for path in self.target.folder.glob("applied*.json"):
                if self.chance.random() < 0.5:
                    path.write_bytes(b"{")
            self.restart()

    def expected(self) -> dict[int, float]:
        rows: dict[int, float] = {}
        for second, _, _, _, written in sorted(
            (second, directory.partition("/")[2], file, directory, written)
            for (directory, file), (second, written) in self.files.items()
        ):
            if self.hold_at is None or second <= self.hold_at:
                rows |= written
        return rows

    def found(self) -> dict[int, float]:
        rows, found = np.empty((len(SIGNS), 4), np.float32), np.empty(len(SIGNS), np.uint8)
        self.target.tables[4].lookup(SIGNS, rows, found)
        return {int(sign): float(rows[sign, 0]) for sign in SIGNS[found.view(np.bool_)]}


@pytest.mark.parametrize("seed", range(12))
def test_a_random_life(seed, shard_state, tmp_path):
    life = Life(seed, tmp_path, shard_state())
    happened = []
    for _ in range(STEPS):
        happened.append(life.chance.choice(EVENTS))
        getattr(life, happened[-1])()
        life.now_ns += 10**11
        life.pipeline.advance()
        assert life.found() == life.expected(), happened
