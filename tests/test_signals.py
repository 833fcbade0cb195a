"""The first signal asks, the second ends; a closed standard input asks too."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
from satrap.signals import stop_on_eof, stop_on_signals
stop = threading.Event()
stop_on_signals(stop)
if "eof" in sys.argv:
    stop_on_eof(stop)
print("ready", flush=True)
stop.wait()
print("stopping", flush=True)
if "stubborn" in sys.argv:
    threading.Event().wait()
"""


@pytest.fixture
def process():
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()
        if child.stdin:
            child.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_an_orderly_stop(process, number):
    child = process()
    child.send_signal(number)
    assert child.stdout.readline() == "stopping\n"
    assert child.wait(20) == 0


@pytest.mark.slow
def test_a_second_signal_ends_at_once(process):
    child = process("stubborn")
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline() == "stopping\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_end_of_standard_input_asks_for_a_stop(process):
    child = process("eof")
    child.stdin.close()
    assert child.stdout.readline() == "stopping\n"
    assert child.wait(20) == 0


AWKWARD = """
import os, signal, sys, threading, time
from satrap.signals import stop_on_signals
stop = threading.Event()
stop_on_signals(stop)
if sys.argv[1] == "other-thread":
    # As when it arrives just before the main thread blocks: nothing interrupts that thread.
    main = threading.main_thread()
    def kill():
        while ") S " not in open(f"/proc/self/task/{main.native_id}/stat").read():
            time.sleep(0.001)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Thread(target=kill).start()
else:
    with stop._cond:  # as inside stop.wait(), before it blocks
        os.kill(os.getpid(), signal.SIGTERM)
stop.wait()
print("stopping", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["other-thread", "event-locked"])
def test_a_signal_at_an_awkward_moment_is_not_lost(moment):
    done = subprocess.run(
        [sys.executable, "-c", AWKWARD, moment], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "stopping\n"
