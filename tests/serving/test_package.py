"""Archives: the same content as the real torch-model-archiver's, written whole or not at all."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from satrap.errors import ArchiveError
from satrap.serving.archive.package import DEFAULT_HANDLER, package

ARCHIVER = Path(sys.executable).parent / "torch-model-archiver"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sources"
    (folder / "assets" / "deep" / "__pycache__").mkdir(parents=True)
    (folder / "assets" / ".hidden").mkdir()
    (folder / "weights.pth").write_bytes(b"weights" * 1000)
    (folder / "my_handler.py").write_text("def handle(data, context): return data\n")
    (folder / "net.py").write_text("class Net: pass\n")
    (folder / "index_to_name.json").write_text("{}")
    (folder / "a1.txt").write_text("a1")
    (folder / "a2.txt").write_text("a2")
    (folder / "requirements.txt").write_text("numpy\n")
    (folder / "model-config.yaml").write_text("minWorkers: 1\n")
    (folder / "assets" / "top.bin").write_bytes(b"top")
    (folder / "assets" / "deep" / "below.bin").write_bytes(b"below")
    (folder / "assets" / "deep" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (folder / "assets" / ".hidden" / "y").write_bytes(b"y")
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(folder)
    return folder


def contents(archive: Path) -> dict[str, bytes]:
    """Every file of an archive in any format, without the `<model name>/` of a tar."""
    if archive.is_dir():
        return {
            path.relative_to(archive).as_posix(): path.read_bytes()
            for path in archive.rglob("*")
            if path.is_file()
        }
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            files = [member for member in tar.getmembers() if member.isfile()]
            return {m.name.partition("/")[2]: tar.extractfile(m).read() for m in files}
    with zipfile.ZipFile(archive) as mar:
        return {name: mar.read(name) for name in mar.namelist() if not name.endswith("/")}


def manifest(archive: Path) -> dict[str, object]:
    return json.loads(contents(archive)["MAR-INF/MANIFEST.json"])


@pytest.mark.slow
@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_real_archiver_writes_the_same(
    sources: Path, tmp_path: Path, archive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    flags = {
        "model-name": "deepctr",
        "version": "2.1",
        "handler": "my_handler.py",
        "serialized-file": "weights.pth",
        "model-file": "net.py",
        "extra-files": "index_to_name.json,assets,a*.txt",
        "requirements-file": "requirements.txt",
        "config-file": "model-config.yaml",
        "archive-format": archive_format,
        "export-path": str(tmp_path / "theirs"),
    }
    arguments = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
    # It works in $TMPDIR/<model name>, which it deletes first.
    subprocess.run(
        [ARCHIVER, *arguments], check=True, capture_output=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    ours = package(
        model_name="deepctr",
        version="2.1",
        handler="my_handler.py",
        serialized_file="weights.pth",
        model_file="net.py",
        extra_files="index_to_name.json,assets,a*.txt",
        requirements_file="requirements.txt",
        config_file="model-config.yaml",
        archive_format=archive_format,
        export_path=tmp_path / "store",
    )
    theirs = tmp_path / "theirs" / ours.name
    left, right = contents(ours), contents(theirs)
    left_manifest = json.loads(left.pop("MAR-INF/MANIFEST.json"))
    right_manifest = json.loads(right.pop("MAR-INF/MANIFEST.json"))
    assert left == right
    assert list(left_manifest) == list(right_manifest)
    assert list(left_manifest["model"]) == list(right_manifest["model"])
    assert left_manifest["model"] == right_manifest["model"]
    assert left_manifest["runtime"] == right_manifest["runtime"]


def test_default_handler_is_not_copied(sources: Path, tmp_path: Path) -> None:
    archive = package(
        model_name="m", version="1", serialized_file="weights.pth", export_path=tmp_path / "store"
    )
    assert set(contents(archive)) == {"weights.pth", "MAR-INF/MANIFEST.json"}
    assert manifest(archive)["model"]["handler"] == DEFAULT_HANDLER


@pytest.mark.parametrize(
    ("handler", "copied", "named"),
    [
        ("my_handler", "my_handler.py", "my_handler"),
        ("my_handler.py", "my_handler.py", "my_handler.py"),
        ("my_handler:handle", "my_handler.py", "my_handler:handle"),
        ("my_handler.py:handle", "my_handler.py", "my_handler.py:handle"),
        ("./my_handler.py", "my_handler.py", "my_handler.py"),
        ("image_classifier", None, "image_classifier"),
        ("satrap.serving.handler:EmbeddingHandler", None, "satrap.serving.handler:EmbeddingHandler"),
    ],
)
def test_forms_of_a_handler(
    sources: Path, tmp_path: Path, handler: str, copied: str | None, named: str
) -> None:
    archive = package(model_name="m", version="1", handler=handler, export_path=tmp_path / "store")
    assert set(contents(archive)) - {"MAR-INF/MANIFEST.json"} == ({copied} if copied else set())
    assert manifest(archive)["model"] == {"modelName": "m", "handler": named, "modelVersion": "1"}


@pytest.mark.parametrize("name", ["", "-m", "a b", "../up", "a/b", "ü"])
def test_bad_model_name(sources: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="name begins with"):
        package(model_name=name, version="1", export_path=tmp_path / "store")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": ""}, "version is needed"),
        ({"serialized_file": "missing.pt"}, "does not exist: missing.pt"),
        ({"handler": "missing_handler"}, "does not exist: missing_handler.py"),
        ({"handler": "no.such.module:Class"}, "does not exist"),
        ({"handler": ""}, "a handler is needed"),
        ({"extra_files": "a1.txt,missing.txt"}, "does not exist: missing.txt"),
        ({"extra_files": ["nothing*.txt"]}, "does not exist"),
        ({"runtime": "ruby"}, "no runtime 'ruby'"),
        ({"archive_format": "rar"}, "no archive format 'rar'"),
        ({"export_path": "missing_folder"}, "not a directory"),
    ],
)
def test_bad_arguments_leave_nothing(
    sources: Path, tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    given = {"model_name": "m", "version": "1", "handler": "my_handler", "export_path": tmp_path / "store"}
    with pytest.raises(ArchiveError, match=message):
        package(**(given | changed))
    assert list((tmp_path / "store").iterdir()) == []


def test_two_files_of_one_name_are_refused_and_one_file_twice_is_not(sources: Path, tmp_path: Path) -> None:
    (sources / "other").mkdir()
    (sources / "other" / "a1.txt").write_text("another a1")
    with pytest.raises(ArchiveError, match=r"two files would be a1\.txt"):
        package(
            model_name="m", version="1", extra_files="a1.txt,other/a1.txt", export_path=tmp_path / "store"
        )
    archive = package(
        model_name="m",
        version="1",
        handler="my_handler.py",
        extra_files="./my_handler.py,a1.txt,a*.txt",
        export_path=tmp_path / "store",
    )
    assert set(contents(archive)) == {"my_handler.py", "a1.txt", "a2.txt", "MAR-INF/MANIFEST.json"}


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
def test_an_existing_archive_is_replaced_only_by_force(
    sources: Path, tmp_path: Path, archive_format: str
) -> None:
    given = {"model_name": "m", "archive_format": archive_format, "export_path": tmp_path / "store"}
    first = package(version="1", extra_files="a1.txt", **given)
    with pytest.raises(ArchiveError, match="already exists"):
        package(version="2", **given)
    assert manifest(first)["model"]["modelVersion"] == "1"
    second = package(version="2", extra_files="a2.txt", force=True, **given)
    assert second == first
    assert manifest(second)["model"]["modelVersion"] == "2"
    assert set(contents(second)) == {"a2.txt", "MAR-INF/MANIFEST.json"}
    assert [path.name for path in (tmp_path / "store").iterdir()] == [first.name]


def test_a_write_that_fails_leaves_the_old_archive(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"model_name": "m", "version": "1", "export_path": tmp_path / "store", "force": True}
    archive = package(**given)
    before = archive.read_bytes()

    def disk_full(file_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        package(**given, extra_files="a1.txt")
    assert archive.read_bytes() == before
    assert list((tmp_path / "store").iterdir()) == [archive]


def test_compression(sources: Path, tmp_path: Path) -> None:
    given = {"version": "1", "serialized_file": "weights.pth", "export_path": tmp_path / "store"}
    small = package(model_name="small", **given)
    stored = package(model_name="stored", archive_format="zip-store", **given)
    assert small.stat().st_size < 2000 < 7000 < stored.stat().st_size


def test_a_bracket_in_a_name_is_no_wildcard_when_the_file_exists(sources: Path, tmp_path: Path) -> None:
    (sources / "data[1].txt").write_text("bracket")
    archive = package(model_name="m", version="1", extra_files="data[1].txt", export_path=tmp_path / "store")
    assert contents(archive)["data[1].txt"] == b"bracket"
