"""`satrap prune` on real directories: what goes, what stays, and that everybody recovers from the rest."""

import itertools
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from persia_packets import PersiaTrainer, rows_of
from typer.testing import CliRunner, Result

from satrap.cli.app import app
from satrap.cli.pruning import Asked, remove, survey
from satrap.errors import CheckpointError, InvalidInputError, ManifestError
from satrap.formats.checkpoint import CheckpointWriter, open_checkpoint
from satrap.formats.decisions import Hold, write_hold
from satrap.formats.manifest import parse_manifest_name
from satrap.formats.packet import PacketContent, publish_packet, read_manifest, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.rpc import channel
from satrap.storage import Storage, open_storage
from satrap.trainer import write_persia_checkpoint

NUMBERS = itertools.count()
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
    @pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
    def both(self, request, packets, checkpoints, tmp_path):
        if request.param == "s3":
            request.getfixturevalue("s3_endpoint")
            import boto3

            boto3.client("s3").create_bucket(Bucket="prune")
            packets, checkpoints = open_storage("s3://prune/p"), open_storage("s3://prune/c")
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

    def test_a_directory_that_is_not_there(self, packets, checkpoints):
        with pytest.raises(InvalidInputError, match="packets: no such directory"):
            survey(Asked(packets=packets.url))
        with pytest.raises(CheckpointError, match="checkpoints: no such directory"):
            survey(Asked(checkpoints=checkpoints.url))

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


class TestAnyPruning:
    """After any pruning whoever recovers, cold or warm, gets what it would have got before: with real files."""

    State = dict[int, tuple[int, bytes]]

    def packet(self, sequence: int) -> tuple[np.ndarray, np.ndarray]:
        chance = np.random.default_rng(sequence)
        signs = np.unique(chance.integers(0, 30, 8)).astype(np.uint64)
        return signs, chance.normal(size=(len(signs), 4)).astype(np.float32)

    def apply(self, state: State, ordinal: int, signs: np.ndarray, rows: np.ndarray) -> None:
        for sign, row in zip(signs.tolist(), rows, strict=True):
            if ordinal >= state.get(sign, (0, b""))[0]:
                state[sign] = ordinal, row.tobytes()

    def state(self, last: int) -> State:
        found: TestAnyPruning.State = {}
        for sequence in range(1, last + 1):
            self.apply(found, sequence, *self.packet(sequence))
        return found

    def rows(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        values = [np.frombuffer(row, np.float32) for _, row in state.values()]
        return np.array(list(state), np.uint64), np.array(values, np.float32).reshape(-1, 4)

    def recover(
        self, packets: Storage, checkpoints: Storage, applied: int = 0, through: int = 10**6
    ) -> tuple[int, dict[int, bytes]]:
        """From a warm state at `applied`, or from nothing; no further than `through`."""
        state = self.state(applied)
        for entry in checkpoints.list():
            opened = open_checkpoint(checkpoints.subfolder(entry.name))
            if applied < opened.manifest.sequence <= through:
                state, applied = {}, opened.manifest.sequence
                for file in opened.entries(ShardRoute()):
                    for _, signs, rows in opened.pages(file, ShardRoute()):
                        self.apply(state, applied, signs, rows)
        for entry in packets.list():
            if parse_manifest_name(entry.name) is None:
                continue
            manifest = read_manifest(packets, entry.name)
            if manifest.previous == applied and manifest.sequence <= through:
                applied = manifest.sequence
                for _, signs, rows in read_shard(packets, manifest, ShardRoute()):
                    self.apply(state, applied, signs, rows)
        return applied, {sign: row for sign, (_, row) in state.items()}

    @given(st.data())
    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_of_ours(self, table_directory, data):
        last = data.draw(st.integers(1, 9))
        dumps = data.draw(st.frozensets(st.integers(1, last), max_size=4))
        hold = data.draw(st.none() | st.integers(1, last))
        root = open_storage(table_directory / str(next(NUMBERS)))
        packets, checkpoints = root.subfolder("packets"), root.subfolder("checkpoints")
        checkpoints.local.mkdir(parents=True)
        for sequence in range(1, last + 1):
            publish_packet(
                packets,
                stream="main",
                writer="w",
                sequence=sequence,
                previous=sequence - 1,
                parts=[PacketContent(4, *self.packet(sequence))],
            )
        for sequence in dumps:
            folder = checkpoints.subfolder(f"{sequence:04d}")
            with CheckpointWriter(folder, stream="main", writer="w", sequence=sequence) as writer:
                writer.write(4, *self.rows(self.state(sequence)))
                writer.finish()
        if hold is not None:
            write_hold(packets, Hold("main", hold, "me", "why", 1))
        starts = [(applied, through) for applied in range(last + 1) for through in (10**6, hold or last)]
        before = [self.recover(packets, checkpoints, *start) for start in starts]
        pruned(packets, checkpoints, keep=data.draw(st.integers(1, 3)))
        assert [self.recover(packets, checkpoints, *start) for start in starts] == before
        assert before[0][0] == last

    @given(st.data())
    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_of_persias(self, table_directory, data):
        """A checkpoint at a time has every row from before, and packets from 600 s before on come again."""
        times = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=8))
        dumps = data.draw(st.frozensets(st.integers(1, 30), max_size=3))
        root = open_storage(table_directory / str(next(NUMBERS)))
        trainer, checkpoints = PersiaTrainer(root.local / "packets"), root.local / "checkpoints"
        trainer.root.mkdir(parents=True)
        checkpoints.mkdir()
        contents = []
        for number, time_ in enumerate(times):
            signs, values = self.packet(number)
            second = 100_000 + 300 * time_
            contents.append((second, f"s0/inc_{number:04d}", signs, values))
            trainer.write(f"s0/inc_{number:04d}", "0.inc", zip(signs.tolist(), values, strict=True), second)
            trainer.mark(f"s0/inc_{number:04d}")
        age(trainer.root)

        def all_of(since: int, until: int) -> TestAnyPruning.State:
            state: TestAnyPruning.State = {}
            for second, name, signs, values in sorted(contents, key=lambda item: item[:2]):
                if since <= second < until and (trainer.root / name).exists():
                    self.apply(state, second, signs, values)
            return state

        kept = {}
        for time_ in dumps:
            second = 100_000 + 300 * time_
            state = kept[second] = all_of(0, second)
            rows = self.rows({sign: (0, row) for sign, (_, row) in state.items()})
            write_persia_checkpoint(
                checkpoints / str(second), {4: rows}, num_shards=1, written_ns=second * 10**9
            )

        def recover(second: int) -> dict[int, bytes]:
            state = {sign: (second - 600, row) for sign, (_, row) in kept[second].items()} if second else {}
            for sign, item in all_of(second - 600, 10**6).items():
                if item[0] >= state.get(sign, (0, b""))[0]:
                    state[sign] = item
            return {sign: row for sign, (_, row) in state.items()}

        newest = sorted(kept, reverse=True)
        keep = data.draw(st.integers(1, 2))
        starts = newest[:keep] or [0]
        before = [recover(start) for start in starts]
        pruned(open_storage(trainer.root), open_storage(checkpoints), keep=keep)
        assert [recover(start) for start in starts] == before
        assert sorted(path.name for path in checkpoints.iterdir()) == sorted(map(str, newest[:keep]))


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
