"""PERSIA's device numbers on machines with and without GPUs."""

import logging

import pytest
import torch

from satrap.compat import device
from satrap.errors import InvalidInputError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    device._say_once_that_the_cpu_is_used.cache_clear()


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_device_0_without_a_gpu_is_the_cpu_with_one_warning(
    gpus: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert [device.device_of(0) for _ in range(3)] == [torch.device("cpu")] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "there is no GPU on this machine: device 0 means the CPU (this is said once)"
    ]


@pytest.mark.parametrize("gpus", [0, 2], indirect=True)
@pytest.mark.parametrize("device_id", [None, -1])
def test_no_device_is_the_cpu(gpus: None, device_id: int | None, caplog: pytest.LogCaptureFixture) -> None:
    assert device.device_of(device_id) == torch.device("cpu")
    assert caplog.records == []


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_gpus_by_number(gpus: None) -> None:
    assert device.device_of(0) == torch.device("cuda:0")
    assert device.device_of(1) == torch.device("cuda:1")


@pytest.mark.parametrize(("gpus", "count"), [(0, 0), (2, 2)], indirect=["gpus"])
def test_a_gpu_that_is_not_there(gpus: None, count: int) -> None:
    with pytest.raises(InvalidInputError, match=f"device_id 2: this machine has {count} GPUs"):
        device.device_of(2)
