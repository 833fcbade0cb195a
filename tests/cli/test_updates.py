"""What an operator of live updates does, with real servers: look, decide about refused packets, skip, go back."""

import json
import re
import shutil
import urllib.request
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from satrap import rpc
from satrap._core import rows
from satrap.cli.app import app
from satrap.errors import SatrapError
from satrap.formats.checkpoint import CheckpointWriter
from satrap.formats.decisions import read_hold, read_skips
from satrap.formats.packet import PacketContent, publish_packet
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.protos import management_pb2, management_pb2_grpc
from satrap.storage import open_storage

DIM = 4
SIGNS = np.arange(200, dtype=np.uint64)
OF_SHARD = [rows.select(SIGNS, None, shard, 2)[0] for shard in range(2)]
CONFIG = """
embedding_server:
  metrics_port: 0
updates:
  poll_seconds: 0.1
  gap_alarm_seconds: 0.0
  undo_packets: 4
  guardrails: {max_norm: 1000.0}
"""

pytestmark = pytest.mark.slow


@dataclass
class Ran:
    """How a command ended, and all that it said, the error's sentence as well."""

    exit_code: int
    output: str


def run(*arguments: str | Path | int) -> Ran:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    error = result.exception
    assert error is None or isinstance(error, SystemExit | SatrapError), error
    return Ran(result.exit_code, result.output + (str(error) if isinstance(error, SatrapError) else ""))


class Shards:
    """Two servers that follow one directory, and the trainer."""

    def __init__(self, satrap, folder: Path, table_directory: Path) -> None:
        self._satrap, self._tables = satrap, table_directory
        self.config = folder / "global_config.yaml"
        self.config.write_text(CONFIG)
        self.directory = folder / "packets"
        self.directory.mkdir()
        self.storage = open_storage(self.directory)
        self.last = 0
        self.checkpoints = folder / "checkpoints"
        self._checkpoint(0)
        self.commands = [self._start(shard, 0) for shard in range(2)]

    def _start(self, shard: int, port: int):
        return self._satrap(
            *("embedding-server", "--port", port, "--replica-index", shard, "--replica-size", 2),
            *("--packets", self.directory, "--global-config", self.config),
            *("--table-directory", self._tables, "--checkpoint", self.checkpoints),
        )

    def _checkpoint(self, sequence: int) -> None:
        """A full checkpoint whose rows are all its sequence."""
        storage = open_storage(self.checkpoints / str(sequence))
        with CheckpointWriter(storage, stream="main", writer="w", sequence=sequence, num_shards=2) as writer:
            writer.write(DIM, SIGNS, np.full((len(SIGNS), DIM), sequence, np.float32))
            writer.finish()

    def restart(self, shard: int) -> None:
        """Kill a server and start it again at its port."""
        port = self.commands[shard].addresses[0].rpartition(":")[2]
        self.commands[shard].kill()
        self.commands[shard] = self._start(shard, port)

    @property
    def addresses(self) -> list[str]:
        return [command.addresses[0] for command in self.commands]

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--shards", ",".join(self.addresses), "--global-config", str(self.config))

    def publish(self, sequence: int | None = None, *, changes: dict[int, float] | None = None) -> str:
        """A packet whose rows are all its sequence, but for those of `changes`."""
        self.last = sequence or self.last + 1
        values = np.full((len(SIGNS), DIM), self.last, np.float32)
        for sign, value in (changes or {}).items():
            values[sign] = value
        manifest = publish_packet(
            self.storage,
            stream="main",
            writer="w",
            sequence=self.last,
            previous=self.last - 1,
            parts=[PacketContent(DIM, SIGNS, values)],
            num_shards=2,
            newest_event_ns=1,
        )
        return manifest.name

    def follow(self) -> list[int]:
        """Have both look now; how far they are."""
        applied = []
        for address in self.addresses:
            with rpc.channel(address) as channel:
                stub = pb_grpc.EmbeddingServiceStub(channel)
                applied.append(stub.FollowNow(pb.FollowNowRequest(), timeout=20).applied_sequence)
        return applied

    def values(self) -> list[float]:
        """The one value that all rows of each shard have."""
        found = []
        for shard, address in enumerate(self.addresses):
            request = pb.LookupRequest(replica_index=shard, replica_size=2)
            request.groups.add(dim=DIM, signs=OF_SHARD[shard].tobytes())
            with rpc.channel(address) as channel:
                (group,) = pb_grpc.EmbeddingServiceStub(channel).Lookup(request, timeout=20).groups
            (value,) = set(np.frombuffer(group.rows, np.float32))
            found.append(float(value))
        return found


