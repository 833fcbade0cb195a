"""`satrap demo` as a user runs it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-P", "-m", "satrap.cli", "demo"]


@pytest.fixture(autouse=True)
def no_tables_left() -> Iterator[None]:
    """The demo keeps its tables in shared memory, and gives that back."""
    before = set(Path("/dev/shm").glob("satrap-demo-*"))
    yield
    assert set(Path("/dev/shm").glob("satrap-demo-*")) <= before


def test_the_demo_serves_what_it_trained(tmp_path: Path):
    result = subprocess.run(
        [*COMMAND, "--seconds", "12"],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    served, offline = (
        float(line.split("│")[2]) for line in result.stdout.splitlines() if line.startswith("│ AUC")
    )
    assert served == pytest.approx(offline, abs=1e-3)
    assert served > 0.8
    assert "look up" in result.stdout
    rounds = re.findall(
        r"^ +[\d.]+ +([\d,]+) +([\d,]+) +([\d.]+) +(0\.\d+) +([\d,]+) ms old +[\d.]+ ms$", result.stdout, re.M
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_kept_up_it_stops_and_leaves_nothing(tmp_path: Path, number: int):
    demo = subprocess.Popen(
        [*COMMAND, "--keep", "--seconds", "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        for line in demo.stdout:
            if "what the servers say" in line:
                break
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) >= 4
        demo.send_signal(number)
        demo.wait(60)
    finally:
        demo.kill()
        demo.stdout.close()
    assert demo.returncode == (128 + number if number == signal.SIGTERM else 0)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert list(tmp_path.glob("satrap-*")) == []
