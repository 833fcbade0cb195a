"""A template that hangs: it is ended and replaced, and holds nobody up. A process that only sleeps stands in for it."""

import asyncio
import gc
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import UnavailableError
from satrap.serving import forks
from satrap.serving.forks import Template, launched_template
from satrap.serving.template import MESSAGE_BYTES

Behaviour = Callable[[socket.socket], None]


def hangs(control: socket.socket) -> None:
    """Before it is ready."""


def is_ready(control: socket.socket) -> None:
    """And does nothing after that."""
    control.send(json.dumps({"id": 0}).encode())


def answers(control: socket.socket) -> None:
    """Is ready, and forks once: itself."""
    is_ready(control)
    data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
    for descriptor in descriptors:
        os.close(descriptor)
    message = json.dumps({"id": json.loads(data)["id"], "pid": os.getpid()}).encode()
    pidfd = os.pidfd_open(os.getpid())
    socket.send_fds(control, [message], [pidfd])
    os.close(pidfd)


def dies(control: socket.socket) -> None:
    """Before it is ready."""
    control.close()


def dies_when_asked(control: socket.socket) -> None:
    """Is ready, and gone when it is asked for a process."""
    is_ready(control)
    control.recv(MESSAGE_BYTES)
    control.close()


class Templates:
    """Starts stand-ins, each with the next behaviour; their processes do not notice when their socket is closed."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._controls: list[socket.socket] = []

    def start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._controls.append(theirs)
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        self._threads.append(threading.Thread(target=self.behaviours.pop(0), args=(theirs,)))
        self._threads[-1].start()
        return self.processes[-1], ours

    def join(self) -> None:
        """Wait until all have done what they do."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self.join()
        for control in self._controls:
            control.close()
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> Iterator[Templates]:
    made = Templates()
    monkeypatch.setattr(forks, "_exec_template", made.start)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def errors_of_the_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    records = [*caplog.get_records("call"), *caplog.records]
    assert [record.getMessage() for record in records if record.name == "asyncio"] == []


def run(scene: Any) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def give_up(child: forks.Child) -> None:
    """Close what is its holder's."""
    child.connection.close()
    os.close(child.output)
    os.close(child.pidfd)


async def ended(process: subprocess.Popen[bytes]) -> bool:
    """By a signal; whoever started it collects it."""
    while process.returncode is None:  # noqa: ASYNC110 (set by the loop's reader)
        await asyncio.sleep(0)
    return process.returncode == -9


def test_a_template_that_does_not_answer_is_replaced(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers_in_time(control: socket.socket) -> None:
        monkeypatch.setattr(forks, "_ANSWER_SECONDS", 60.0)
        answers(control)

    monkeypatch.setattr(forks, "_ANSWER_SECONDS", 0.01)
    templates.behaviours = [is_ready, answers_in_time]

    async def scene() -> None:
        template = Template()
        child = await template.fork("worker")
        assert child.pid == os.getpid()
        give_up(child)
        assert await ended(templates.processes[0])
        assert templates.processes[1].returncode is None
        monkeypatch.setattr(forks, "_STOP_SECONDS", 0.01)
        await template.close()

    run(scene())


def test_a_template_that_does_not_start_is_an_error_of_who_asked(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_START_SECONDS", 0.01)
    templates.behaviours = [hangs]

    async def scene() -> None:
        with pytest.raises(UnavailableError, match=r"did not start within 0\.01 s"):
            await Template().start()
        assert await ended(templates.processes[0])

    run(scene())


def test_a_template_that_nobody_waits_for_any_more_is_ended(templates: Templates) -> None:
    templates.behaviours = [hangs]

    async def scene() -> None:
        starting = asyncio.create_task(Template().start())
        while not templates.processes:  # noqa: ASYNC110 (set by the task)
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait({starting})
        assert await ended(templates.processes[0])

    run(scene())


def test_a_template_that_does_not_end_does_not_hold_up_a_stop(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_STOP_SECONDS", 0.01)
    templates.behaviours = [is_ready]

    async def scene() -> None:
        template = Template()
        await template.start()
        await template.close()
        assert templates.processes[0].returncode == -9

    run(scene())


def test_a_template_that_dies_while_its_caller_goes_away(templates: Templates) -> None:
    templates.behaviours = [dies]

    async def scene() -> None:
        starting = asyncio.create_task(Template().start())
        await asyncio.sleep(0)
        templates.join()
        asyncio.get_running_loop().call_later(
            0, starting.cancel
        )  # timers follow sockets: its end is seen before
        with pytest.raises(asyncio.CancelledError):
            await starting

    run(scene())


def test_a_template_that_dies_when_its_time_is_over(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers_in_time(control: socket.socket) -> None:
        monkeypatch.setattr(forks, "_ANSWER_SECONDS", 60.0)
        answers(control)

    templates.behaviours = [dies_when_asked, answers_in_time]

    async def scene() -> None:
        template = Template()
        await template.start()
        monkeypatch.setattr(forks, "_ANSWER_SECONDS", 1e-9)
        forking = asyncio.create_task(template.fork("worker"))
        await asyncio.sleep(0)
        templates.join()
        child = await forking
        give_up(child)
        monkeypatch.setattr(forks, "_STOP_SECONDS", 0.01)
        await template.close()

    run(scene())


def test_a_template_that_had_died_before_it_was_asked(templates: Templates) -> None:
    def dies_behind(control: socket.socket) -> None:
        is_ready(control)
        control.close()

    templates.behaviours = [dies_behind, answers]

    async def scene() -> None:
        template = Template()
        await template.start()
        templates.join()
        child = await template.fork("worker")
        give_up(child)
        templates.processes[1].kill()
        await template.close()

    run(scene())


def test_an_answer_that_comes_as_its_caller_goes_away_leaves_no_descriptor(templates: Templates) -> None:
    templates.behaviours = [answers]

    async def scene() -> None:
        template = Template()
        await template.start()
        before = open_files()
        forking = asyncio.create_task(template.fork("worker"))
        await asyncio.sleep(0)
        templates.join()
        asyncio.get_running_loop().call_later(0, forking.cancel)
        with pytest.raises(asyncio.CancelledError):
            await forking
        assert open_files() == before
        templates.processes[0].kill()
        await template.close()

    run(scene())


def test_a_template_that_was_launched_early_is_the_first(templates: Templates) -> None:
    templates.behaviours = [answers]

    async def scene(template: Template) -> None:
        child = await template.fork("worker")
        give_up(child)
        templates.processes[0].kill()
        await template.close()

    with launched_template() as launched:
        run(scene(Template(launched)))
    assert len(templates.processes) == 1


def test_a_template_that_nobody_took_over_ends_with_who_launched_it(templates: Templates) -> None:
    templates.behaviours = [hangs]
    before = open_files()

    async def scene(template: Template) -> None:
        await template.close()

    with launched_template() as launched:
        run(scene(Template(launched)))
        assert templates.processes[0].poll() is None
    assert templates.processes[0].returncode == -9
    templates.close()
    assert open_files() == before


def test_a_template_that_cannot_be_launched_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(forks, "_exec_template", fails)
    with pytest.raises(UnavailableError, match="cannot be started"), launched_template():
        pass
