"""`satrap prune` on real directories: what goes, what stays, and that everybody recovers from the rest."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from persia_packets import PersiaTrainer, rows_of
from typer.testing import CliRunner, Result

from satrap.cli.app import app
from satrap.cli.pruning import Asked, remove, survey
from satrap.errors import InvalidInputError, ManifestError
from satrap.formats.checkpoint import CheckpointWriter
from satrap.formats.decisions import Hold, write_hold
from satrap.formats.packet import PacketContent, publish_packet
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.rpc import channel
from satrap.storage import Storage, open_storage
from satrap.trainer import write_persia_checkpoint

SIGNS = np.arange(50, dtype=np.uint64)


def rows(value: float) -> np.ndarray:
    return np.full((len(SIGNS), 4), value, np.float32)


def publish(storage: Storage, *sequences: int, stream: str = "main", writer: str = "w") -> None:
    for sequence in sequences:
        publish_packet(
            storage,
            stream=stream,
            writer=writer,
            sequence=sequence,
            previous=sequence - 1,
            parts=[PacketContent(4, SIGNS, rows(sequence))],
            num_shards=2,
        )


def dump(storage: Storage, *sequences: int, stream: str = "main") -> None:
    for sequence in sequences:
        folder = storage.subfolder(f"{stream}-{sequence:04d}")
        with CheckpointWriter(folder, stream=stream, writer="w", sequence=sequence, num_shards=2) as writer:
            writer.write(4, SIGNS, rows(sequence))
            writer.finish()


@pytest.fixture
def packets(tmp_path) -> Storage:
    return open_storage(tmp_path / "packets")


@pytest.fixture
def checkpoints(tmp_path) -> Storage:
    return open_storage(tmp_path / "checkpoints")


def pruned(packets: Storage, checkpoints: Storage | None, **asked: object):
    """Remove what can be, and say what that was, by the names of files and folders."""
    found = survey(
        Asked(packets=packets.url, checkpoints=checkpoints.url if checkpoints else "", **asked)  # type: ignore[arg-type]
    )
    remove(found)
    return found


def names(found) -> list[str]:
    return [publication.name.rpartition("/")[2] for publication in found.plan.removed]


def sequences(storage: Storage) -> list[int]:
    return [
        int(entry.name[:20])
        for entry in storage.list()
        if entry.name.endswith(".json") and entry.name[0] == "0"
    ]


def run(*arguments: str | Path) -> Result:
    environment = {"COLUMNS": "300", "SATRAP_TABLE_DIRECTORY": "/nonexistent"}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def age(root: Path) -> None:
    """Two hours."""
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2, follow_symlinks=False)


class TestOurs:
    @pytest.fixture(params=["local", "memory"])
    def both(self, request, packets, checkpoints, tmp_path):
        if request.param == "memory":
            url = f"memory://prune{abs(hash(tmp_path))}"
            packets, checkpoints = open_storage(f"{url}/p"), open_storage(f"{url}/c")
        publish(packets, *range(1, 13))
        dump(checkpoints, 3, 6, 9)
        return packets, checkpoints

    def test_what_no_recovery_needs_goes(self, both):
        packets, checkpoints = both
        found = pruned(packets, checkpoints)
        assert [item.publication.name.rpartition("/")[2] for item in found.plan.checkpoints] == ["main-0003"]
        assert sequences(packets) == list(range(7, 13))
        assert not any(entry.name[:20] < f"{7:020d}" for entry in packets.list())
        assert [entry.name for entry in checkpoints.list() if entry.is_folder] == ["main-0006", "main-0009"]
        assert names(pruned(packets, checkpoints)) == []

    def test_without_yes_nothing_is_removed(self, packets, checkpoints):
        publish(packets, *range(1, 13))
        dump(checkpoints, 3, 6, 9)
        arguments = ("prune", "--packets", packets.url, "--checkpoints", checkpoints.url)
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert "main-0003" in result.output and "6, " in result.output and "pass --yes" in result.output
        assert "no embedding server is known" in result.output
        assert len(sequences(packets)) == 12
        facts = json.loads(run(*arguments, "--json", "--keep", "1").output)
        assert not facts["removed"] and len(facts["packets"]) == 9 and len(facts["checkpoints"]) == 2
        assert facts["kept"][0]["needed_after"] == 9 and facts["bytes"] > 0
        result = run(*arguments, "--yes")
        assert result.exit_code == 0 and "pass --yes" not in result.output
        assert sequences(packets) == list(range(7, 13))

    def test_without_checkpoints_everything_stays(self, packets, checkpoints):
        publish(packets, *range(1, 5))
        found = pruned(packets, None)
        assert names(found) == [] and "no usable checkpoint" in found.plan.kept[0].reason
        dump(checkpoints, 2, stream="other")
        assert names(pruned(packets, checkpoints)) == []

    def test_one_checkpoint_that_is_named_itself(self, packets, checkpoints):
        publish(packets, *range(1, 5))
        dump(checkpoints, 2)
        found = pruned(packets, checkpoints.subfolder("main-0002"))
        assert sequences(packets) == [3, 4] and not found.plan.checkpoints
        assert checkpoints.exists("main-0002")

    def test_the_newest_packet_stays_for_the_trainer_to_count_on(self, packets, checkpoints):
        publish(packets, 1, 2)
        dump(checkpoints, 2)
        pruned(packets, checkpoints)
        assert sequences(packets) == [2]

    def test_a_checkpoint_that_cannot_be_used_does_not_count(self, packets, checkpoints):
        publish(packets, *range(1, 13))
        dump(checkpoints, 3, 6, 9)
        for path in (checkpoints.local / "main-0009").glob("*.arrow"):  # type: ignore[operator]
            path.write_bytes(path.read_bytes()[:-1])
        found = pruned(packets, checkpoints)
        assert sequences(packets) == list(range(4, 13)) and not found.plan.checkpoints
        assert any("main-0009 is left alone" in remark for remark in found.remarks)

    def test_a_hold(self, packets, checkpoints):
        publish(packets, *range(1, 13))
        dump(checkpoints, 3, 6, 9)
        write_hold(packets, Hold("main", 5, "me", "bad data", 1))
        found = pruned(packets, checkpoints, keep=1)
        assert [item.publication.name.rpartition("/")[2] for item in found.plan.checkpoints] == ["main-0006"]
        assert sequences(packets) == list(range(4, 13)) and packets.exists("hold-main.json")

    def test_a_hold_that_cannot_be_read_ends_it(self, packets, checkpoints):
        publish(packets, 1, 2, 3)
        dump(checkpoints, 2)
        packets.publish("hold-main.json", b"{")
        with pytest.raises(ManifestError, match="hold-main"):
            survey(Asked(packets=packets.url, checkpoints=checkpoints.url))
        assert sequences(packets) == [1, 2, 3]

    def test_what_was_begun_goes_after_an_hour(self, packets, checkpoints):
        publish(packets, 1, 2, 3, 4)
        publish(packets, 5, writer="dead")
        packets.remove(f"{5:020d}-dead.json")
        folder = packets.local
        assert folder is not None
        (folder / f".{6:020d}-dead.4-float32.0-of-2.arrow.0123456789abcdef").touch()
        (folder / "of somebody else").touch()
        dump(checkpoints, 2, 3)
        dump(checkpoints, 4)
        checkpoints.remove(f"main-0004/{4:020d}-w.json")
        young = pruned(packets, checkpoints)
        assert young.plan.remainders == () and sequences(packets) == [3, 4]
        age(folder)
        age(checkpoints.local)  # type: ignore[arg-type]
        old = pruned(packets, checkpoints)
        assert len(old.plan.remainders) == 3
        assert {entry.name for entry in packets.list(temporary=True)} == {
            "of somebody else",
            *(f"{n:020d}-w{rest}" for n in (3, 4) for rest in (
                ".json", ".4-float32.0-of-2.arrow", ".4-float32.1-of-2.arrow",
            )),
        }  # fmt: skip
        assert [entry.name for entry in checkpoints.list()] == ["main-0002", "main-0003"]

    def test_a_manifest_that_cannot_be_read_stays(self, packets, checkpoints):
        publish(packets, 1, 2, 3)
        packets.publish(f"{1:020d}-x.json", b"{")
        dump(checkpoints, 2)
        found = pruned(packets, checkpoints)
        assert sequences(packets) == [1, 3] and "stays:" in found.plan.remarks[0]

    def test_two_streams(self, packets, checkpoints):
        publish(packets, 1, 2, 3)
        publish(packets, 1, 2, 3, stream="other", writer="o")
        dump(checkpoints, 2)
        pruned(packets, checkpoints)
        assert sequences(packets) == [1, 2, 3, 3]

    def test_nothing_is_named(self):
        with pytest.raises(InvalidInputError, match="--packets"):
            survey(Asked())


class TestPersias:
    @pytest.fixture
    def trainer(self, packets) -> PersiaTrainer:
        trainer = PersiaTrainer(packets.local)
        for number in range(12):
            directory = f"s{number % 2}/inc_2026010100{number:04d}"
            trainer.write(directory, "0.inc", rows_of(range(5), number), 10_000 + 1000 * number)
            trainer.write(directory, "1.inc", rows_of(range(5), number), 10_001 + 1000 * number)
            trainer.mark(directory)
        return trainer

    @pytest.fixture(autouse=True)
    def dumps(self, checkpoints):
        checkpoints.local.mkdir()
        for seconds in (14_000, 17_000, 20_000):
            write_persia_checkpoint(
                checkpoints.local / str(seconds),
                {4: (SIGNS, rows(1))},
                num_shards=2,
                written_ns=seconds * 10**9,
            )

    def left(self, packets) -> list[int]:
        return sorted(int(path.name[-2:]) for path in packets.local.glob("s*/inc_*"))

    def test_what_no_recovery_needs_goes(self, packets, checkpoints, trainer):
        age(packets.local)
        found = pruned(packets, checkpoints)
        # 17000 - 600 is what the older one needs: of 16000 and 16001 nothing, of 17000 everything.
        assert self.left(packets) == [7, 8, 9, 10, 11]
        assert [path.name for path in checkpoints.local.iterdir()] != [] and names(found)[0] == "14000"
        assert not (checkpoints.local / "14000").exists() and (checkpoints.local / "17000").exists()
        assert names(pruned(packets, checkpoints)) == []

    def test_the_margin_counts(self, packets, checkpoints, trainer):
        age(packets.local)
        pruned(packets, checkpoints, margin_seconds=3000)
        assert self.left(packets) == [4, 5, 6, 7, 8, 9, 10, 11]

    def test_a_directory_stays_for_one_file_that_is_needed(self, packets, checkpoints, trainer):
        trainer.write("s0/inc_20260101000000", "2.inc", [], 16_400)
        age(packets.local)
        pruned(packets, checkpoints)
        assert self.left(packets)[0] == 0

    def test_young_ones_are_not_even_read(self, packets, checkpoints, trainer):
        assert names(pruned(packets, checkpoints)) == ["14000"] and len(self.left(packets)) == 12

    def test_one_that_is_not_whole_stays(self, packets, checkpoints, trainer):
        trainer.write("s0/inc_20260101000000", "0.inc", rows_of([1], 1.0), 5, cut=30)
        age(packets.local)
        found = pruned(packets, checkpoints)
        assert self.left(packets)[0] == 0 and "stays:" in found.plan.remarks[0]

    def test_without_a_marker(self, packets, checkpoints, trainer):
        (packets.local / "s0/inc_20260101000000/inc_update_done").unlink()
        age(packets.local)
        pruned(packets, checkpoints)
        assert self.left(packets)[0] == 7

    def test_files_of_somebody_else_stay(self, packets, checkpoints, trainer):
        (packets.local / "s0/inc_20260101000000/README").touch()
        age(packets.local)
        pruned(packets, checkpoints)
        assert [path.name for path in (packets.local / "s0/inc_20260101000000").iterdir()] == ["README"]


@pytest.mark.slow
class TestServers:
    @pytest.fixture
    def start(self, satrap, packets):
        def server(table_directory: Path, *more: str | Path):
            table_directory.mkdir(exist_ok=True)
            return satrap(
                *("embedding-server", "--port", "0", "--table-directory", table_directory),
                *("--packets", packets.url, *more),
            )

        return server

    def values(self, server) -> list[float]:
        with channel(server.addresses[0]) as to:
            stub = pb_grpc.EmbeddingServiceStub(to)
            stub.FollowNow(pb.FollowNowRequest(), timeout=30)
            request = pb.LookupRequest(replica_index=0, replica_size=1)
            request.groups.add(dim=4, signs=SIGNS.tobytes())
            answer = stub.Lookup(request, timeout=30).groups[0]
        return sorted(set(np.frombuffer(answer.rows, np.float32).tolist()))

    def test_one_that_is_behind_keeps_packets_and_goes_on(self, start, packets, checkpoints, table_directory):
        publish(packets, *range(1, 13))
        gone = sorted(
            path for path in packets.local.iterdir() if path.name.startswith(f"{5:020d}")
        )  # manifest last
        for path in gone:
            path.rename(path.with_name(f"kept aside {path.name}"))
        server = start(table_directory)
        assert self.values(server) == [4.0]
        dump(checkpoints, 6, 9)
        found = pruned(packets, checkpoints, servers=(server.addresses[0], "127.0.0.1:1"))
        assert sequences(packets)[0] == 6 and "has applied 4" in found.plan.kept[0].reason
        assert any("127.0.0.1:1 was not asked" in remark for remark in found.remarks)
        for path in gone:
            path.with_name(f"kept aside {path.name}").rename(path)
        assert self.values(server) == [12.0]
        pruned(packets, checkpoints, servers=(server.addresses[0],))
        assert sequences(packets) == list(range(7, 13))

    def test_after_it_a_cold_and_a_warm_start_reach_the_same(
        self, start, packets, checkpoints, table_directory
    ):
        publish(packets, *range(1, 8))
        dump(checkpoints, 2, 4)
        running = start(table_directory / "warm", "--checkpoint", checkpoints.url)
        assert self.values(running) == [7.0]
        running.kill()
        publish(packets, *range(8, 13))
        dump(checkpoints, 9)
        pruned(packets, checkpoints)
        for folder in ("warm", "cold"):
            assert self.values(start(table_directory / folder, "--checkpoint", checkpoints.url)) == [12.0]
        # The newest one turns out to be damaged: the other one and its packets are still there.
        shutil.rmtree(checkpoints.local / "main-0009")
        assert self.values(start(table_directory / "other", "--checkpoint", checkpoints.url)) == [12.0]

    def test_what_waits_in_quarantine_stays(self, start, packets, checkpoints, table_directory):
        publish(packets, 1, 2, 3)
        bad = rows(3)
        bad[7, 2] = np.nan
        publish_packet(
            packets, stream="main", writer="w", sequence=4, previous=3, parts=[PacketContent(4, SIGNS, bad)]
        )
        publish(packets, 5, 6)
        server = start(table_directory)
        assert self.values(server) == [3.0]
        dump(checkpoints, 5)
        pruned(packets, checkpoints, servers=(server.addresses[0],))
        assert sequences(packets) == [4, 5, 6]
