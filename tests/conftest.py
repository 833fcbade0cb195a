"""What every test may ask for."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import hypothesis
import pytest
import trustme

from satrap import rpc
from satrap.protos import embedding_pb2, embedding_pb2_grpc
from satrap.tls import Tls


def pytest_configure() -> None:
    """No property is about how long an example takes, which depends on what else the machine does."""
    hypothesis.settings.register_profile("satrap", deadline=None)
    hypothesis.settings.load_profile("satrap")


@pytest.fixture(scope="session")
def persia_data() -> Path:
    """The folder of bytes that PERSIA's own code wrote."""
    return Path(__file__).parent / "data" / "persia"


@pytest.fixture(scope="session", autouse=True)
def _session_tables() -> Iterator[Path]:
    """Whatever a test starts without a table directory of its own keeps its tables here, not where the user's are."""
    with tempfile.TemporaryDirectory(prefix="satrap-tests-", dir=_shared_memory()) as folder:
        before = os.environ.get("SATRAP_TABLE_DIRECTORY")
        os.environ["SATRAP_TABLE_DIRECTORY"] = folder
        yield Path(folder)
        if before is None:
            del os.environ["SATRAP_TABLE_DIRECTORY"]
        else:
            os.environ["SATRAP_TABLE_DIRECTORY"] = before


