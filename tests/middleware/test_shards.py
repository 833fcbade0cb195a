"""A shard behind gRPC that does what no good server does: what the middleware makes of it."""

import threading

import grpc
import numpy as np
import pytest

from satrap import rpc
from satrap.errors import RemoteError, ShardMismatchError, ShardUnavailableError
from satrap.middleware.coalescing import CoalescingShard
from satrap.middleware.fanout import gather_rows
from satrap.middleware.shards import RpcShard
from satrap.protos import embedding_pb2 as pb
from satrap.protos import embedding_pb2_grpc as pb_grpc

LOADING = ShardUnavailableError(0, 1, "", "loading /data/ckpt: 43%, 3 of 7 files, 1,000 rows")


class Misbehaving(pb_grpc.EmbeddingServiceServicer):
    """Answers with what the test puts here; waits for `hold` if that is set."""

    def __init__(self) -> None:
        self.status = pb.StatusResponse(state=pb.STATE_READY, replica_index=0, replica_size=1)
        self.answer = pb.LookupResponse()
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.hold: threading.Event | None = None
        self.echo = False  # the signs are the rows
        self.calls: list[int] = []  # groups of each

    def Lookup(self, request, context):
        self.calls.append(len(request.groups))
        if self.hold:
            self.hold.wait(20)
        if self.error:
            context.abort(*self.error)
        if self.echo:
            return pb.LookupResponse(
                groups=[pb.RowGroup(dtype=1, rows=group.signs) for group in request.groups]
            )
        return self.answer

    def Status(self, request, context):
        return self.status


@pytest.fixture
def servicer():
    return Misbehaving()


@pytest.fixture
def shard(servicer):
    server = rpc.server(2)
    pb_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    port = rpc.listen(server, "127.0.0.1:0")
    server.start()
    shard = RpcShard(0, 1, f"127.0.0.1:{port}", timeout=0.5)
    yield shard
    shard.close()
    if servicer.hold:
        servicer.hold.set()
    server.stop(0).wait()


SIGNS = np.arange(3, dtype=np.uint64).tobytes()


@pytest.fixture(params=["thread that asks", "any thread"])
def look_up(request, shard):
    """Ask in either way and wait."""
    ask = shard.ask if request.param == "thread that asks" else shard.ask_from_any_thread
    return lambda *groups: ask(groups).result()


def test_rows(servicer, look_up):
    servicer.answer = pb.LookupResponse(
        groups=[pb.RowGroup(dim=1, dtype=1, rows=b"abcd"), pb.RowGroup(dtype=2)]
    )
    assert look_up((1, SIGNS), (2, b"")) == [(1, b"abcd"), (2, b"")]


def test_time_of_the_newest_event(servicer, shard):
    servicer.answer = pb.LookupResponse(groups=[pb.RowGroup(dim=1, dtype=1)], newest_event_ns=17)
    for ask in (shard.ask, shard.ask_from_any_thread):
        answer = ask([(1, b"")])
        assert answer.newest_event_ns == 0
        answer.result()
        assert answer.newest_event_ns == 17


def test_loading_server_tells_how_far_it_is(servicer, look_up, shard):
    servicer.error = (grpc.StatusCode.UNAVAILABLE, str(LOADING))
    with pytest.raises(ShardUnavailableError) as caught:
        look_up((4, SIGNS))
    assert str(caught.value) == f"embedding shard 0 of 1 at {shard.address}: {LOADING.reason}"


def test_server_that_does_not_answer(servicer, look_up):
    servicer.hold = threading.Event()
    with pytest.raises(ShardUnavailableError, match=r"no answer within 0\.5 s"):
        look_up((4, SIGNS))


def test_server_of_another_shard(servicer, look_up, shard):
    servicer.error = (grpc.StatusCode.FAILED_PRECONDITION, "no")
    servicer.status.replica_index, servicer.status.replica_size = 2, 5
    with pytest.raises(
        ShardMismatchError, match="shard 2 of 5, but the client asked for shard 0 of 1"
    ) as caught:
        look_up((4, SIGNS))
    assert caught.value.address == shard.address


def test_server_that_fails(servicer, look_up):
    servicer.error = (grpc.StatusCode.INTERNAL, "out of luck")
    with pytest.raises(RemoteError, match="out of luck"):
        look_up((4, SIGNS))


def test_answer_to_something_else(servicer, look_up):
    with pytest.raises(RemoteError, match="answered 0 groups of rows, not 2"):
        look_up((4, SIGNS), (8, SIGNS))


