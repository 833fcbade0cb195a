"""GPUs through a library with NVML's functions, made on the spot: these machines have no driver."""

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from satrap.errors import UnavailableError
from satrap.serving.metrics.gpus import GpuReading, Gpus
from satrap.serving.metrics.system import Reading, SystemReader

pytestmark = pytest.mark.slow

SOURCE = """
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
static int open_, names[2] = {10, 11};
int nvmlInit_v2(void) { open_ = 1; return INIT; }
int nvmlShutdown(void) { open_ = 0; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return open_ ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &names[index]; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    memory->total = 80ull << 30; memory->used = (unsigned long long)*(int *)device << 30; return MEMORY;
}
int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    rates->gpu = *(int *)device * 4; rates->memory = 1; return *(int *)device == 10 ? 0 : 3;
}
"""


@pytest.fixture
def library(tmp_path: Path) -> Callable[..., str]:
    """library(INIT=error, MEMORY=error) -> the path of a library whose functions answer so."""

    def build(**errors: int) -> str:
        (tmp_path / "nvml.c").write_text(SOURCE)
        path = tmp_path / f"libnvml-{len(list(tmp_path.iterdir()))}.so"
        answers = [f"-D{name}={errors.get(name, 0)}" for name in ("INIT", "MEMORY")]
        command = ["g++", "-x", "c", "-shared", "-fPIC", *answers, "-o", str(path), str(tmp_path / "nvml.c")]
        subprocess.run(command, check=True)
        return str(path)

    return build


def test_every_gpu_is_read(library: Callable[..., str]) -> None:
    gpus = Gpus.open(library())
    assert gpus is not None
    assert gpus.read() == [
        GpuReading(0, 40.0, 10 << 30, 80 << 30),
        GpuReading(1, None, 11 << 30, 80 << 30),
    ], "one that does not tell its utilization has none"
    gpus.close()
    with pytest.raises(UnavailableError, match="nvmlDeviceGetCount_v2 with error 1"):
        gpus.read()


def test_without_a_driver() -> None:
    assert Gpus.open("libno-such-driver.so.1") is None


def test_a_driver_that_fails(library: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    broken = library(INIT=9)
    with pytest.raises(UnavailableError, match="nvmlInit_v2 with error 9"):
        Gpus.open(broken)
    reader = SystemReader(open_gpus=lambda: Gpus.open(broken))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not [one for one in reader.read() if one.device is not None]
    assert len(caplog.records) == 1
    reader.close()


def test_the_machines_metrics_have_them(library: Callable[..., str]) -> None:
    path = library()
    reader = SystemReader(open_gpus=lambda: Gpus.open(path))
    assert [one for one in reader.read() if one.device is not None] == [
        Reading("GPUMemoryUsed", 10 * 1024, 0),
        Reading("GPUMemoryUtilization", 12.5, 0),
        Reading("GPUUtilization", 40.0, 0),
        Reading("GPUMemoryUsed", 11 * 1024, 1),
        Reading("GPUMemoryUtilization", 13.75, 1),
    ]
    reader.close()
