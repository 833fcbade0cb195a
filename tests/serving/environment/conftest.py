"""Wheels made on the spot."""

import zipfile
from pathlib import Path

import pytest


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A pure wheel of those files, as small as pip takes it."""
    information = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{information}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**contents, f"{information}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture(scope="session")
def make_wheel():
    return write_wheel
