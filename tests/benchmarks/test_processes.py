"""Children of a benchmark: their failures are told with the end of their log, and none is left behind."""

import importlib
import sys
from pathlib import Path

import psutil
import pytest

GRANDPARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("harness.processes")


def test_a_child_that_ends_early_is_an_error_with_its_last_words(processes, tmp_path):
    command = [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"]
    child = processes.Process("server", command, log=tmp_path / "log")
    with (
        pytest.raises(processes.ChildFailedError, match=r"(?s)server ended with status 3.*out of luck"),
        child,
    ):
        child.wait_for_line("ready", 30)


def test_leaving_stops_the_child_and_what_it_started(processes, tmp_path):
    with processes.Process("server", [sys.executable, "-c", GRANDPARENT], log=tmp_path / "log") as child:
        grandchild = psutil.Process(int(child.wait_for_line("ready", 30).split()[1]))
        assert grandchild.is_running()
    _, alive = psutil.wait_procs([grandchild], timeout=10)
    assert not alive


def test_free_ports_differ(processes):
    assert len(set(processes.free_ports(5))) == 5
