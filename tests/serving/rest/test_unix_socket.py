"""REST on Unix sockets."""

import asyncio
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from satrap.config.global_config import ServingConfig
from satrap.errors import InvalidInputError
from satrap.serving.listening import Address, Listening
from satrap.serving.request_ids import request_ids
from satrap.serving.rest.apis import rest_apis
from satrap.serving.rest.listener import Listener
from satrap.serving.rest.unix_socket import UnixSocket
from satrap.serving.settings import ServingSettings


@pytest.fixture
def path() -> Iterator[Path]:
    """In a folder with a short name: the longest path of a socket has 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s"


@pytest.fixture
def left_behind(path: Path) -> Path:
    """A socket whose server died."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    return path


async def ask(path: Path, target: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


def test_two_apis_on_one_socket_which_is_removed_at_the_end(service: Any, left_behind: Path) -> None:
    path = left_behind
    there = Address(socket_path=str(path))
    listening = Listening(rest_inference=there, rest_management=there, metrics=None)
    settings = ServingSettings(listening=listening, config=ServingConfig())
    (api,) = rest_apis(settings, service, request_ids(), tokens=None, render=lambda names: b"", version="1")
    assert list(api.names) == ["REST inference", "REST management"]

    async def conversation() -> None:
        bound = UnixSocket(str(path))
        bound.check()
        listener = Listener(api.app, bound, 5)
        await listener.start()
        assert (await ask(path, "/ping")).startswith(b"HTTP/1.1 200")
        assert (await ask(path, "/models")).startswith(b"HTTP/1.1 200")
        await listener.stop()
        assert not path.exists()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(conversation())


def test_a_listener_that_did_not_start_removes_nothing(left_behind: Path) -> None:
    with asyncio.Runner() as runner:
        runner.run(Listener(None, UnixSocket(str(left_behind)), 0).stop())
    assert left_behind.is_socket()


def test_a_living_server_keeps_its_socket(path: Path) -> None:
    first, second = UnixSocket(str(path)), UnixSocket(str(path))
    second.check()
    with first.listen(1):
        for attempt in (second.check, lambda: second.listen(1)):
            with pytest.raises(InvalidInputError, match=f"unix:{path}: another server has it"):
                attempt()
        second.close()
        assert path.is_socket()
        first.close()
        assert not path.exists()


def test_a_living_server_whose_queue_is_full_keeps_its_socket(path: Path) -> None:
    with UnixSocket(str(path)).listen(0), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        with pytest.raises(InvalidInputError, match="another server has it"):
            UnixSocket(str(path)).check()


def test_only_its_own_socket_is_removed(path: Path) -> None:
    first, second = UnixSocket(str(path)), UnixSocket(str(path))
    with first.listen(1):
        path.unlink()
        with second.listen(1):
            first.close()
            assert path.is_socket()


def test_of_two_that_take_over_at_once_one_is_told(left_behind: Path) -> None:
    lock = left_behind.with_name("s.lock")
    lock.touch()  # of a server that died while it had it
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InvalidInputError, match="another server is taking it"):
            UnixSocket(str(left_behind)).listen(1)
        assert left_behind.is_socket()
    UnixSocket(str(left_behind)).listen(1).close()
    assert not lock.exists()


def test_a_lock_that_was_removed_meanwhile_keeps_nobody_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = path.with_name("s.lock"), []

    def flock(descriptor: int, how: int) -> None:
        taken.append(os.fstat(descriptor).st_ino)
        if len(taken) == 1:
            lock.unlink()
        elif len(taken) == 2:
            lock.rename(path.with_name("aside"))
            lock.touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    UnixSocket(str(path)).listen(1).close()
    assert len(taken) == 3 and not lock.exists()


def test_a_folder_that_others_have_locked(left_behind: Path) -> None:
    """systemd-tmpfiles does, and who keeps it out."""
    folder = os.open(left_behind.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        UnixSocket(str(left_behind)).listen(1).close()
    finally:
        os.close(folder)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "elsewhere")
    for attempt in (UnixSocket(str(path)).check, lambda: UnixSocket(str(path)).listen(1)):
        with pytest.raises(InvalidInputError, match="what lies there is no socket"):
            attempt()
    assert os.path.lexists(path)


def test_a_socket_of_another_kind_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(InvalidInputError, match="cannot be told"):
            UnixSocket(str(path)).check()


def test_a_folder_that_is_not_there(path: Path) -> None:
    place = UnixSocket(str(path / "s"))
    with pytest.raises(InvalidInputError, match=f"{path} is no folder that this process may write to"):
        place.check()
    with pytest.raises(InvalidInputError, match="No such file"):
        place.listen(1)


def test_the_umask_says_who_may_connect(path: Path) -> None:
    before = os.umask(0o027)
    try:
        with UnixSocket(str(path)).listen(1):
            assert stat.S_IMODE(path.stat().st_mode) == 0o750
    finally:
        os.umask(before)