@pytest.fixture
def shards(satrap, tmp_path, table_directory):
    return Shards(satrap, tmp_path, table_directory)


def test_status(shards):
    shards.publish()
    shards.publish()
    assert shards.follow() == [2, 2]
    result = run("status", *shards.flags)
    assert result.exit_code == 0, result.output
    for words in (
        rf"updates +satrap stream main, from {shards.directory}",
        r"applied +sequence 2, nothing is waiting",
        r"newest event +\d+ d old",
        r"visible after +p50 [\d.]+ m?s, p99 [\d.]+ m?s \(2 packets\)",
        r"gap detection +sequence",
    ):
        assert len(re.findall(words, result.output)) == 2, (words, result.output)
    first, second = json.loads(run("status", *shards.flags, "--json").output)
    assert first["updates"]["applied_sequence"] == 2 and second["updates"]["stream"] == "main"
    assert first["updates"]["visible_packets"] == 2 and first["disagreements"] == []


def test_refused_by_one_shard(shards):
    shards.publish()
    name = shards.publish(changes={int(OF_SHARD[0][0]): 1e6})
    shards.publish()
    assert shards.follow() == [1, 3]

    result = run("status", *shards.flags)
    told = f"the shards disagree on {name}: refused by shard 0 of 2 (guardrail), applied by shard 1 of 2."
    assert f"{told} To have none of it anywhere: satrap rollback --to 1" in result.output
    assert "alarm quarantined" in result.output
    assert re.search(rf"quarantine +{name} \(guardrail\)", result.output)
    assert json.loads(run("status", *shards.flags, "--json").output)[0]["disagreements"]

    listed = run("quarantine", "list", *shards.flags).output
    assert f"{name}  shard 0 of 2  waiting  guardrail" in listed
    (record,) = json.loads(run("quarantine", "list", *shards.flags, "--json").output)
    assert (record["sequence"], record["applied_by"], record["decision"]) == (2, ["1 of 2"], "waiting")
    shown = run("quarantine", "show", name, *shards.flags).output
    assert "updates.guardrails.max_norm" in shown and "applied by" in shown
    kept = Path(record["kept_at"])
    assert (kept / "reason.json").exists() and (kept / name).exists() and len(list(kept.iterdir())) > 2

    shards.restart(0)  # the record is there again
    assert json.loads(run("quarantine", "list", *shards.flags, "--json").output)[0]["name"] == name
    retried = run("quarantine", "retry", name, *shards.flags)  # and so is the reason
    assert retried.exit_code == 0 and "judged again" in retried.output and "at sequence 1" in retried.output
    dropped = run("quarantine", "drop", name, *shards.flags)
    assert dropped.exit_code == 0 and "at sequence 3" in dropped.output, dropped.output
    assert "shard 1 of 2 applied it and keeps its rows" in dropped.output
    assert shards.follow() == [3, 3] and shards.values() == [3, 3]
    assert run("quarantine", "list", *shards.flags).output.split()[5:7] == ["dropped", "guardrail"]
    refused = run("quarantine", "retry", name, *shards.flags)
    assert refused.exit_code == 1 and "satrap rollback --to 1" in refused.output


def test_none_of_a_packet_anywhere(shards):
    """As docs/operations.md says: go back before it, take it away, skip it, go on."""
    shards.publish()
    name = shards.publish(changes={int(OF_SHARD[0][0]): 1e6})
    shards.publish()
    assert shards.follow() == [1, 3]
    assert run("rollback", "--to", 1, "--why", "packet 2 is bad", *shards.flags).exit_code == 0
    assert shards.values() == [1, 1]
    for path in shards.directory.glob(f"{name.partition('-')[0]}-*"):
        path.unlink()
    assert run("stream", "skip", "--to", 2, "--why", "packet 2 is bad", *shards.flags).exit_code == 0
    assert shards.follow() == [1, 1]
    assert run("rollback", "--release", *shards.flags).exit_code == 0
    assert shards.follow() == [3, 3] and shards.values() == [3, 3]


def test_quarantine_mistakes(shards):
    assert run("quarantine", "list", *shards.flags).output == "no packet is in quarantine\n"
    for action in ("show", "retry", "drop"):
        result = run("quarantine", action, "nothing", *shards.flags)
        assert result.exit_code == 1 and "satrap quarantine list" in result.output
    shards.commands[1].kill()
    result = run("quarantine", "list", *shards.flags)
    assert result.exit_code == 1 and f"not asked: {shards.addresses[1]}" in result.output


