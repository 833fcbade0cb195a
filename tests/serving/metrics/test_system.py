"""The machine's metrics, from texts of /proc and from this machine."""

import logging
from pathlib import Path

import psutil
import pytest

from satrap.serving.metrics.system import (
    CpuTimes,
    SystemReader,
    cpu_times,
    cpu_utilization,
    memory_metrics,
)

STAT = "cpu  100 10 50 800 40 5 3 2 7 1\ncpu0 1 2 3 4\nintr 5\n"
MEMINFO = (
    "MemTotal:        8000 kB\nMemFree: 100 kB\nMemAvailable:    6000 kB\nHugePages_Total:       0\nodd\n"
)


def test_ticks_of_all_processors() -> None:
    assert cpu_times(STAT) == CpuTimes(busy=170, total=1010)


@pytest.mark.parametrize("stat", ["", "cpu0 1 2 3 4 5\n", "cpu\n", "cpu  1 2 x 4 5\n", "cpu 1 2 3\n"])
def test_a_stat_that_is_none(stat: str) -> None:
    with pytest.raises(ValueError):
        cpu_times(stat)


def test_utilization_is_of_the_time_between() -> None:
    assert cpu_utilization(CpuTimes(100, 1000), CpuTimes(150, 1200)) == 25.0
    assert cpu_utilization(CpuTimes(100, 1000), CpuTimes(100, 1000)) == 0.0
    assert cpu_utilization(CpuTimes(100, 1000), CpuTimes(90, 1100)) == 0.0, "ticks may go back by a little"


def test_memory() -> None:
    assert memory_metrics(MEMINFO) == {
        "MemoryUsed": 2000 / 1024,
        "MemoryAvailable": 6000 / 1024,
        "MemoryUtilization": 25.0,
    }
    with pytest.raises(ValueError, match="MemAvailable"):
        memory_metrics("MemTotal: 8 kB\n")


def test_this_machine() -> None:
    reader = SystemReader()
    first, second = ({one.name: one.value for one in reader.read()} for _ in range(2))
    assert first.keys() == second.keys()
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    assert second["MemoryAvailable"] == pytest.approx(memory.available / 2**20, rel=0.2)
    assert second["MemoryUtilization"] == pytest.approx(memory.percent, abs=10)
    assert second["DiskUsage"] == pytest.approx(disk.used / 2**30, rel=0.05)
    assert second["DiskAvailable"] == pytest.approx(disk.free / 2**30, rel=0.05)
    assert second["DiskUtilization"] == pytest.approx(disk.percent, abs=1)
    assert 0 <= first["CPUUtilization"] <= 100 and 0 <= second["CPUUtilization"] <= 100


def test_what_is_not_there_is_left_out_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    reader = SystemReader(proc=tmp_path, disk=str(tmp_path / "nowhere"), open_gpus=lambda: None)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [one.name for one in reader.read()] == [
                "MemoryUsed",
                "MemoryAvailable",
                "MemoryUtilization",
            ]
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "there are no metrics of this machine's processors",
        "there are no metrics of this machine's disk",
    ]
