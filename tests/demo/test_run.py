"""`satrap demo` as a user runs it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-P", "-m", "satrap.cli", "demo"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """demo(flags) -> a running `satrap demo`; it keeps its tables in shared memory, and gives that back."""
    running: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "--keep" not in flags else None,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait(60)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        assert tables_of(process.pid) == []


def tables_of(pid: int) -> list[Path]:
    """The table directories of that demo."""
    return list(Path("/dev/shm").glob(f"satrap-demo-{pid}-*"))


def test_the_demo_serves_what_it_trained(demo: Callable[..., subprocess.Popen[str]], tmp_path: Path):
    running = demo("--seconds", "12")
    output, errors = running.communicate(timeout=280)
    assert running.returncode == 0, errors
    served, offline = (float(line.split("│")[2]) for line in output.splitlines() if line.startswith("│ AUC"))
    assert served == pytest.approx(offline, abs=1e-3)
    assert served > 0.8
    assert "look up" in output
    rounds = re.findall(
        r"^ +[\d.]+ +([\d,]+) +([\d,]+) +([\d.]+) +(0\.\d+) +([\d,]+) ms old +[\d.]+ ms$", output, re.M
    )
    assert len(rounds) == 4
    clicks, packets = ([int(one[column].replace(",", "")) for one in rounds] for column in (0, 1))
    assert clicks == sorted(set(clicks))
    assert packets == sorted(set(packets))
    versions = [version for _, _, version, _, _ in rounds]
    assert versions[:2] == ["1.0"] * 2
    assert versions[-1] == "2.0"
    assert versions == sorted(versions)
    aucs = [float(value) for _, _, _, value, _ in rounds]
    assert aucs[-1] > aucs[0] + 0.05
    assert list(tmp_path.glob("satrap-*")) == []


@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGTERM, "training goes on"), (signal.SIGINT, "what the servers say")],
    ids=["while it trains", "kept up"],
)
def test_it_stops_and_leaves_nothing(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int, when: str
):
    running = demo("--keep", "--seconds", "2")
    for line in running.stdout:
        if when in line:
            break
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) >= 4
    assert len(tables_of(running.pid)) == 1
    running.send_signal(number)
    running.wait(60)
    assert running.returncode == (128 + number if number == signal.SIGTERM else 0)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert list(tmp_path.glob("satrap-*")) == []
