"""Archives are put into a store whole, by path and by URL."""

from pathlib import Path

import pytest

from satrap.errors import ArchiveError, InvalidInputError
from satrap.serving.archive.upload import upload
from satrap.storage import open_storage


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "m.mar"
    path.write_bytes(b"archive" * 400_000)
    return path


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_into_a_folder(archive: Path, tmp_path: Path, scheme: str) -> None:
    store = tmp_path / "store"
    upload(archive, f"{scheme}{store}")
    assert (store / "m.mar").read_bytes() == archive.read_bytes()
    assert [entry.name for entry in store.iterdir()] == ["m.mar"]


def test_to_a_url(archive: Path) -> None:
    upload(archive, "memory://models/store")
    assert open_storage("memory://models/store").read("m.mar") == archive.read_bytes()


def test_a_name_that_is_taken(archive: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "m.mar").write_bytes(b"older")
    with pytest.raises(ArchiveError, match="already exists: give --force"):
        upload(archive, str(store))
    assert (store / "m.mar").read_bytes() == b"older"
    assert upload(archive, str(store), force=True) == str(store / "m.mar")
    assert (store / "m.mar").read_bytes() == archive.read_bytes()


def test_what_cannot_be_uploaded(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="a directory cannot be uploaded"):
        upload(tmp_path, str(tmp_path / "store"))
    with pytest.raises(InvalidInputError):
        upload(archive, "nonsense://store")
