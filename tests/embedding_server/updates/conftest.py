"""A directory of packets, and a real server that follows it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from packet_files import DIM, Packets
from pipelines import Pipelines

from satrap.config import UpdatesConfig
from satrap.protos import embedding_pb2 as pb


@pytest.fixture(scope="module")
def pipelines() -> Iterator[Pipelines]:
    """A warm process that forks pipelines, for as long as a module's tests run."""
    started = Pipelines()
    yield started
    started.close()


@pytest.fixture
def packets(tmp_path: Path) -> Packets:
    """An empty directory of packets."""
    directory = tmp_path / "packets"
    directory.mkdir()
    return Packets(directory)


class FollowingServer:
    """A server that follows, asked the way an operator asks."""

    def __init__(self, server, packets: Packets) -> None:
        self.server, self.packets = server, packets

    def follow(self) -> pb.UpdateStatus:
        """Let it look now, and say how far it is."""
        self.server.stub.FollowNow(pb.FollowNowRequest(), timeout=20)
        return self.server.status().updates

    def follow_until(self, done: Callable[[pb.UpdateStatus], bool]) -> pb.UpdateStatus:
        """Look again and again."""
        deadline = time.monotonic() + 20
        while not done(status := self.follow()):
            assert time.monotonic() < deadline, status
        return status

    def wait_until(self, done: Callable[[pb.UpdateStatus], bool]) -> pb.UpdateStatus:
        """Ask how far it is, without telling it to look."""
        deadline = time.monotonic() + 20
        while not done(status := self.server.status().updates):
            assert time.monotonic() < deadline, status
        return status

    def value(self, dim: int = DIM) -> float | None:
        """The one value that all rows have; None if none is there."""
        (group,) = self.server.lookup((dim, self.packets.signs)).groups
        absent = group.missing + group.dim_mismatch
        if absent == len(self.packets.signs):
            return None
        assert absent == 0
        (value,) = set(np.frombuffer(group.rows, np.float32))
        return float(value)

    def codes(self) -> list[str]:
        """Of the alarms."""
        return [alarm.code for alarm in self.follow().alarms]

    def ready(self) -> bool:
        """What its health says."""
        stub = health_pb2_grpc.HealthStub(self.server.channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def quarantine(self, action: str, name: str = "") -> list[pb.QuarantineRecord]:
        """list, retry or drop."""
        request = pb.QuarantineRequest(action=f"ACTION_{action.upper()}", name=name)
        return list(self.server.stub.Quarantine(request, timeout=20).records)


@pytest.fixture
def following(serve, packets) -> Iterator[Callable[..., FollowingServer]]:
    """following(config of updates, **settings) -> FollowingServer, of the directory `packets`."""

    def start(config: dict | None = None, **settings: object) -> FollowingServer:
        updates = UpdatesConfig(**{"poll_seconds": 0.05, "gap_alarm_seconds": 0.0, **(config or {})})
        server = serve(**{"packets": str(packets.directory), "updates": updates, **settings})
        assert server.failure is None, server.failure
        return FollowingServer(server, packets)

    return start
