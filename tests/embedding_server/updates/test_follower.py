"""The follower's shell, without gRPC: it survives whatever happens in it, and stops when it is told."""

import threading

import pytest

from satrap.config import UpdatesConfig
from satrap.embedding_server.loading import LoadCancelled
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.table_directory import TableDirectory, TablePlace
from satrap.embedding_server.updates.follower import Follower
from satrap.embedding_server.updates.following import Following
from satrap.embedding_server.updates.quarantine import Quarantine
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import open_storage


@pytest.fixture
def state(table_directory):
    """Empty tables that are served."""
    directory = TableDirectory(TablePlace(table_directory, "default", None), ShardRoute(0, 1))
    state = ShardState(directory, "float32", 1)
    state.start(None, lambda progress: None, threading.Event())
    yield state
    state.close()
    directory.close()


@pytest.fixture
def follow(state, packets, tmp_path):
    """follow(...) -> Follower, not started; stopped at the end."""
    made: list[Follower] = []

    def make(**changes: object) -> Follower:
        following = Following(open_storage(packets.directory), UpdatesConfig(poll_seconds=0.02))
        made.append(Follower(state, following, Quarantine(tmp_path / "quarantine"), **changes))
        return made[-1]

    yield make
    for follower in made:
        follower.stop()


def follow_until(follower: Follower, done) -> None:
    for _ in range(2000):
        if done(follower.follow_now(5)):
            return
    raise AssertionError(follower.status)


def test_what_nobody_thought_of_is_an_alarm_and_tried_again(follow, packets):
    broken = threading.Event()
    broken.set()

    def on_step(name: str) -> None:
        if name == "part_written" and broken.is_set():
            raise RuntimeError("nobody thought of this")

    packets.publish(3)
    follower = follow(on_step=on_step)
    follower.start()
    status = follower.follow_now(5)
    assert [alarm.code for alarm in status.alarms] == ["failed"] and status.applied == 0
    assert status.alarms[0].message == "nobody thought of this"
    broken.clear()
    follow_until(follower, lambda status: status.applied == 3 and not status.alarms)


def test_ready_when_everything_is_applied(follow, packets):
    told: list[bool] = []
    packets.publish(3)
    follower = follow(on_ready=told.append)
    assert not follower.status.settled
    follower.start()
    follower.wait_until_settled(threading.Event())
    assert told == [True] and follower.status.applied == 3


def test_stopped_while_it_catches_up(follow, state, packets):
    packets.publish(5)
    stop = threading.Event()
    follower = follow(on_step=lambda name: stop.set() if name == "watermark_written" else None)
    with pytest.raises(LoadCancelled):
        follower.catch_up_if_possible(state.target(), stop.is_set)
    assert state.applied()[0] == 1


def test_never_started(follow):
    follower = follow()
    assert follower.follow_now(0.01).applied == 0
    stopped = threading.Event()
    stopped.set()
    follower.wait_until_settled(stopped)


def test_stop_ends_those_who_wait(follow, packets):
    waiting, go_on = threading.Event(), threading.Event()

    def on_step(name: str) -> None:
        if name == "fetched":
            waiting.set()
            go_on.wait(10)

    packets.publish()
    follower = follow(on_step=on_step)
    follower.start()
    assert waiting.wait(10)
    caller = threading.Thread(target=follower.follow_now, args=(60,))
    caller.start()
    stopper = threading.Thread(target=follower.stop)
    stopper.start()
    caller.join(10)
    assert not caller.is_alive()
    go_on.set()
    stopper.join(10)
    assert not stopper.is_alive()
