"""A checkpoint and packets that PERSIA's own code wrote, on any number of servers: exactly the rows of all of them."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from persia_packets import PersiaTrainer, rows_of
from typer.testing import CliRunner

from satrap import rpc
from satrap._core import ids
from satrap._core.table import TableGeneration, read_control
from satrap.cli.app import app
from satrap.config import UpdatesConfig
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc
from satrap.storage import Storage, open_storage

CHECKPOINT_ORDINAL = 1795175200 - 600
"""The least datetime of the markers, less the margin."""

Row = tuple[int, int, bytes]
"""dim, ordinal, bytes."""


def contents(path: Path) -> dict[int, tuple[int, bytes]]:
    with np.load(path) as arrays:
        rows = np.split(arrays["values"], arrays["offsets"][1:-1])
        return {
            int(sign): (int(dim), row.tobytes())
            for sign, dim, row in zip(arrays["sign"], arrays["dim"], rows, strict=True)
        }


@pytest.fixture(scope="session")
def expected(persia_data) -> dict[int, Row]:
    """What is in the checkpoint and, later ones winning, in the packets; those at ...30 and ...40 repeat the ones at
    ...10 and are older than those at ...20.
    """
    rows = {
        sign: (dim, CHECKPOINT_ORDINAL, row)
        for sign, (dim, row) in contents(persia_data / "ckpt_2x4_contents.npz").items()
    }
    for label, unix_seconds in (("00", 1795175300), ("10", 1795175302), ("20", 1795175304)):
        packet = contents(persia_data / f"inc_202601010000{label}_contents.npz")
        rows |= {sign: (dim, unix_seconds, row) for sign, (dim, row) in packet.items()}
    return rows


@pytest.fixture
def packets(persia_data, tmp_path) -> Path:
    """The packets, written long ago."""
    copy = tmp_path / "inc_dir"
    shutil.copytree(persia_data / "inc_dir", copy)
    for path in copy.rglob("*"):
        path.chmod(0o755)
        os.utime(path, (time.time() - 3600,) * 2)
    return copy


def stored(server) -> dict[int, Row]:
    """Every row of a server that has ended, with its ordinal."""
    (folder,) = server.settings.table_directory.glob("*/*/*/0*")
    generation = TableGeneration.recover(
        str(folder),
        boot_id=read_control(str(folder)).boot_id,
        replica_index=server.settings.replica_index,
        replica_size=server.settings.replica_size,
    )
    rows = {}
    for dim, table in generation.tables.items():
        start: int | None = 0
        while start is not None:
            signs, values, ordinals, start = table.scan(start)
            for sign, row, ordinal in zip(signs.tolist(), values, ordinals.tolist(), strict=True):
                rows[sign] = (dim, ordinal, row.tobytes())
    generation.close()
    return rows


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    "begin", ["packets there at the start", "packets come later", "packets come while it is down"]
)
def test_checkpoint_and_packets(serve, persia_data, packets, expected, size, begin):
    found: dict[int, Row] = {}
    away = packets.with_name("away")
    for index in range(size):
        settings = {
            "checkpoint": persia_data / "ckpt_2x4",
            "packets": str(packets),
            "updates": UpdatesConfig(poll_seconds=0.05, persia_unmarked_seconds=60),
            "replica_index": index,
            "replica_size": size,
        }
        if begin != "packets there at the start":
            packets.rename(away)
        server = serve(**settings)
        if begin == "packets come later":
            away.rename(packets)
        elif begin == "packets come while it is down":
            server.close()
            away.rename(packets)
            server = serve(**settings, table_directory=server.settings.table_directory)
            assert server.status().started == "warm"
        deadline = time.monotonic() + 20
        while (updates := follow(server)).quarantined_packets == 0:
            assert time.monotonic() < deadline
        assert (updates.applied_packets, updates.unmarked_packets) == (17, 2)
        assert (updates.format, updates.gap_detection) == ("persia", "none")
        assert (updates.applied_sequence, updates.newest_event_ns) == (1795175304, 1795175304 * 10**9)
        assert [alarm.code for alarm in updates.alarms] == ["quarantined"]
        (record,) = server.stub.Quarantine(pb.QuarantineRequest(), timeout=20).records
        assert record.name == "s0/inc_20260101000040/0_0.inc"
        server.close()
        own = stored(server)
        signs = np.array(list(own), np.uint64)
        assert (ids.farmhash64(signs) % np.uint64(size) == index).all()
        found |= own
    assert found == expected


def follow(server) -> pb.UpdateStatus:
    """Its status when nothing more can be applied."""
    server.stub.FollowNow(pb.FollowNowRequest(), timeout=30)
    return server.status().updates


def test_the_margin_decides_what_is_replayed(serve, persia_data, packets, expected):
    """Without one, and packets from before the checkpoint: they are not applied."""
    old = packets / "s0/inc_20260101000000/0_0.inc"
    data = old.read_bytes()
    old.write_bytes(data[:-8] + (1795175199).to_bytes(8, "little"))
    for margin, packets_applied in ((0, 16), (1, 17)):
        server = serve(
            checkpoint=persia_data / "ckpt_2x4",
            packets=str(packets),
            updates=UpdatesConfig(poll_seconds=0.05, persia_replay_margin_seconds=margin),
            namespace=f"margin{margin}",
        )
        assert follow(server).applied_packets == packets_applied


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def remote(request) -> Storage:
    """A folder that can only be polled."""
    if request.param == "memory":
        return open_storage("memory://persia-fixtures")
    request.getfixturevalue("s3_endpoint")
    import boto3

    boto3.client("s3").create_bucket(Bucket="persia-fixtures")
    return open_storage("s3://persia-fixtures/packets")


def test_from_a_storage_that_is_polled(serve, persia_data, expected, remote):
    for label in ("00", "10", "20"):
        for path in sorted((persia_data / "inc_dir").glob(f"s*/inc_202601010000{label}/*")):
            remote.publish(str(path.relative_to(persia_data / "inc_dir")), path.read_bytes(), replace=True)
    server = serve(
        checkpoint=persia_data / "ckpt_2x4", packets=remote.url, updates=UpdatesConfig(poll_seconds=0.05)
    )
    assert follow(server).applied_packets == 14
    server.close()
    assert stored(server) == expected


def test_seen_without_a_poll(serve, tmp_path):
    """Directories, files and markers as PERSIA makes them, one after the other."""
    trainer = PersiaTrainer(tmp_path / "packets")
    trainer.root.mkdir()
    server = serve(packets=str(trainer.root), updates=UpdatesConfig(poll_seconds=600))
    for second in range(1000, 1010):
        for shard in range(2):
            directory = f"s{shard}/inc_{second}"
            for file in range(3):
                trainer.write(directory, f"{shard}_{file}.inc", rows_of([second], 1.0), second)
            trainer.mark(directory)
        deadline = time.monotonic() + 20
        while server.status().updates.applied_packets < 6 * (second - 999):
            assert time.monotonic() < deadline


@pytest.mark.slow
def test_as_an_operator_sees_it(satrap, persia_data, packets, table_directory):
    command = satrap(
        *("embedding-server", "--port", "0", "--table-directory", table_directory),
        *("--checkpoint", persia_data / "ckpt_2x4", "--packets", packets),
    )
    with rpc.channel(command.addresses[0]) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        deadline = time.monotonic() + 20
        while not stub.Status(pb.StatusRequest(), timeout=20).updates.quarantined_packets:
            assert time.monotonic() < deadline
            stub.FollowNow(pb.FollowNowRequest(), timeout=20)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(
            app,
            [*arguments, "--shards", command.addresses[0]],
            env={"COLUMNS": "300"},
            catch_exceptions=False,
        )
        assert result.exit_code == 0, result.output
        return result.output

    said = run("status")
    assert "gap detection" in said and "none" in said and "quarantined" in said and "1,795,175,304" in said
    name = "s0/inc_20260101000040/0_0.inc"
    assert name in run("quarantine", "list") and "bad_persia_packet" in run("quarantine", "show", name)
    run("quarantine", "drop", name)
    deadline = time.monotonic() + 20
    while "was refused and the stream waits" in run("status"):
        assert time.monotonic() < deadline
