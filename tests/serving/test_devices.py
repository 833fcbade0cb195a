"""Which devices a version's workers get, and the keys of its config file that say so."""

import logging

import pytest

from satrap.serving.archive.manifest import ArchiveOptions, ManifestError
from satrap.serving.devices import choose_devices, device_of


@pytest.mark.parametrize(
    ("device_type", "device_ids", "gpus", "devices", "warning"),
    [
        (None, (), 0, (), ""),
        (None, (), 2, (0, 1), ""),
        (None, (1,), 2, (1,), ""),
        ("cpu", (0,), 2, (), ""),
        ("gpu", (), 2, (0, 1), ""),
        ("gpu", (3, 1), 4, (3, 1), ""),
        (
            "gpu",
            (0, 1, 2, 3),
            0,
            (),
            "m 1.0: deviceType is gpu and there is no GPU, its workers run on the CPU",
        ),
        (
            "gpu",
            (0, 5),
            2,
            (0,),
            "m 1.0: deviceIds [5] are not there: this machine has 2, its workers use [0]",
        ),
        (
            "gpu",
            (5,),
            2,
            (0, 1),
            "m 1.0: deviceIds [5] are not there: this machine has 2, its workers use all",
        ),
        ("neuron", (), 2, (), "m 1.0: deviceType neuron is not served here, its workers run on the CPU"),
    ],
)
def test_devices_of_a_version(
    device_type: str | None,
    device_ids: tuple[int, ...],
    gpus: int,
    devices: tuple[int, ...],
    warning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    assert choose_devices("m 1.0", device_type, device_ids, gpus) == devices
    assert caplog.messages == ([warning] if warning else [])


def test_workers_take_turns_and_keep_their_device() -> None:
    assert [device_of((0, 3), worker) for worker in (9000, 9001, 9002, 9000)] == [0, 3, 0, 0]
    assert device_of((), 9000) is None


def test_the_keys_of_a_config_file() -> None:
    options = ArchiveOptions.parse(
        b"deviceType: 'GPU'\ndeviceIds: [0, 1]\nsystem: {extraFiles: test.tar.gz, maxGPUMemory: 500}",
        "c.yaml",
    )
    assert options == ArchiveOptions(device_type="gpu", device_ids=(0, 1), extra_files="test.tar.gz")
    assert ArchiveOptions.parse(b"system: mine", "c.yaml") == ArchiveOptions()
    assert ArchiveOptions.parse(b"system: {extraFiles: [1]}", "c.yaml") == ArchiveOptions()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"deviceType: tpu", "deviceType is 'tpu', not one of cpu, gpu, neuron"),
        (b"deviceType: 1", "deviceType is 1, not one of"),
        (b"deviceIds: 1", "deviceIds is 1, not a list of whole numbers"),
        (b"deviceIds: [-1]", "deviceIds is .-1., not a list"),
        (b"deviceIds: [true]", "deviceIds is .True., not a list"),
        (b"deviceIds: ['0']", "deviceIds is .'0'., not a list"),
    ],
)
def test_bad_keys(text: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        ArchiveOptions.parse(text, "c.yaml")
