"""Processors and GPUs, as a container shows them."""

import os
from pathlib import Path

import pytest

from satrap.serving.processors import available_gpus, available_processors

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("150000 100000", min(ALL, 2)),
        ("max 100000", ALL),
        ("", ALL),
        ("x", ALL),
    ],
)
def test_a_share_of_time_is_rounded_up(tmp_path: Path, content, count):
    (tmp_path / "cpu.max").write_text(content)
    assert available_processors(tmp_path) == count


@pytest.mark.parametrize(("quota", "count"), [("100000", 1), ("-1", ALL)])
def test_the_older_kind_of_control_group(tmp_path: Path, quota, count):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert available_processors(tmp_path) == count


def test_without_control_groups_all_processors_count(tmp_path: Path):
    assert available_processors(tmp_path) == ALL


def test_gpus_are_counted_by_their_devices(tmp_path: Path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert available_gpus(tmp_path) == 2
