"""Archives that are small and would become much: folders, memory, documents, workers."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import ArchiveError, InvalidInputError
from satrap.serving.archive.manifest import ArchiveOptions, ManifestError
from satrap.serving.archive.unpack import Limits, UnpackError, unpack
from satrap.serving.version_spec import RegisterParameters

MANIFEST = json.dumps({"runtime": "python", "model": {"modelName": "m", "handler": "handler.py"}})
LIMITS = Limits(10**8, 1000)


def zipped(folder: Path, entries: dict[str, bytes], manifest: str = MANIFEST) -> Path:
    path = folder / "m.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", manifest)
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_folders_in_folders(tmp_path: Path, target: Path) -> None:
    """Step by step, since each alone would be too deep to make."""
    steps = {"a/" * depth + "f": b"" for depth in range(60, 1200, 300)}
    with pytest.raises(UnpackError, match="more than 64 folders"):
        unpack(zipped(tmp_path, steps), target, LIMITS)


def test_documents_that_are_too_long(tmp_path: Path, target: Path) -> None:
    long = json.dumps({"model": {"modelName": "m", "handler": "h"}, "more": " " * 5_000_000})
    with pytest.raises(UnpackError, match=r"MANIFEST\.json is larger"):
        unpack(zipped(tmp_path, {}, long), target, LIMITS)


@pytest.mark.parametrize(
    "value",
    [
        "99999999999",
        "0x" + "f" * 8000,
        "[" * 2000,
        "&a [" + ",".join("x" * 100) + "]",
    ],
)
def test_numbers_that_are_none(value: str) -> None:
    with pytest.raises(ManifestError) as caught:
        ArchiveOptions.parse(f"minWorkers: {value}".encode(), "c.yaml")
    assert len(str(caught.value)) < 1000


def test_a_short_text_that_says_a_long_value() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    for key in ("minWorkers", "deviceType", "deviceIds", "satrap"):
        with pytest.raises(ManifestError) as caught:
            ArchiveOptions.parse("\n".join([*lines, f"{key}: *l11"]).encode(), "c.yaml")
        assert len(str(caught.value)) < 1000


def test_a_tar_entry_of_less_than_nothing(tmp_path: Path, target: Path) -> None:
    """It would be paid back to the budget of the others."""
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("m/f")
        entry.pax_headers = {"size": "-1000"}
        archive.addfile(entry)
    with pytest.raises(UnpackError):
        unpack(path, target, LIMITS)


@pytest.mark.slow
def test_memory(in_process: Any, open_service: Any, store: Any) -> None:
    """A tar file's extended header is read whole, and says itself how long it is."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 7 * 1024**3
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(1100):
            file.write(bytes(1024**2))
    (store.directory / "m.tar.gz").write_bytes(packed.getvalue())
    with pytest.raises(ArchiveError, match="bytes of memory"):
        in_process.run(
            open_service().register(RegisterParameters(url="m.tar.gz", model_name="m", handler="h"))
        )


@pytest.mark.slow
def test_workers_without_number(in_process: Any, open_service: Any, store: Any) -> None:
    """The frontend would be busy with starting them for ever."""
    store.add("m.mar", "def handle(data, context):\n    return data and [b''] * len(data)\n")
    service = open_service()
    with pytest.raises(InvalidInputError, match="at most"):
        in_process.run(service.register(RegisterParameters(url="m.mar", initial_workers=2**31 - 1)))
    in_process.run(service.register(RegisterParameters(url="m.mar")))
    with pytest.raises(InvalidInputError, match="at most"):
        in_process.run(service.scale("m", minimum=2**31 - 1))
    assert in_process.run(service.catalog.describe("m"))[0]["workers"] == []