def test_rollback(shards):
    for _ in range(6):
        shards.publish()
    assert shards.follow() == [6, 6]
    result = run("rollback", "--to", 4, "--why", "bad labels", "--who", "me", *shards.flags)
    assert result.exit_code == 0, result.output
    assert f"{shards.directory}/hold-main.json: keep through 4" in result.output
    assert len(re.findall(r"shard \d of 2 at \S+: at sequence 4", result.output)) == 2
    assert shards.values() == [4, 4]
    hold = read_hold(shards.storage, "main")
    assert (hold.keep_through, hold.who, hold.why) == (4, "me", "bad labels")

    shards.publish()
    assert shards.follow() == [4, 4]
    assert "held" in run("status", *shards.flags).output
    shown = run("stream", "show", *shards.flags).output
    assert "through 4 by me" in shown and "bad labels" in shown and re.search(r"waiting +3", shown)

    # One that is down follows the file when it starts, although it was at 6 when it was killed.
    assert run("rollback", "--release", *shards.flags).exit_code == 0
    assert shards.follow() == [7, 7] and shards.values() == [7, 7]
    shards.commands[1].kill()
    result = run("rollback", "--to", 5, "--why", "again", *shards.flags)
    assert result.exit_code == 1, result.output
    assert f"the server at {shards.addresses[1]}: not reached" in result.output
    assert "it follows the file when it is back" in result.output
    shards.restart(1)
    assert shards.follow() == [5, 5] and shards.values() == [5, 5]
    assert run("rollback", "--release", *shards.flags).exit_code == 0
    assert shards.values() == [7, 7]


def test_further_back_than_the_undo_log(shards):
    for _ in range(8):
        shards.publish()
    assert shards.follow() == [8, 8]
    result = run("rollback", "--to", 3, "--why", "w", *shards.flags)
    assert result.exit_code == 0, result.output
    assert (
        len(
            re.findall(
                "its undo log reaches 4, so it loads the newest checkpoint at or below 3", result.output
            )
        )
        == 2
    )
    assert len(re.findall("at sequence 3", result.output)) == 2
    assert shards.values() == [3, 3]
    shards.restart(0)
    assert shards.follow() == [3, 3] and shards.values() == [3, 3]
    assert run("rollback", "--release", *shards.flags).exit_code == 0
    assert shards.follow() == [8, 8] and shards.values() == [8, 8]


def test_a_rollback_that_no_server_can_make(shards):
    for _ in range(6):
        shards.publish()
    shards.follow()
    shutil.rmtree(shards.checkpoints / "0")
    result = run("rollback", "--to", 1, "--why", "w", "--seconds", 20, *shards.flags)
    assert result.exit_code == 1 and "cannot go back to 1: the undo log reaches 2" in result.output
    assert "its undo log reaches 2" in result.output
    assert shards.values() == [6, 6]  # it goes on with what it has
    run("rollback", "--release", *shards.flags)
    assert shards.follow() == [6, 6]


def test_rollback_mistakes(shards):
    shards.publish()
    shards.follow()
    for arguments, words in [
        ([], "either --to"),
        (["--to", 1, "--release"], "either --to"),
        (["--to", 1], "--why"),
        (["--release"], "there is no such hold"),
        (["--to", 1, "--why", "w", "--management", "127.0.0.1:1"], "127.0.0.1:1"),
    ]:
        result = run("rollback", *arguments, *shards.flags)
        assert result.exit_code == 1 and words in result.output, (arguments, result.output)
    assert list(shards.directory.glob("hold*")) == []


def test_a_server_that_follows_nothing(satrap, tmp_path):
    server = satrap("embedding-server", "--port", "0")
    flags = ("--shards", server.addresses[0], "--packets", tmp_path, "--stream", "main")
    result = run("rollback", "--to", 9, "--why", "w", *flags)
    assert result.exit_code == 1 and "follows no packets" in result.output
    assert "follows no packets" in run("stream", "show", *flags).output
    result = run("quarantine", "list", *flags[:2])
    assert result.exit_code == 1 and "follows no packets" in result.output
    assert "updates" not in run("status", *flags[:2]).output


def test_without_any_server_the_decision_is_written(tmp_path, table_directory):
    flags = ("--packets", tmp_path, "--table-directory", table_directory)
    result = run("rollback", "--to", 9, "--why", "w", *flags)
    assert result.exit_code == 1 and "--stream" in result.output
    result = run("rollback", "--to", 9, "--why", "w", "--stream", "main", *flags)
    assert result.exit_code == 0 and "no server was told" in result.output
    assert read_hold(open_storage(tmp_path), "main").keep_through == 9
    (tmp_path / "hold-main.json").write_text("")  # as a crash may leave it
    result = run("rollback", "--to", 8, "--why", "w", "--stream", "main", *flags)
    assert result.exit_code == 0 and "in place of one that cannot be read" in result.output
    assert read_hold(open_storage(tmp_path), "main").keep_through == 8
    assert run("rollback", "--release", "--stream", "main", *flags).exit_code == 0
    result = run("stream", "show", "--stream", "main", "--table-directory", table_directory)
    assert result.exit_code == 1 and "--packets" in result.output
    result = run("rollback", "--to", 9, "--why", "w", "--stream", "../main", *flags)
    assert result.exit_code == 1


