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
