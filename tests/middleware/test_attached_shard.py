"""A shard of this machine with real servers: rows from its table, and what happens when server or table goes."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from satrap import rpc
from satrap._core.table import TableGeneration
from satrap.embedding_server import EmbeddingServerSettings
from satrap.embedding_server import run as run_embedding_server
from satrap.errors import ShardMismatchError, ShardUnavailableError
from satrap.middleware import MiddlewareClient
from satrap.middleware.attached_shard import AttachedShard
from satrap.middleware.shards import LookupTotals, RpcShard
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc

DIM = 8
OLDER, NEWER = "ckpt_1x1", "ckpt_2x4"


class ByRpc:
    """Counts what is asked by gRPC."""

    def __init__(self, shard: RpcShard) -> None:
        self.shard, self.asked = shard, 0
        self.replica_index, self.address = shard.replica_index, shard.address

    def ask(self, groups):
        self.asked += 1
        return self.shard.ask(groups)

    def state(self, timeout):
        return self.shard.state(timeout)

    def close(self) -> None:
        self.shard.close()


@pytest.fixture
def connect():
    """connect(address) -> (the shard, its RPC); nothing is tended but by the test."""
    opened: list[AttachedShard] = []

    def make(address: str, *, size: int = 1, grace: float = 5.0, timeout: float = 10.0):
        shard = RpcShard(0, size, address, timeout)
        by_rpc = ByRpc(shard)
        opened.append(AttachedShard(shard, by_rpc, grace, lambda: None))
        return opened[-1], by_rpc

    yield make
    for shard in opened:
        shard.close()


@pytest.fixture
def contents(persia_data):
    with np.load(persia_data / f"{OLDER}_contents.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def groups(contents):
    return [(DIM, contents["sign"].tobytes())]


@pytest.fixture
def start(satrap, persia_data, table_directory):
    """start(port) -> a server of the older checkpoint, in a process of its own; its tables are always the same ones."""

    def make(port: str = "0", *more: str | Path):
        checkpoint = persia_data / OLDER
        arguments = ("--port", port, "--checkpoint", checkpoint, "--table-directory", table_directory, *more)
        return satrap("embedding-server", *arguments)

    return make


@pytest.fixture
def address(serve, persia_data, table_directory) -> str:
    """A server of the older checkpoint in this process."""
    settings = EmbeddingServerSettings(
        port=0, checkpoint=persia_data / OLDER, table_directory=table_directory
    )
    return serve(run_embedding_server, settings).address


def status_of(address: str) -> pb.StatusResponse:
    with rpc.channel(address) as channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        return stub.Status(pb.StatusRequest(), wait_for_ready=True, timeout=20)


def load(address: str, checkpoint: Path) -> None:
    with rpc.channel(address) as channel:
        request = pb.LoadCheckpointRequest(path=str(checkpoint))
        list(pb_grpc.EmbeddingServiceStub(channel).LoadCheckpoint(request))


def is_mapped(folder: str) -> bool:
    """Whether this process has mapped files of a folder for reading alone."""
    return any(folder in line and "r--s" in line for line in Path("/proc/self/maps").read_text().splitlines())


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestRows:
    def test_are_those_of_the_rpc_bit_for_bit(self, address, connect, contents):
        shard, by_rpc = connect(address)
        signs = np.concatenate([contents["sign"], np.array([1, 2], np.uint64)])
        groups = [(DIM, signs.tobytes()), (16, contents["sign"][:3].tobytes()), (DIM, b"")]
        expected = shard.ask(groups).result()
        assert by_rpc.asked == 1
        assert shard.state(1.0).way == "attached"
        answer = shard.ask(groups)
        assert answer.result() == expected
        assert not answer.is_stale
        assert by_rpc.asked == 1
        values = np.frombuffer(expected[0][1], np.float32)
        np.testing.assert_array_equal(values[: len(contents["sign"]) * DIM], contents["values"])
        np.testing.assert_array_equal(values[-2 * DIM :], 0)

    @pytest.mark.parametrize("row_dtype", ["float32", "float16"])
    def test_golden_batches_are_answered_as_by_rpc(
        self, golden, shards, open_middleware, assert_golden, row_dtype
    ):
        addresses = shards(golden.folder / "ckpt", golden.replica_size, row_dtype=row_dtype)
        attached = open_middleware(golden.config, addresses)
        by_rpc = open_middleware(golden.config, addresses, local=False)
        attached.wait_ready(10)
        assert [state.way for state in attached.states()] == ["attached"] * golden.replica_size
        assert [state.way for state in by_rpc.states()] == ["rpc: turned off"] * golden.replica_size
        mine, theirs = attached.lookup(golden.batch), by_rpc.lookup(golden.batch)
        for left, right in zip(mine, theirs, strict=True):
            assert left.values.tobytes() == right.values.tobytes()
        if row_dtype == "float32":
            assert_golden(golden, mine)
        asked = sum(state.attached.lookups for state in attached.states())
        assert asked == sum(status_of(each).lookups for each in addresses) > 0

    def test_are_counted_here_and_not_by_the_server(self, address, connect, contents):
        shard, _ = connect(address)
        shard.state(1.0)
        before = status_of(address)
        groups = [(DIM, np.array([1, 2, 3], np.uint64).tobytes()), (16, contents["sign"][:4].tobytes())]
        for _ in range(3):
            shard.ask(groups).result()
        assert shard.state(1.0).attached == LookupTotals(lookups=21, missing=9, dim_mismatch=12)
        after = status_of(address)
        assert (before.lookups, before.missing) == (after.lookups, after.missing)

    def test_for_many_threads(self, address, connect, contents):
        shard, by_rpc = connect(address)
        shard.state(1.0)
        table = contents["values"].reshape(-1, DIM)
        wrong: list[int] = []

        def ask(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(300):
                chosen = random.integers(0, len(table), 50)
                ((_, values),) = shard.ask([(DIM, contents["sign"][chosen].tobytes())]).result()
                if values != table[chosen].tobytes():
                    wrong.append(seed)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert by_rpc.asked == 0
        assert shard.state(1.0).attached.lookups == 4 * 300 * 50


class TestAttaching:
    def test_nobody_waits_for_it(self, address, connect, groups):
        shard, by_rpc = connect(address)
        assert shard.way == "rpc: not attached yet"
        shard.ask(groups).result()
        assert by_rpc.asked == 1
        shard.tend()
        assert shard.way == "attached"
        shard.ask(groups).result()
        assert by_rpc.asked == 1

    def test_a_middleware_does_it_in_the_background(self, two_shards, shards, open_middleware):
        middleware = open_middleware(two_shards.config, shards(two_shards.folder / "ckpt", 2))
        middleware.start()
        wait_until(lambda: all(shard.way == "attached" for shard in middleware._shards))

    def test_a_server_that_loads_is_said_to(self, connect, fake):
        fake.status.message = "loading /data/ckpt: 43%"
        shard, _ = connect(fake.address)
        shard.tend()
        assert shard.way == "rpc: loading /data/ckpt: 43%"

    def test_nobody_there(self, connect):
        shard, _ = connect("127.0.0.1:1")
        shard.tend()
        assert shard.way.startswith("rpc: cannot be reached")

    def test_another_shard_than_meant_is_not_attached(self, address, connect, groups):
        shard, _ = connect(address, size=2)
        shard.tend()
        assert shard.way == "rpc: it is shard 0 of 1"
        with pytest.raises(ShardMismatchError, match="shard 0 of 1"):
            shard.ask(groups).result()
        with pytest.raises(ShardMismatchError):
            shard.state(1.0)
        assert shard.way.startswith("rpc: ")

    def test_closed(self, address, connect, groups):
        shard, _ = connect(address)
        folder = status_of(address).table_path
        shard.state(1.0)
        begun = shard.ask(groups)
        assert is_mapped(folder)
        shard.close()
        assert not is_mapped(folder)
        for answer in (begun, None):
            with pytest.raises(ShardUnavailableError, match="closed"):
                (answer or shard.ask(groups)).result()
        shard.tend()
        assert shard.way.startswith("rpc: ")


class Fake(pb_grpc.EmbeddingServiceServicer):
    """A server whose status the test writes; it answers lookups with nothing but their number."""

    def __init__(self) -> None:
        self.address = ""
        self.status = pb.StatusResponse(state=pb.STATE_READY, replica_index=0, replica_size=1)
        self.newest_event_ns = 0

    def Status(self, request, context):
        return self.status

    def Lookup(self, request, context):
        return pb.LookupResponse(
            groups=[pb.RowGroup(dtype=1, rows=b"rpc") for _ in request.groups],
            newest_event_ns=self.newest_event_ns,
        )


@pytest.fixture
def fake():
    servicer = Fake()
    server = rpc.server(2)
    pb_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{rpc.listen(server, '127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(0).wait()


@pytest.fixture
def generation(table_directory):
    boot = bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))
    made = TableGeneration.create(
        str(table_directory / "generation"),
        instance=bytes(range(16)),
        boot_id=boot,
        replica_index=0,
        replica_size=1,
        info=b"",
    )
    table = made.add_table(DIM, "float32", 10)
    table.upsert(np.array([1], np.uint64), np.ones((1, DIM), np.float32))
    made.serve()
    yield made
    made.close()


class TestRefused:
    """Each is asked by RPC, with the reason kept, and attached once it is right."""

    SIGN = ((DIM, np.array([1], np.uint64).tobytes()),)

    @pytest.fixture
    def shard(self, fake, generation, connect):
        fake.status.table_path = generation.folder
        fake.status.instance_id = generation.instance_id
        fake.status.server_uid = os.geteuid()
        return connect(fake.address)[0]

    def test_the_time_of_the_newest_event_is_the_tables(self, shard, generation):
        self.check_recovers(shard)
        answer = shard.ask(self.SIGN)
        answer.result()
        assert answer.newest_event_ns == 0
        for event_ns in (17, 1_800_000_000_000_000_000):
            generation.set_applied(event_ns % 1000 + 1, event_ns)
            answer = shard.ask(self.SIGN)
            answer.result()
            assert answer.newest_event_ns == event_ns

    def test_the_time_of_an_answer_by_rpc_is_the_servers(self, shard, fake, generation):
        self.check_recovers(shard)
        fake.newest_event_ns = 18
        generation.set_applied(1, 17)
        begun = shard.ask(self.SIGN)
        fake.status.table_path = ""
        shard._reader.close()
        assert begun.result() == [(1, b"rpc")]
        assert begun.newest_event_ns == 18

    def check(self, shard, reason: str) -> None:
        for ask in (shard.tend, lambda: shard.state(1.0)):
            ask()
            assert shard.way.startswith("rpc: ")
            assert reason in shard.way
            assert shard.ask(self.SIGN).result() == [(1, b"rpc")]

    def check_recovers(self, shard) -> None:
        def is_attached() -> bool:
            shard.tend()
            return shard.way == "attached"

        wait_until(is_attached)
        assert shard.ask(self.SIGN).result() == [(1, np.ones(DIM, np.float32).tobytes())]

    def test_another_instance(self, shard, fake, generation):
        fake.status.instance_id = bytes(16)
        self.check(shard, "of another instance")
        fake.status.instance_id = generation.instance_id
        self.check_recovers(shard)

    def test_a_path_that_is_not_here(self, shard, fake, generation):
        fake.status.table_path += "-elsewhere"
        self.check(shard, "No such file")
        fake.status.table_path = generation.folder
        self.check_recovers(shard)

    def test_symbolic_links(self, shard, generation):
        control = Path(generation.folder, "control")
        moved = control.rename(control.with_name("moved"))
        control.symlink_to(moved)
        self.check(shard, "control: refused")
        control.unlink()
        moved.rename(control)
        self.check_recovers(shard)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_another_owner(self, shard, fake, generation):
        fake.status.server_uid = 12345
        os.chown(Path(generation.folder, "control"), 54321, -1)
        self.check(shard, "belongs to user 54321")
        os.chown(Path(generation.folder, "control"), 12345, -1)
        self.check_recovers(shard)

    @pytest.mark.parametrize("size", [0, 40, 5000])
    def test_a_cut_control_file(self, shard, generation, size):
        control = Path(generation.folder, "control")
        whole = control.rename(control.with_name("whole"))
        control.write_bytes(whole.read_bytes()[:size])
        self.check(shard, "control: has")
        whole.rename(control)
        self.check_recovers(shard)

    def test_a_damaged_control_file(self, shard, generation):
        control = Path(generation.folder, "control")
        whole = control.rename(control.with_name("whole"))
        damaged = bytearray(whole.read_bytes())
        damaged[20] ^= 1
        control.write_bytes(damaged)
        self.check(shard, "checksum is wrong")
        whole.rename(control)
        self.check_recovers(shard)

    def test_a_cut_segment(self, shard, generation):
        (segment,) = Path(generation.folder).glob("*/segment-*")
        whole = segment.rename(segment.with_name("whole"))
        segment.write_bytes(whole.read_bytes()[:-1])
        self.check(shard, segment.name)
        whole.rename(segment)
        self.check_recovers(shard)


@pytest.mark.slow
class TestServerThatGoes:
    def test_killed_is_stale_then_an_error_and_live_again_after_a_restart(
        self, start, connect, groups, contents
    ):
        server = start()
        shard, by_rpc = connect(server.addresses[0], grace=1.5)
        first = status_of(server.addresses[0])
        shard.state(1.0)
        server.kill()
        killed = time.monotonic()
        wait_until(lambda: shard.ask(groups).is_stale)
        assert time.monotonic() - killed < 0.7
        answer = shard.ask(groups)
        assert answer.result() == [(1, contents["values"].tobytes())]
        assert answer.is_stale
        assert by_rpc.asked == 0
        assert shard.way == "attached"

        wait_until(lambda: shard.way != "attached")
        assert 1.0 < time.monotonic() - killed < 3.0
        assert shard.way.startswith("rpc: the server has been silent for")
        with pytest.raises(ShardUnavailableError, match=f"embedding shard 0 of 1 at {server.addresses[0]}"):
            shard.ask(groups).result()
        shard.tend()  # nobody there: the table is kept
        assert is_mapped(first.table_path)

        again = start(server.addresses[0].rpartition(":")[2])
        assert status_of(again.addresses[0]).instance_id == first.instance_id
        asked = by_rpc.asked
        answer = shard.ask(groups)
        assert answer.result() == [(1, contents["values"].tobytes())]
        assert not answer.is_stale
        assert by_rpc.asked == asked
        assert shard.way == "attached"

    def test_stopped_is_stale_then_by_rpc_which_waits_for_it(self, start, connect, groups):
        server = start()
        shard, _ = connect(server.addresses[0], grace=2.0, timeout=0.5)
        shard.state(1.0)
        server.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
        try:
            wait_until(lambda: shard.ask(groups).is_stale)
            wait_until(lambda: shard.way != "attached")
            with pytest.raises(ShardUnavailableError, match=r"no answer within 0\.5 s"):
                shard.ask(groups).result()
        finally:
            server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: shard.way == "attached")
        assert not shard.ask(groups).is_stale

    def test_purged_is_given_up(self, start, connect, groups):
        server = start("0", "--purge")
        shard, _ = connect(server.addresses[0])
        folder = status_of(server.addresses[0]).table_path
        shard.state(1.0)
        assert server.stop() == 0
        with pytest.raises(ShardUnavailableError):
            shard.ask(groups).result()
        shard.tend()
        assert not is_mapped(folder)

    def test_restarted_with_another_checkpoint(self, satrap, start, connect, persia_data, table_directory):
        server = start()
        shard, _ = connect(server.addresses[0])
        shard.state(1.0)
        server.kill()
        port = server.addresses[0].rpartition(":")[2]
        checkpoint = persia_data / NEWER
        satrap(
            "embedding-server",
            *("--port", port, "--checkpoint", checkpoint, "--table-directory", table_directory),
        )
        with np.load(persia_data / f"{NEWER}_contents.npz") as newer:
            sign, values = newer["sign"][:1], newer["values"][: int(newer["dim"][0])]

        def is_attached() -> bool:
            shard.tend()
            return shard.way == "attached"

        wait_until(is_attached)
        assert shard.ask([(len(values), sign.tobytes())]).result() == [(1, values.tobytes())]


class TestSupersededTable:
    def test_is_left_at_once_and_the_next_one_attached(self, address, connect, groups, contents, persia_data):
        shard, by_rpc = connect(address)
        older = status_of(address)
        shard.state(1.0)
        load(address, persia_data / NEWER)
        newer = status_of(address)
        assert newer.instance_id != older.instance_id
        expected = by_rpc.shard.ask(groups).result()
        assert shard.ask(groups).result() == expected  # by RPC
        assert by_rpc.asked == 1
        assert shard.way == "rpc: the table was superseded"
        shard.tend()
        assert shard.way == "attached"
        assert shard.ask(groups).result() == expected
        assert by_rpc.asked == 1
        assert is_mapped(newer.table_path)
        wait_until(lambda: not is_mapped(older.table_path))

    def test_is_not_kept_by_a_middleware_that_nobody_asks(
        self, serve, two_shards, open_middleware, table_directory
    ):
        settings = EmbeddingServerSettings(
            port=0, checkpoint=two_shards.folder / "ckpt", replica_size=1, table_directory=table_directory
        )
        address = serve(run_embedding_server, settings).address
        middleware = open_middleware(two_shards.config, [address])
        middleware.wait_ready(10)
        older = status_of(address).table_path
        assert is_mapped(older)
        load(address, two_shards.folder / "ckpt")
        wait_until(lambda: not is_mapped(older) and is_mapped(status_of(address).table_path))

    def test_lookups_never_fail_while_it_is_replaced(self, address, connect, groups, persia_data):
        shard, _ = connect(address)
        shard.state(1.0)
        older = shard.ask(groups).result()
        checkpoint = persia_data / OLDER
        stopping = threading.Event()
        wrong: list[object] = []

        def ask() -> None:
            while not stopping.is_set():
                try:
                    if shard.ask(groups).result() != older:
                        wrong.append("other rows")
                except Exception as error:
                    wrong.append(error)

        def tend() -> None:
            while not stopping.is_set():
                shard.tend()
                stopping.wait(0.01)

        threads = [threading.Thread(target=target) for target in (ask, ask, tend)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            load(address, checkpoint)
        stopping.set()
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.slow
class TestStaleness:
    """What users of a middleware hear of it."""

    @pytest.fixture
    def server(self, satrap, two_shards, table_directory):
        return satrap(
            "embedding-server",
            *(
                "--port",
                "0",
                "--checkpoint",
                two_shards.folder / "ckpt",
                "--table-directory",
                table_directory,
            ),
        )

    def test_in_this_process(self, server, two_shards, open_middleware):
        middleware = open_middleware(two_shards.config, server.addresses, orphan_grace_seconds=60)
        middleware.wait_ready(10)
        fresh = middleware.lookup(two_shards.batch)
        assert not fresh.is_stale
        server.kill()
        wait_until(lambda: middleware.lookup(two_shards.batch).is_stale)
        first, second = middleware.lookup_many([two_shards.batch, two_shards.batch])
        assert first.is_stale
        assert second.is_stale
        for left, right in zip(fresh, first, strict=True):
            assert left.values.tobytes() == right.values.tobytes()
        (state,) = middleware.states()
        assert not state.ready
        assert state.way == "attached"

    def test_through_a_middleware_server(self, server, two_shards, middleware_server):
        running = middleware_server(two_shards.config, server.addresses, orphan_grace_seconds=60)
        client = MiddlewareClient([running.address])
        try:
            client.wait_ready(10)
            assert not client.lookup(two_shards.batch).is_stale
            server.kill()
            wait_until(lambda: client.lookup(two_shards.batch).is_stale)
            assert all(each.is_stale for each in client.lookup_many([two_shards.batch, two_shards.batch]))
        finally:
            client.close()
        with rpc.channel(running.address) as channel:
            from satrap.protos import middleware_pb2, middleware_pb2_grpc

            stub = middleware_pb2_grpc.MiddlewareServiceStub(channel)
            _, call = stub.Lookup.with_call(middleware_pb2.LookupRequest(batch=two_shards.batch))
            assert ("satrap-stale", "1") in [tuple(item) for item in call.trailing_metadata()]
            (shard,) = stub.Status(middleware_pb2.StatusRequest()).shards
            assert shard.way == "attached"
            assert shard.attached.lookups > 0