def test_rows_of_the_wrong_size(servicer, shard, two_shards, open_middleware):
    servicer.answer = pb.LookupResponse(groups=[pb.RowGroup(dim=16, dtype=1, rows=b"1234")] * 4)
    middleware = open_middleware(two_shards.config, [shard.address], local=False)
    with pytest.raises(RemoteError, match="shard 0 answered 4 bytes of rows"):
        middleware.lookup(two_shards.batch)


@pytest.mark.parametrize(
    ("state", "progress"), [(pb.STATE_LOADING, "loading"), (pb.STATE_FAILED, "no such checkpoint")]
)
def test_wait_ready_says_what_the_shard_says(servicer, shard, two_shards, open_middleware, state, progress):
    servicer.status.state, servicer.status.message = state, progress
    middleware = open_middleware(two_shards.config, [shard.address])
    with pytest.raises(ShardUnavailableError, match=progress):
        middleware.wait_ready(0.1)


def test_closed_shard(look_up, shard):
    shard.close()
    with pytest.raises(ShardUnavailableError, match="closed"):
        look_up((4, SIGNS))


def test_close_ends_what_waits(servicer, look_up, shard):
    servicer.hold = threading.Event()
    closing = threading.Timer(0.1, shard.close)
    closing.start()
    with pytest.raises(ShardUnavailableError):
        look_up((4, SIGNS))
    closing.join()


def test_questions_to_a_busy_shard_become_one_call(servicer, shard):
    servicer.hold = threading.Event()
    servicer.echo = True
    coalescing = CoalescingShard(shard, 1)
    answers = [coalescing.ask([(4, b"%08d" % i)]) for i in range(6)]
    servicer.hold.set()
    assert [answer.result(10) for answer in answers] == [[(1, b"%08d" % i)] for i in range(6)]
    assert servicer.calls == [1, 5]


class Recorded:
    """A shard that notes when it is asked and when its answer is waited for."""

    def __init__(
        self,
        index: int,
        log: list,
        error: Exception | None = None,
        *,
        is_stale: bool = False,
        newest_event_ns: int = 0,
    ) -> None:
        self.replica_index, self.address, self._log, self._error = index, "", log, error
        self.is_stale, self.newest_event_ns = is_stale, newest_event_ns

    def ask(self, groups):
        self._log.append(("asked", self.replica_index))
        self._groups = groups
        return self

    def result(self):
        self._log.append(("answered", self.replica_index))
        if self._error:
            raise self._error
        return [(1, b"%d:%d" % (self.replica_index, dim)) for dim, _ in self._groups]

    def close(self):
        self._log.append(("closed", self.replica_index))


class TestFanout:
    GROUPS = ((0, 4, b"a"), (0, 8, b"b"), (2, 4, b"c"))

    def test_all_are_asked_before_one_is_waited_for(self):
        log: list = []
        gathered = gather_rows([Recorded(index, log) for index in range(3)], self.GROUPS)
        assert log == [("asked", 0), ("asked", 2), ("answered", 0), ("answered", 2)]
        assert gathered.rows == [(1, b"0:4"), (1, b"0:8"), (1, b"2:4")]
        assert not gathered.is_stale

    @pytest.mark.parametrize("stale", [0, 2])
    def test_rows_are_stale_if_one_shards_are(self, stale):
        shards = [Recorded(index, [], is_stale=index == stale) for index in range(3)]
        assert gather_rows(shards, self.GROUPS).is_stale

    def test_a_shard_that_is_not_asked_makes_nothing_stale(self):
        assert not gather_rows(
            [Recorded(index, [], is_stale=index == 1) for index in range(3)], self.GROUPS
        ).is_stale

    @pytest.mark.parametrize(
        ("times", "least"),
        [((0, 0, 0), 0), ((5, 1, 9), 5), ((9, 1, 5), 5), ((0, 1, 5), 5), ((5, 1, 0), 5)],
    )
    def test_the_shard_that_is_furthest_behind_counts_of_those_asked(self, times, least):
        shards = [Recorded(index, [], newest_event_ns=each) for index, each in enumerate(times)]
        assert gather_rows(shards, self.GROUPS).newest_event_ns == least

    def test_first_error_is_raised_after_all_have_answered(self):
        log: list = []
        errors = [ShardUnavailableError(index, 3, "", "down") for index in range(3)]
        with pytest.raises(ShardUnavailableError) as caught:
            gather_rows([Recorded(index, log, errors[index]) for index in range(3)], self.GROUPS)
        assert caught.value is errors[0]
        assert log[-2:] == [("answered", 0), ("answered", 2)]
