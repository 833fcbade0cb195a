"""The process: its ready line, health, sockets, the end, and a death."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import satrap.embedding_server.loading as loading
from satrap import rpc
from satrap.embedding_server import EmbeddingServerSettings, run
from satrap.errors import UnavailableError
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc

SERVICE = "satrap.embedding.v1.EmbeddingService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(channel: grpc.Channel, service: str) -> int:
    return (
        health_pb2_grpc.HealthStub(channel)
        .Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        .status
    )


def test_ready_line(serve, persia_data):
    server = serve(checkpoint=persia_data / "ckpt_2x4", replica_index=1, replica_size=2)
    (line,) = server.lines
    assert re.fullmatch(r"satrap embedding-server ready on 127\.0\.0\.1:\d+: shard 1 of 2, 176 rows", line)
    assert server.progress[-1] == (pytest.approx(1), 176)


def test_ready_and_empty_without_a_checkpoint(serve):
    server = serve()
    assert server.lines[0].endswith("shard 0 of 1, 0 rows")
    status = server.status()
    assert (status.state, status.progress, status.checkpoint, list(status.tables)) == (
        pb.STATE_READY,
        1,
        "",
        [],
    )
    (group,) = server.lookup((8, [1, 2])).groups
    assert (group.missing, group.rows) == (2, bytes(64))


def test_status_counts_everything(serve, persia_data):
    status = serve(checkpoint=persia_data / "ckpt_2x4", row_dtype="float16").status()
    assert [(t.dim, t.dtype, t.rows) for t in status.tables] == [
        (dim, pb.DTYPE_FLOAT16, rows) for dim, rows in ((8, 138), (16, 153), (32, 143))
    ]
    assert all(t.bytes >= t.rows * (8 + 2 * t.dim) for t in status.tables)
    assert status.checkpoint == str(persia_data / "ckpt_2x4") and status.version


def test_health_follows_the_load(persia_data, monkeypatch, refused, table_directory):
    reached, opened, stop = threading.Event(), threading.Event(), threading.Event()
    listening, ready, real = [], [], loading.load_file
    listen = rpc.listen

    def note(server: grpc.Server, address: str, tls: object = None) -> int:
        listening.append(listen(server, address, tls))
        return listening[-1]

    def wait(*arguments: object, **options: object) -> int:
        reached.set()
        assert opened.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(loading, "load_file", wait)
    monkeypatch.setattr(rpc, "listen", note)
    settings = EmbeddingServerSettings(
        port=0, checkpoint=persia_data / "ckpt_2x4", table_directory=table_directory
    )
    is_ready = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(run, settings, stop, lambda line: (ready.append(line), is_ready.set()))
        assert reached.wait(30)
        with rpc.channel(f"127.0.0.1:{listening[0]}") as channel:
            assert health_of(channel, "") == health_of(channel, SERVICE) == NOT_SERVING
            stub = pb_grpc.EmbeddingServiceStub(channel)
            status = stub.Status(pb.StatusRequest(), timeout=20)
            assert status.state == pb.STATE_LOADING and status.progress == pytest.approx(0.5, abs=0.01)
            code, details = refused(lambda: stub.Lookup(pb.LookupRequest(replica_size=1), timeout=20))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "embedding shard 0 of 1" in details and re.search(r"(49|50)%, 0 of 8 files", details)
            assert ready == []
            opened.set()
            assert is_ready.wait(30)
            assert health_of(channel, "") == health_of(channel, SERVICE) == SERVING
            assert len(stub.Lookup(pb.LookupRequest(replica_size=1), timeout=20).groups) == 0
        stop.set()
        served.result(30)
    assert len(ready) == 1


def test_unix_socket_beside_the_port(serve, persia_data, tmp_path, contents_of):
    path = tmp_path / "shard.sock"
    server = serve(checkpoint=persia_data / "ckpt_1x1", unix_address=f"unix:{path}")
    signs = contents_of("ckpt_1x1")["sign"]
    request = pb.LookupRequest(replica_size=1, groups=[pb.SignGroup(dim=8, signs=signs.tobytes())])
    with rpc.channel(f"unix:{path}") as channel:
        answer = pb_grpc.EmbeddingServiceStub(channel).Lookup(request, timeout=20)
    assert answer == server.lookup((8, signs))


def test_a_port_that_is_taken(serve):
    taken = int(serve().address.rpartition(":")[2])
    failed = serve(port=taken)
    assert isinstance(failed.failure, UnavailableError)
    assert f"cannot listen on 127.0.0.1:{taken}" in str(failed.failure)


def test_stop_ends_every_call_one_way_or_the_other(serve, persia_data):
    server = serve(checkpoint=persia_data / "ckpt_1x1")
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(server.lookup, (8, range(5000))) for _ in range(16)]
        calls[0].result()
        server.stop.set()
        failures = [error for call in calls if (error := call.exception()) is not None]
    assert all(isinstance(rpc.error_from_rpc(error), UnavailableError) for error in failures)


@pytest.mark.slow
class TestRealProcess:
    def start(self, satrap, checkpoint, port=0):
        return satrap(
            "embedding-server",
            "--checkpoint",
            checkpoint,
            "--replica-index",
            "1",
            "--replica-size",
            "2",
            "--port",
            port,
        )

    def test_killed_and_started_again(self, satrap, persia_data, refused, rows_of, contents_of):
        contents = contents_of("ckpt_2x4")
        chosen = np.flatnonzero((contents["replica"] == 1) & (contents["dim"] == 8))
        values = np.split(contents["values"], contents["offsets"][1:-1])
        request = pb.LookupRequest(
            replica_index=1,
            replica_size=2,
            groups=[pb.SignGroup(dim=8, signs=contents["sign"][chosen].tobytes())],
        )
        first = self.start(satrap, persia_data / "ckpt_2x4")
        (address,) = first.addresses
        with rpc.channel(address) as channel:
            stub = pb_grpc.EmbeddingServiceStub(channel)
            answer = stub.Lookup(request, timeout=20)
            assert rows_of(answer.groups[0]).tobytes() == np.stack([values[i] for i in chosen]).tobytes()
            first.kill()
            code, _ = refused(lambda: stub.Lookup(request, timeout=20))
            assert code is grpc.StatusCode.UNAVAILABLE
            self.start(satrap, persia_data / "ckpt_2x4", address.rpartition(":")[2])
            assert stub.Lookup(request, timeout=20, wait_for_ready=True) == answer

    def test_sigterm_is_a_clean_exit(self, satrap, persia_data):
        assert self.start(satrap, persia_data / "ckpt_2x4").stop() == 0
