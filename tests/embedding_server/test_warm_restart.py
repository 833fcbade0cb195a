"""A server that is killed and started again: real processes, every row there, and every reason to load cold."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

import satrap.embedding_server.loading as loading
from satrap import rpc
from satrap._core.table import TableGeneration, TableReader, present_boot, read_control
from satrap.embedding_server.generations import list_generations
from satrap.errors import CheckpointError, NoSpaceError, TableHeldError
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.trainer import write_persia_checkpoint

SIGNS = np.arange(3000, dtype=np.uint64)
DIM = 4


def write(path: Path, value: float, count: int = len(SIGNS)) -> Path:
    """A checkpoint whose rows all hold one value."""
    rows = np.full((count, DIM), value, np.float32)
    write_persia_checkpoint(path, {DIM: (np.arange(count, dtype=np.uint64), rows)}, num_shards=1)
    return path


@pytest.fixture
def ones(tmp_path):
    return write(tmp_path / "ones", 1)


@pytest.fixture
def twos(tmp_path):
    return write(tmp_path / "twos", 2)


def identity_folder(table_directory: Path) -> Path:
    return table_directory / str(os.geteuid()) / "default" / "0-of-1"


def generations(table_directory: Path) -> list[str]:
    return [found.folder.name for found in list_generations(identity_folder(table_directory))]


def value_of(server) -> float:
    """The one value that all rows have."""
    (group,) = server.lookup((DIM, SIGNS)).groups
    assert group.missing == 0
    (value,) = set(np.frombuffer(group.rows, np.float32))
    return float(value)


@pytest.fixture
def start(serve, table_directory):
    """start(checkpoint, **settings) -> RunningServer over the same tables."""

    def again(checkpoint: Path | None = None, **settings: object):
        return serve(checkpoint=checkpoint, **{"table_directory": table_directory, **settings})

    return again


class TestTakenOver:
    def test_the_same_checkpoint(self, start, ones):
        first = start(ones)
        told = first.status()
        assert told.started == "cold: there is no table of a server before"
        first.close()
        again = start(ones)
        status = again.status()
        assert status.started == "warm" and status.checkpoint == str(ones)
        assert (status.instance_id, status.table_path) == (told.instance_id, told.table_path)
        assert status.server_uid == os.geteuid() and len(status.instance_id) == 16
        assert value_of(again) == 1
        assert again.lines[0].endswith("shard 0 of 1, 3,000 rows")

    def test_no_checkpoint_is_named(self, start, ones):
        start(ones).close()
        again = start()
        assert (again.status().started, again.status().checkpoint, value_of(again)) == ("warm", str(ones), 1)

    def test_an_empty_one(self, start, ones):
        start().close()
        empty = start()
        assert empty.status().started == "warm" and empty.lines[0].endswith(" 0 rows")
        empty.close()
        again = start(ones)
        assert "holds no checkpoint" in again.status().started and value_of(again) == 1

    def test_warnings_come_along(self, start, persia_data):
        checkpoint = persia_data / "ckpt_evicted_lru_corrupt"
        first = start(checkpoint)
        warnings = list(first.status().warnings)
        first.close()
        again = start(checkpoint).status()
        assert again.started == "warm" and list(again.warnings) == warnings != []

    def test_a_later_load_is_not_undone(self, start, ones, twos, table_directory):
        first = start(ones)
        first.load(twos)
        assert generations(table_directory) == ["00000002"]
        first.close()
        for named in (ones, None, twos):
            server = start(named)
            assert (server.status().started, server.status().checkpoint) == ("warm", str(twos))
            assert value_of(server) == 2
            server.close()
        # twos was named since: to name ones is a new decision now
        server = start(ones)
        assert server.status().started.startswith("cold: ") and value_of(server) == 1

    def test_purge_leaves_nothing(self, start, ones, table_directory):
        start(ones).close()
        start(ones, purge=True).close()
        assert list(table_directory.iterdir()) == []


class TestCold:
    def restarted(self, start, ones, *, named: Path | None = None, **settings: object) -> str:
        server = start(named or ones, **settings)
        started = server.status().started
        assert value_of(server) in (1, 2)
        server.close()
        return started

    def test_another_checkpoint(self, start, ones, twos, table_directory):
        start(ones).close()
        assert f"cold: the table holds {ones}; {twos} is named" == self.restarted(start, ones, named=twos)
        assert generations(table_directory) == ["00000002"]

    def test_the_checkpoint_was_written_again(self, start, ones):
        start(ones).close()
        shutil.rmtree(ones)
        write(ones, 2)
        assert "was written again" in self.restarted(start, ones)

    def test_another_config_or_dtype_or_boot(self, start, ones, monkeypatch):
        start(ones).close()
        assert "embedding config" in self.restarted(start, ones, config_digest="other")
        assert "row_dtype is float16" in self.restarted_half(start, ones)
        monkeypatch.setattr("satrap.embedding_server.table_directory.present_boot", lambda: bytes(16))
        assert "the machine was started again" in self.restarted_half(start, ones)

    def restarted_half(self, start, ones) -> str:
        server = start(ones, config_digest="other", row_dtype="float16")
        started = server.status().started
        server.close()
        return started

    def test_another_number_of_shards(self, start, ones):
        """Such tables lie elsewhere; those of the other number stay until somebody removes them."""
        start(ones).close()
        server = start(ones, replica_size=2)
        assert server.status().started == "cold: there is no table of a server before"

    @pytest.mark.parametrize("name", ["control", "4-float32/directory", "4-float32/segment"])
    @pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing"])
    def test_damage(self, start, ones, table_directory, name, damage):
        start(ones).close()
        generation = identity_folder(table_directory) / "00000001"
        path = generation / name
        if name.endswith("segment"):
            path = next((generation / "4-float32").glob("segment-*"))
        if damage == "flipped bit":
            data = bytearray(path.read_bytes())
            data[17] ^= 4
            path.write_bytes(data)
        elif damage == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
        started = self.restarted(start, ones)
        assert started.startswith("cold: ")
        if (name, damage) == ("control", "missing"):
            assert "ended before its checkpoint was loaded" in started
        else:
            assert str(generation) in started
        assert generations(table_directory) == ["00000002"]

    @pytest.mark.parametrize(
        "break_it", [shutil.rmtree, lambda path: (path / "embedding_dump_done").unlink()]
    )
    def test_a_bad_checkpoint_is_told_before_anything_is_discarded(
        self, start, ones, twos, table_directory, break_it
    ):
        start(ones).close()
        break_it(twos)
        failed = start(twos)
        assert isinstance(failed.failure, CheckpointError)
        failed.close()
        assert generations(table_directory) == ["00000001"]
        assert self.restarted(start, ones) == "warm"


class TestSwitch:
    def test_a_reader_of_the_old_one_is_told_to_leave(self, start, ones, twos):
        server = start(ones)
        before = server.status()
        reader = TableReader(before.table_path, before.instance_id, before.server_uid)
        assert reader.state == "live"
        server.load(twos)
        assert reader.state == "abandoned"
        ((_, rows),), *_ = reader.lookup([(DIM, SIGNS.tobytes())])  # what it has mapped stays whole
        assert set(np.frombuffer(rows, np.float32)) == {1}
        reader.close()
        after = server.status()
        assert after.instance_id != before.instance_id and not Path(before.table_path).exists()
        reader = TableReader(after.table_path, after.instance_id, after.server_uid)
        assert reader.state == "live"
        reader.close()

    @pytest.mark.parametrize("dim", [-1, 0, 4097, 2**70, -(2**70)])
    def test_a_reader_refuses_a_dim_that_no_table_has(self, start, ones, dim):
        status = start(ones).status()
        reader = TableReader(status.table_path, status.instance_id, status.server_uid)
        with pytest.raises(ValueError, match=f"a dim must be 1 to 4096, not {dim}"):
            reader.lookup([(dim, b"")])
        reader.close()

    def test_a_load_after_the_folder_was_removed(self, start, ones, twos, table_directory):
        server = start(ones)
        shutil.rmtree(table_directory / str(os.geteuid()))
        assert value_of(server) == 1
        server.load(twos)
        assert value_of(server) == 2 and len(generations(table_directory)) == 1

    def test_a_refused_load_leaves_nothing(self, start, ones, persia_data, table_directory):
        server = start(ones)
        with pytest.raises(grpc.RpcError):
            server.load(persia_data / "ckpt_truncated")
        assert generations(table_directory) == ["00000001"] and value_of(server) == 1

    def test_no_memory_for_the_new_one(self, start, ones, twos, table_directory, monkeypatch, refused):
        server = start(ones)
        real = loading.load_checkpoint

        def greedy(path, owner, threads, make_tables, *rest):
            return real(path, owner, threads, lambda rows: make_tables(dict.fromkeys(rows, 10**12)), *rest)

        monkeypatch.setattr(loading, "load_checkpoint", greedy)
        code, details = refused(lambda: server.load(twos))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "has room for" in details
        assert server.status().state == pb.STATE_READY and "has room for" in server.status().message
        assert value_of(server) == 1 and generations(table_directory) == ["00000001"]
        monkeypatch.undo()
        assert server.load(twos)[-1].done and value_of(server) == 2

    def test_no_memory_at_the_start(self, start, ones, table_directory, monkeypatch):
        def none(*arguments: object) -> None:
            raise NoSpaceError("no room")

        monkeypatch.setattr(loading, "load_checkpoint", none)
        failed = start(ones)
        assert isinstance(failed.failure, NoSpaceError)
        assert generations(table_directory) == []

    def test_a_second_server_is_told_who_holds_the_tables(self, start, ones):
        server = start(ones)
        second = start(ones)
        assert isinstance(second.failure, TableHeldError) and second.failure.pid == os.getpid()
        assert value_of(server) == 1


@pytest.mark.slow
class TestKilled:
    """With SIGKILL, at any time."""

    def arguments(self, checkpoint: Path | None, table_directory: Path, *more: str) -> list[object]:
        named = ["--checkpoint", checkpoint] if checkpoint else []
        return ["embedding-server", "--port", "0", *named, "--table-directory", table_directory, *more]

    def status(self, command) -> pb.StatusResponse:
        with rpc.channel(command.addresses[0]) as channel:
            return pb_grpc.EmbeddingServiceStub(channel).Status(pb.StatusRequest(), timeout=20)

    def value(self, command) -> float:
        request = pb.LookupRequest(replica_size=1, groups=[pb.SignGroup(dim=DIM, signs=SIGNS.tobytes())])
        with rpc.channel(command.addresses[0]) as channel:
            (group,) = pb_grpc.EmbeddingServiceStub(channel).Lookup(request, timeout=20).groups
        (value,) = set(np.frombuffer(group.rows, np.float32))
        assert group.missing == 0
        return float(value)

    def wait_for(self, reader: TableReader, state: str) -> None:
        deadline = time.monotonic() + 30
        while reader.state != state:
            assert time.monotonic() < deadline

    def test_while_serving(self, satrap, ones, table_directory):
        first = satrap(*self.arguments(ones, table_directory))
        before = self.status(first)
        first.kill()
        reader = TableReader(before.table_path, before.instance_id, before.server_uid)
        self.wait_for(reader, "orphaned")
        again = satrap(*self.arguments(ones, table_directory))
        status = self.status(again)
        assert status.started == "warm" and status.instance_id == before.instance_id
        assert "warm: 3,000 rows in" in again.log.read_text()
        assert self.value(again) == 1
        self.wait_for(reader, "live")
        reader.close()

    def test_sigterm_keeps_and_purge_removes(self, satrap, ones, table_directory):
        assert satrap(*self.arguments(ones, table_directory)).stop() == 0
        again = satrap(*self.arguments(ones, table_directory, "--purge"))
        assert self.status(again).started == "warm"
        assert again.stop() == 0
        assert list(table_directory.iterdir()) == []

    def test_a_second_server_ends_with_one_sentence(self, satrap, ones, table_directory):
        first = satrap(*self.arguments(ones, table_directory))
        second = subprocess.run(
            [sys.executable, "-P", "-m", "satrap.cli", *map(str, self.arguments(ones, table_directory))],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == 1 and second.stdout == ""
        (line,) = [line for line in second.stderr.splitlines() if line.startswith("satrap: error: ")]
        assert f"process {first.process.pid} holds these tables: stop it, or choose" in line
        assert "Traceback" not in second.stderr and self.value(first) == 1

    def test_at_any_moment_of_a_start(self, satrap, tmp_path, table_directory):
        """Loading, recovering, discarding: whatever it was at, the next start serves every row."""
        big = write(tmp_path / "big", 1, 200_000)
        other = write(tmp_path / "other", 2, 200_000)
        for attempt in range(8):
            checkpoint = (big, other)[attempt % 2]
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "satrap.cli",
                    *map(str, self.arguments(checkpoint, table_directory)),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            folder = identity_folder(table_directory)
            deadline = time.monotonic() + 60
            while not list(folder.glob("*/control*")) and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01 * attempt)  # the moment of the kill is what varies
            process.send_signal(signal.SIGKILL)
            process.wait()
        server = satrap(*self.arguments(big, table_directory))
        assert self.value(server) == 1 and server.line.endswith(" 200,000 rows")
        assert len(generations(table_directory)) == 1

    def test_while_a_later_load_runs(self, satrap, ones, tmp_path, table_directory):
        """The old generation is taken over; nothing is left of the new one."""
        big = write(tmp_path / "big", 2, 1_000_000)
        first = satrap(*self.arguments(ones, table_directory))
        new = identity_folder(table_directory) / "00000002"
        with rpc.channel(first.addresses[0]) as channel:
            call = pb_grpc.EmbeddingServiceStub(channel).LoadCheckpoint(
                pb.LoadCheckpointRequest(path=str(big)), timeout=60
            )
            deadline = time.monotonic() + 60
            while not (new / "control").exists():
                assert time.monotonic() < deadline
            first.kill()
            call.cancel()
        assert read_control(str(new)).state == "loading"
        again = satrap(*self.arguments(ones, table_directory))
        assert self.status(again).started == "warm" and self.value(again) == 1
        assert generations(table_directory) == ["00000001"]

    def test_between_the_switch_and_the_removal(self, satrap, ones, twos, table_directory):
        """Two whole generations: the newer one was an operator's decision, and wins."""
        first = satrap(*self.arguments(ones, table_directory))
        kept = identity_folder(table_directory) / "00000001"
        copy = table_directory / "copy"
        shutil.copytree(kept, copy)
        with rpc.channel(first.addresses[0]) as channel:
            stub = pb_grpc.EmbeddingServiceStub(channel)
            list(stub.LoadCheckpoint(pb.LoadCheckpointRequest(path=str(twos)), timeout=60))
        first.kill()
        copy.rename(kept)
        again = satrap(*self.arguments(ones, table_directory))
        assert self.status(again).started == "warm" and self.value(again) == 2
        assert generations(table_directory) == ["00000002"]

    def test_rows_written_after_the_load_are_there(self, satrap, ones, table_directory):
        """Whatever wrote last: here a process that takes over, upserts, later than the checkpoint, and is killed."""
        satrap(*self.arguments(ones, table_directory)).kill()
        folder = identity_folder(table_directory) / "00000001"
        script = (
            "import sys, numpy as np; from satrap._core.table import *\n"
            "g = TableGeneration.recover(sys.argv[1], boot_id=present_boot(), replica_index=0, replica_size=1)\n"
            "signs = np.arange(100_000, dtype=np.uint64)\n"
            "for i in range(2, 10**6):\n"
            "    g.tables[4].upsert(signs, np.full((100_000, 4), i, np.float32), 2**31 + i)\n"
            "    print(i, flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            for _ in range(3):
                acknowledged = int(writer.stdout.readline())
            writer.kill()
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        server = satrap(*self.arguments(ones, table_directory))
        assert server.line.endswith(" 100,000 rows")
        request = pb.LookupRequest(
            replica_size=1,
            groups=[pb.SignGroup(dim=DIM, signs=np.arange(100_000, dtype=np.uint64).tobytes())],
        )
        with rpc.channel(server.addresses[0]) as channel:
            (group,) = pb_grpc.EmbeddingServiceStub(channel).Lookup(request, timeout=20).groups
        rows = np.frombuffer(group.rows, np.float32).reshape(-1, DIM)
        assert (rows == rows[:, :1]).all()  # no half row
        assert set(rows[:, 0]) <= {acknowledged, acknowledged + 1}


_SMALL = """
mount -t tmpfs -o size=16m none "$1" && shift && exec "$@"
"""


def may_mount() -> bool:
    probe = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.slow
class TestSmallFileSystem:
    """A file system of 16 MiB in a mount namespace of its own."""

    SCRIPT = """
import json, sys, threading
from pathlib import Path
import grpc, numpy as np
from satrap import rpc
from satrap.embedding_server import EmbeddingServerSettings, run
from satrap.protos import embedding_pb2 as pb, embedding_pb2_grpc as pb_grpc
tables, small, big = map(Path, sys.argv[1:4])
stop, lines, ready = threading.Event(), [], threading.Event()
settings = EmbeddingServerSettings(port=0, checkpoint=small, table_directory=tables)
thread = threading.Thread(target=run, args=(settings, stop, lambda line: (lines.append(line), ready.set())))
thread.start()
assert ready.wait(30)
with rpc.channel(lines[0].split()[4].removesuffix(":")) as channel:
    stub = pb_grpc.EmbeddingServiceStub(channel)
    try:
        list(stub.LoadCheckpoint(pb.LoadCheckpointRequest(path=str(big)), timeout=60))
        error = None
    except grpc.RpcError as failed:
        error = [failed.code().name, failed.details()]
    signs = np.arange(3000, dtype=np.uint64).tobytes()
    (group,) = stub.Lookup(pb.LookupRequest(replica_size=1, groups=[pb.SignGroup(dim=4, signs=signs)])).groups
    left = sorted(path.name for path in tables.glob("*/*/*/0*"))
    again = [p.done for p in stub.LoadCheckpoint(pb.LoadCheckpointRequest(path=str(small)), timeout=60)][-1]
stop.set()
thread.join()
print(json.dumps({"error": error, "missing": group.missing, "left": left, "again": again}))
"""

    @pytest.mark.skipif(not may_mount(), reason="mount namespaces are not permitted here")
    @pytest.mark.parametrize("rows", [520_000, 1_000_000])
    def test_a_load_that_does_not_fit(self, ones, tmp_path, rows):
        """Both where it is seen at once, and where the room ends in the middle."""
        big, tables = write(tmp_path / "big", 2, rows), tmp_path / "tables"
        tables.mkdir()
        python = [sys.executable, "-c", self.SCRIPT, str(tables), str(ones), str(big)]
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", _SMALL, "sh", str(tables), *python],
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        code, sentence = told["error"]
        assert code == "RESOURCE_EXHAUSTED" and "--shm-size" in sentence
        assert (told["missing"], told["left"], told["again"]) == (0, ["00000001"], True)


def test_a_generation_of_another_program_is_left_alone(start, ones, table_directory):
    """Only generations of the own identity are removed, and only by the holder of its lock."""
    stranger = table_directory / str(os.geteuid()) / "other" / "0-of-1" / "00000001"
    stranger.parent.mkdir(parents=True)
    generation = TableGeneration.create(
        str(stranger), instance=bytes(16), boot_id=present_boot(), replica_index=0, replica_size=1, info=b""
    )
    start(ones).close()
    start(ones, purge=True).close()
    assert stranger.exists() and generation.state == "loading"