def test_skip(shards):
    shards.publish()
    shards.publish(3)
    assert shards.follow() == [1, 1]
    assert "alarm gap" in run("status", *shards.flags).output
    result = run("stream", "skip", "--to", 2, "--why", "lost", "--who", "me", *shards.flags)
    assert result.exit_code == 0, result.output
    assert f"{shards.directory}/skip-main.json: skip to 2" in result.output
    assert len(re.findall("at sequence 3", result.output)) == 2
    assert shards.values() == [3, 3]
    (skip,) = read_skips(shards.storage, "main")
    assert (skip.to, skip.who, skip.why) == (2, "me", "lost")
    shown = json.loads(run("stream", "show", *shards.flags, "--json").output)
    assert [one["to"] for one in shown["skips"]] == [2] and shown["hold"] is None
    assert [one["updates"]["applied_sequence"] for one in shown["servers"]] == [3, 3]
    assert "skip" in run("stream", "show", *shards.flags).output
    result = run("stream", "skip", "--to", 2, "--why", "lost", *shards.flags)
    assert result.exit_code == 1 and "nothing to skip" in result.output
    result = run("stream", "skip", "--to", 9, "--why", "lost", "--stream", "mian", *shards.flags)
    assert result.exit_code == 1 and "follows the stream mian" in result.output
    result = run("rollback", "--to", 9, "--why", "w", "--stream", "mian", *shards.flags)
    assert "no server that answers follows the stream mian" in result.output


def test_metrics(shards):
    shards.publish()
    shards.publish(3)
    shards.follow()
    for shard, command in enumerate(shards.commands):
        (address,) = re.findall(r"metrics at (http://\S+)", command.log.read_text())
        with urllib.request.urlopen(address, timeout=10) as response:
            samples = [
                sample
                for family in text_string_to_metric_families(response.read().decode())
                for sample in family.samples
            ]
        values = {sample.name: sample.value for sample in samples}
        assert values["satrap_update_applied_sequence"] == 1 and values["satrap_update_packets_behind"] == 1
        assert values["satrap_update_visible_seconds_count"] == 1
        assert (
            values["satrap_update_applied_rows_total"] == len(OF_SHARD[shard]) == values["satrap_table_rows"]
        )
        alarms = [sample.labels["code"] for sample in samples if sample.name == "satrap_update_alarm"]
        assert alarms == ["gap"]
        assert {sample.labels["replica_index"] for sample in samples} == {str(shard)}
        assert {sample.labels["namespace"] for sample in samples} == {"default"}


class _Management(management_pb2_grpc.ManagementAPIsServiceServicer):
    """Serving with one model, whose version 2 answers and needs sequence 5."""

    def ListModels(self, request, context):
        return management_pb2.ManagementResponse(
            msg='{"models": [{"modelName": "ctr", "modelUrl": "ctr.mar"}]}'
        )

    def DescribeModel(self, request, context):
        version = {"modelName": "ctr", "modelVersion": "2", "minWorkers": 1, "maxWorkers": 1}
        return management_pb2.ManagementResponse(
            msg=json.dumps([{**version, "sparseSequence": 5, "sparseReached": True}])
        )


@pytest.fixture
def management():
    server = grpc.server(futures.ThreadPoolExecutor(2))
    management_pb2_grpc.add_ManagementAPIsServiceServicer_to_server(_Management(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_not_below_what_a_dense_version_needs(tmp_path, table_directory, management):
    flags = ("--packets", tmp_path, "--table-directory", table_directory, "--stream", "main")
    flags = (*flags, "--management", management, "--why", "w")
    result = run("rollback", "--to", 4, *flags)
    assert result.exit_code == 1 and "ctr 2 needs sequence 5" in result.output and "--force" in result.output
    assert list(tmp_path.glob("hold*")) == []
    assert run("rollback", "--to", 5, *flags).exit_code == 0
    result = run("rollback", "--to", 4, "--force", *flags)
    assert result.exit_code == 0 and "forced: ctr 2 needs sequence 5" in result.output
    assert "in place of the hold through 5" in result.output
    assert read_hold(open_storage(tmp_path), "main").keep_through == 4
