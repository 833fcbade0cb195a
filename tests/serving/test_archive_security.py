"""What TorchServe was attacked by, against a service: urls, directories, archives."""

import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from satrap.errors import ArchiveError, ArchiveNotFoundError, DownloadError, SatrapError
from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters

pytestmark = pytest.mark.slow

HANDLER = "def handle(data, context):\n    return data and [b'served'] * len(data)\n"

MANIFEST = json.dumps({"runtime": "python", "model": {"modelName": "m", "handler": "handler.py"}})


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model that is not in the store, as a directory and as an archive; and a secret."""
    folder = tmp_path / "outside"
    (folder / "model" / "MAR-INF").mkdir(parents=True)
    (folder / "model" / "MAR-INF" / "MANIFEST.json").write_text(MANIFEST)
    (folder / "model" / "handler.py").write_text(HANDLER)
    with zipfile.ZipFile(folder / "model.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
        archive.writestr("handler.py", HANDLER)
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def refused(in_process: Any, open_service: Any, store: Any) -> Any:
    """Register that url, which must fail so; neither the store nor the list of models changes."""

    def run(url: str, kind: type[SatrapError], part: str, /, **config: Any) -> None:
        service = open_service(**config)
        before = sorted(store.directory.rglob("*"))
        with pytest.raises(kind) as caught:
            in_process.run(
                service.register(
                    RegisterParameters(url=url, model_name="m", handler="handler.py", initial_workers=1)
                )
            )
        assert part in str(caught.value)
        assert service.catalog.list_models() == {"models": []}
        assert sorted(store.directory.rglob("*")) == before

    return run


def test_a_directory_or_archive_outside_of_the_store(refused: Any, outside: Path) -> None:
    for url in (f"{outside}/model", f"{outside}/model/", f"{outside}/model.mar", "model.mar/../model.mar"):
        refused(url, ArchiveNotFoundError, "Relative path" if ".." in url else "Model not found at")
    for url in (
        f"file://{outside}/model.mar",
        f"FILE://{outside}/model.mar",
        f"file://localhost{outside}/model",
    ):
        refused(url, ArchiveNotFoundError, "does not match any allowed URL(s)")
    refused(f"file://{outside}/model", DownloadError, "cannot be read", allowed_urls=["file://.*"])


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/a.mar",
        "https://models.example.com@127.0.0.1:1/a.mar",
        "https://127.0.0.1:1/https://models.example.com/a.mar",
        "https://models.example.com.evil.example/a.mar",
        "https://models.example.com\\@127.0.0.1:1/a.mar",
        "https://models.example.com/a.mar\n",
        "ftp://models.example.com/a.mar",
        "s3://bucket/a.mar",
        "gopher://127.0.0.1:1/_a.mar",
        "jar:file:///a.mar!/b",
        "data://text/plain,a.mar",
        "//169.254.169.254/a.mar",
        "http:/169.254.169.254/a.mar",
    ],
)
def test_a_url_of_another_host(refused: Any, url: str) -> None:
    """Such a server is not asked: a url is not allowed, or is no URL but a name that the store does not have."""
    allowed = [r"https://models\.example\.com/.*"]
    with_scheme = "://" in url and not url.startswith("jar:")
    part = "does not match any allowed URL(s)" if with_scheme else "Model not found at"
    refused(url, ArchiveNotFoundError, part, allowed_urls=allowed)


def entries(*names: str) -> list[tuple[str, bytes]]:
    return [("MAR-INF/MANIFEST.json", MANIFEST.encode()), *((name, b"evil") for name in names)]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "a/../../evil.py",
        "/tmp/evil.py",
        "..\\evil.py",
        "C:\\evil.py",
        "MAR-INF/../../evil.py",
        "\x2e\x2e/evil.py",
    ],
)
def test_an_entry_that_leaves_its_directory(refused: Any, store: Any, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(store.directory / "zip.mar", "w") as archive:
        for entry, content in entries(name):
            archive.writestr(entry, content)
    with tarfile.open(store.directory / "tar.tar.gz", "w:gz") as tar:
        for entry, content in entries(name):
            info = tarfile.TarInfo(f"m/{entry}" if not entry.startswith("/") else entry)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for url in ("zip.mar", "tar.tar.gz"):
        refused(url, ArchiveError, "outside of the archive's directory")
    assert not list(tmp_path.rglob("evil.py")) and not Path("/tmp/evil.py").exists()


def test_a_link_that_leads_out(refused: Any, store: Any, outside: Path) -> None:
    with zipfile.ZipFile(store.directory / "zip.mar", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
        archive.writestr(link, str(outside))
        archive.writestr("link/evil.py", "evil")
    with tarfile.open(store.directory / "tar.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("m/link")
        info.type, info.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(info)
        info = tarfile.TarInfo("m/link/evil.py")
        tar.addfile(info, io.BytesIO())
    (store.directory / "folder").mkdir()
    (store.directory / "folder" / "handler.py").symlink_to(outside / "secret")
    (store.directory / "folder" / "other.py").touch()
    refused("zip.mar", ArchiveError, "is a symbolic link")
    refused("tar.tar.gz", ArchiveError, "is a link or a device")
    refused("folder", ArchiveError, "leads out of it")
    assert not list(outside.rglob("evil.py"))


def test_the_manifest_and_the_config_name_files_inside_only(refused: Any, store: Any, outside: Path) -> None:
    for number, (key, path) in enumerate(
        [
            ("configFile", "../secret"),
            ("configFile", str(outside / "secret")),
            ("serializedFile", "../../etc/passwd"),
            ("modelFile", "/etc/passwd"),
        ]
    ):
        document = json.loads(MANIFEST)
        document["model"][key] = path
        file = f"{number}.mar"
        with zipfile.ZipFile(store.directory / file, "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
            archive.writestr("handler.py", HANDLER)
        refused(file, ArchiveError, "outside of the archive's directory")
    document = json.loads(MANIFEST)
    document["model"]["requirementsFile"] = "../secret"
    with zipfile.ZipFile(store.directory / "requirements.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
    refused("requirements.mar", ArchiveError, "there is no file 'secret' in the archive")


def test_a_config_file_makes_no_objects(refused: Any, store: Any, tmp_path: Path) -> None:
    """GHSA-mjmj-j48q-9wg2: a YAML tag that builds an object of the server."""
    evil = f"!!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    store.add("a.mar", HANDLER, config=evil)
    refused("a.mar", ArchiveError, "is not YAML")
    assert not (tmp_path / "made").exists()


def test_what_is_too_large_when_unpacked(refused: Any, store: Any) -> None:
    with zipfile.ZipFile(store.directory / "zeros.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
        archive.writestr("zeros", bytes(10**7))
    with tarfile.open(store.directory / "zeros.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("m/zeros")
        info.size = 10**7
        tar.addfile(info, io.BytesIO(bytes(10**7)))
    with zipfile.ZipFile(store.directory / "many.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
        for number in range(200):
            archive.writestr(str(number), "")
    for url in ("zeros.mar", "zeros.tar.gz"):
        refused(url, ArchiveError, "max_archive_bytes", max_archive_bytes=10**6)
    refused("many.mar", ArchiveError, "max_archive_files", max_archive_files=100)


def test_an_archive_in_the_store_is_served_whatever_the_url_before_its_name(
    in_process: Any, open_service: Any, store: Any
) -> None:
    service = open_service()
    store.add("a.mar", HANDLER)
    for url in ("/etc/a.mar", "sub/a.mar", "file:///elsewhere/a.mar", "a.mar"):
        in_process.run(service.register(RegisterParameters(url=url, initial_workers=1, synchronous=True)))
        assert in_process.run(service.predict(Query("m", "", {"d": b"x"}))).value == b"served"
        in_process.run(service.unregister("m"))
    assert [entry.name for entry in store.directory.iterdir()] == ["a.mar"], "it was there, and stays"
