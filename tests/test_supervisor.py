"""Children are started, announced, restarted when they die, and stopped; nothing is left behind."""

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from satrap.supervisor import Backoff, Child, ChildFailedError, Supervisor

# Says its pid when ready, and ends when standard input closes or SIGTERM arrives.
READY = "import os, sys; print(f'ready {os.getpid()}', flush=True); sys.stdin.read()"
FAILS = "import sys; sys.exit(3)"


def child(name: str, code: str) -> Child:
    return Child(name, [sys.executable, "-c", code])


class TestBackoff:
    def test_waits_double_up_to_a_limit(self):
        state, waits = Backoff(), []
        for _ in range(9):
            state, wait = state.after_death(0.0)
            waits.append(wait)
        assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])

    def test_a_long_life_forgives(self):
        assert Backoff(failures=6).after_death(60.0) == (Backoff(1), 0.1)


@pytest.fixture
def running():
    """Start a supervisor on a thread; yields a function that returns (children, stop, announced lines, thread)."""
    started: list[tuple[threading.Event, threading.Thread]] = []

    def start(*children: Child):
        stop, lines = threading.Event(), queue.Queue()
        thread = threading.Thread(target=lambda: Supervisor(children, stop).run(lines.put, grace_seconds=10))
        thread.start()
        started.append((stop, thread))
        return stop, lines, thread

    yield start
    for stop, thread in started:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_all_children_are_announced_once_and_stopped_at_the_end(running):
    first, second = child("a", READY), child("b", READY)
    stop, lines, thread = running(first, second)
    announced = lines.get(timeout=20)
    assert [line.split()[0] for line in announced] == ["ready", "ready"]
    stop.set()
    thread.join()
    assert first.process.returncode == second.process.returncode == -signal.SIGTERM
    assert lines.empty()


@pytest.mark.slow
def test_a_terminals_interrupt_does_not_reach_the_children(running):
    """They would be told to stop twice, by it and by the supervisor, and end at once without a drain."""
    only = child("a", READY)
    _, lines, _ = running(only)
    lines.get(timeout=20)
    assert os.getpgid(only.process.pid) == only.process.pid != os.getpgrp()


@pytest.mark.slow
def test_a_killed_child_is_started_again(running):
    (only,) = children = [child("a", READY)]
    _, lines, _ = running(*children)
    (line,) = lines.get(timeout=20)
    before = only.process
    os.kill(int(line.split()[1]), signal.SIGKILL)
    before.wait(10)
    deadline = threading.Event()
    while only.process is before or only.ready_line is None:
        assert not deadline.wait(0.01)  # pytest's timeout ends a supervisor that never restarts
    assert only.process.pid != before.pid


@pytest.mark.slow
def test_a_child_that_fails_at_start_is_an_error_and_stops_the_others():
    good = child("good", READY)
    with pytest.raises(ChildFailedError, match="bad ended with status 3 before it was ready"):
        Supervisor([good, child("bad", FAILS)], threading.Event()).run(lambda _: None, grace_seconds=10)
    assert good.process.poll() is not None


@pytest.mark.slow
def test_children_end_when_the_supervisor_is_killed(tmp_path: Path):
    script = tmp_path / "supervise.py"
    script.write_text(
        "import sys, threading\n"
        "from satrap.supervisor import Child, Supervisor\n"
        f"child = Child('a', [sys.executable, '-c', {READY!r}])\n"
        "Supervisor([child], threading.Event()).run(lambda lines: print(lines[0], flush=True), grace_seconds=1)\n"
    )
    supervisor = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    pid = int(supervisor.stdout.readline().split()[1])
    handle = os.pidfd_open(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    ended = threading.Event()
    threading.Thread(target=lambda: (wait_for(handle), ended.set()), daemon=True).start()
    assert ended.wait(20)
    os.close(handle)


def wait_for(pidfd: int) -> None:
    import select

    select.select([pidfd], [], [])