def _shared_memory() -> Path | None:
    """Where tables are fast; None: the usual temporary directory."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else None


@pytest.fixture
def table_directory(_session_tables: Path) -> Iterator[Path]:
    """A table directory of the test's own."""
    folder = Path(tempfile.mkdtemp(dir=_session_tables))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Command:
    """A running `satrap` command: its process, its ready line, and what it logs."""

    process: subprocess.Popen[str]
    line: str
    log: Path

    @property
    def addresses(self) -> list[str]:
        """Every host:port of the ready line, in order."""
        return re.findall(r"[\w.]+:\d+", self.line)

    def stop(self) -> int:
        """SIGTERM, wait, and the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(60)


def _free_ports(arguments: Sequence[str | Path]) -> list[str]:
    """Flags that let the kernel pick the REST ports of a serving that does not name them."""
    if arguments[0] not in ("serving", "up"):
        return []
    flags = ("--rest-inference-port", "--rest-management-port", "--metrics-port")
    return [word for flag in flags if flag not in arguments for word in (flag, "0")]


class Commands:
    """Starts commands and stops what is left of them."""

    def __init__(self, folder: Path, tables: Path) -> None:
        self._folder = folder
        self._tables = tables
        self._running: list[Command] = []

    def __call__(
        self, *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> Command:
        """Start `satrap ARGUMENTS` and wait for its ready line; a command that ends instead fails the test.

        Each has a table directory of its own, unless the arguments or `env` name one.
        """
        env = dict(os.environ if env is None else env)
        if env.get("SATRAP_TABLE_DIRECTORY") in (None, str(self._tables)):
            env["SATRAP_TABLE_DIRECTORY"] = tempfile.mkdtemp(dir=self._tables)
        arguments = (*arguments, *_free_ports(arguments))
        log = self._folder / f"command-{len(self._running)}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "satrap.cli", *map(str, arguments), "--exit-with-parent"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=env,
                cwd=cwd,
            )
        command = Command(process, "", log)
        self._running.append(command)
        command.line = process.stdout.readline().strip()
        if not command.line:
            pytest.fail(f"satrap {arguments[0]} did not become ready:\n{log.read_text()}")
        return command

    def close(self) -> None:
        """Stop everything, in reverse order."""
        for command in reversed(self._running):
            if command.process.poll() is None:
                command.process.terminate()
                try:
                    command.process.wait(60)
                except subprocess.TimeoutExpired:
                    command.kill()
            for pipe in (command.process.stdin, command.process.stdout):
                pipe.close()


@pytest.fixture
def satrap(tmp_path: Path, _session_tables: Path) -> Iterator[Commands]:
    """Start `satrap` commands as a user does; they are stopped at the end of the test."""
    commands = Commands(tmp_path, _session_tables)
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def satrap_module(tmp_path_factory: pytest.TempPathFactory, _session_tables: Path) -> Iterator[Commands]:
    """The same, for all tests of a module."""
    commands = Commands(tmp_path_factory.mktemp("commands"), _session_tables)
    yield commands
    commands.close()


class FakeShard(embedding_pb2_grpc.EmbeddingServiceServicer):
    """An embedding server whose rows are zeros, and that is as far with its trainer's packets as the test says."""

    def __init__(self, index: int, size: int) -> None:
        self.index, self.size = index, size
        self.age_ms: int | None = None  # of the newest event; None: not known
        self.sequence: int | None = None  # None: it follows no packets
        self.state, self.message = embedding_pb2.STATE_READY, ""
        self.asked = 0  # for its status
        self._server = rpc.server(2)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{rpc.listen(self._server, '127.0.0.1:0')}"
        self._server.start()

    def Lookup(
        self, request: embedding_pb2.LookupRequest, context: grpc.ServicerContext
    ) -> embedding_pb2.LookupResponse:
        return embedding_pb2.LookupResponse(
            groups=[
                embedding_pb2.RowGroup(
                    dim=group.dim, dtype=1, rows=bytes(len(group.signs) // 8 * group.dim * 4)
                )
                for group in request.groups
            ],
            newest_event_ns=0 if self.age_ms is None else time.time_ns() - self.age_ms * 1_000_000,
        )

    def Status(
        self, request: embedding_pb2.StatusRequest, context: grpc.ServicerContext
    ) -> embedding_pb2.StatusResponse:
        self.asked += 1
        status = embedding_pb2.StatusResponse(
            state=self.state, message=self.message, replica_index=self.index, replica_size=self.size
        )
        if self.sequence is not None:
            status.updates.format = "satrap"
            status.updates.applied_sequence = self.sequence
        return status

    def stop(self) -> None:
        self._server.stop(0).wait()


@pytest.fixture
def fake_shards() -> Iterator[Callable[[int], list[FakeShard]]]:
    """fake_shards(how many) -> embedding servers on ports of the kernel's choice; they are stopped at the end."""
    with _fake_shards() as start:
        yield start


@pytest.fixture(scope="module")
def fake_shards_module() -> Iterator[Callable[[int], list[FakeShard]]]:
    """The same, for all tests of a module."""
    with _fake_shards() as start:
        yield start


@contextmanager
def _fake_shards() -> Iterator[Callable[[int], list[FakeShard]]]:
    started: list[FakeShard] = []

    def start(size: int) -> list[FakeShard]:
        started.extend(FakeShard(index, size) for index in range(size))
        return started[-size:]

    yield start
    for shard in started:
        shard.stop()


@dataclass(frozen=True)
class Certificates:
    """PEM files: ours and a stranger's, each of an authority of its own, for 127.0.0.1 and localhost.

    `elsewhere` is of our authority, for another host.
    """

    ours: Tls
    strangers: Tls
    elsewhere: Tls

    @property
    def only_authority(self) -> Tls:
        """What a client has that shows no certificate."""
        return Tls(authority=self.ours.authority)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates made on the spot."""
    folder = tmp_path_factory.mktemp("certificates")

    def made(who: str, authority: trustme.CA, *hosts: str) -> Tls:
        pair = authority.issue_cert(*hosts)
        tls = Tls(*(str(folder / f"{who}-{part}.pem") for part in ("certificate", "key", "authority")))
        for pem in pair.cert_chain_pems:
            pem.write_to_path(tls.certificate, append=True)
        pair.private_key_pem.write_to_path(tls.private_key)
        authority.cert_pem.write_to_path(tls.authority)
        return tls

    our_authority, local = trustme.CA(), ("127.0.0.1", "localhost")
    return Certificates(
        made("our", our_authority, *local),
        made("stranger", trustme.CA(), *local),
        made("elsewhere", our_authority, "elsewhere.example"),
    )


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """moto's server, and the environment that leads s3fs to it."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # of whom an earlier test reached elsewhere
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield f"http://{host}:{port}"
    server.stop()
    S3FileSystem.clear_instance_cache()
