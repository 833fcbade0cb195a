"""Archives: what is refused, and why; what is unpacked; which url means which archive."""

import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from satrap.errors import ArchiveExistsError, ArchiveNotFoundError, ConfigError, DownloadError
from satrap.serving.archive.manifest import ArchiveOptions, Manifest, ManifestError
from satrap.serving.archive.store import Located, ModelStore, fallback_name, startup_archives
from satrap.serving.archive.unpack import Limits, UnpackError, unpack
from satrap.serving.archive.urls import AllowedUrls

LIMITS = Limits(max_bytes=10_000, max_files=10)

MANIFEST = {
    "createdOn": "20/11/2026 11:27:36",
    "runtime": "python",
    "model": {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"},
    "archiverVersion": "0.12.0",
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def zipped(path: Path, entries: dict[str, str], document: object = MANIFEST) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if document is not None:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tarred(
    path: Path, entries: dict[str, str], change: Callable[[tarfile.TarInfo], None] | None = None
) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"m/MAR-INF/MANIFEST.json": json.dumps(MANIFEST), **entries}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change is not None and name in entries:
                change(info)
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def directory(path: Path, entries: dict[str, str]) -> Path:
    for name, content in {"MAR-INF/MANIFEST.json": json.dumps(MANIFEST), **entries}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def files(target: Path) -> set[str]:
    return {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}


ENTRIES = {"handler.py": "pass", "inner/weights.bin": "w"}


@pytest.mark.parametrize("kind", ["zip", "tar", "directory"])
def test_every_format_unpacks_to_the_same(kind: str, tmp_path: Path, target: Path) -> None:
    archive = {
        "zip": lambda: zipped(tmp_path / "a.mar", ENTRIES),
        "tar": lambda: tarred(tmp_path / "a.tar.gz", {f"m/{k}": v for k, v in ENTRIES.items()}),
        "directory": lambda: directory(tmp_path / "a", ENTRIES),
    }[kind]()
    manifest, options = unpack(archive, target, LIMITS)
    assert (manifest.model_name, manifest.version, manifest.handler) == ("m", "1.0", "handler.py")
    assert manifest.raw == MANIFEST
    assert options == ArchiveOptions()
    assert files(target) == {"MAR-INF/MANIFEST.json", *ENTRIES}


@pytest.mark.parametrize("name", ["../out.py", "/out.py", "a/../../out.py", "C:/out.py", "..\\out.py"])
def test_a_path_that_leaves_the_directory(name: str, tmp_path: Path, target: Path) -> None:
    with pytest.raises(UnpackError, match="outside of the archive's directory"):
        unpack(zipped(tmp_path / "a.mar", {name: ""}), target, LIMITS)
    with pytest.raises(UnpackError, match="outside of the archive's directory"):
        unpack(tarred(tmp_path / "a.tar.gz", {name: ""}), tmp_path / "other", LIMITS)
    assert not (tmp_path / "out.py").exists()


def test_a_symbolic_link_in_a_zip(tmp_path: Path, target: Path) -> None:
    path = zipped(tmp_path / "a.mar", {})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UnpackError, match="'link' is a symbolic link"):
        unpack(path, target, LIMITS)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar(kind: bytes, tmp_path: Path, target: Path) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    with pytest.raises(UnpackError, match="is a link or a device"):
        unpack(tarred(tmp_path / "a.tar.gz", {"m/x": ""}, change), target, LIMITS)


def test_links_in_a_directory(tmp_path: Path, target: Path) -> None:
    path = directory(tmp_path / "a", ENTRIES)
    (path / "inside").symlink_to(path / "handler.py")
    unpack(path, target, LIMITS)
    assert (target / "inside").read_text() == "pass" and not (target / "inside").is_symlink()
    (path / "outside").symlink_to("/etc/passwd")
    with pytest.raises(UnpackError, match="outside is a symbolic link that leads out"):
        unpack(path, tmp_path / "other", LIMITS)
    (path / "outside").unlink()
    (path / "folder").symlink_to(path / "inner")
    with pytest.raises(UnpackError, match="folder is a symbolic link to a directory"):
        unpack(path, tmp_path / "another", LIMITS)


def test_no_manifest(tmp_path: Path, target: Path) -> None:
    manifest, options = unpack(zipped(tmp_path / "a.mar", ENTRIES, None), target, LIMITS)
    assert (manifest.model_name, manifest.handler) == ("", ""), "the registration must give them"
    assert (manifest.version, manifest.runtime) == ("1.0", "python")
    assert options == ArchiveOptions()
    assert files(target) == set(ENTRIES)


def test_a_tar_file_with_another_leading_folder_or_none(tmp_path: Path, target: Path) -> None:
    manifest, _ = unpack(
        tarred(tmp_path / "a.tar.gz", {f"./{k}": v for k, v in ENTRIES.items()}), target, LIMITS
    )
    assert manifest.model_name == "m"
    assert files(target) == {"MAR-INF/MANIFEST.json", *ENTRIES}
    flat = tmp_path / "flat"
    flat.mkdir()
    unpack(tarred(tmp_path / "b.tar.gz", {"handler.py": "pass"}, None), flat, LIMITS)
    assert files(flat) == {"MAR-INF/MANIFEST.json", "handler.py"}, "a name without a folder stays"


def test_a_directory_that_holds_one_directory(tmp_path: Path, target: Path) -> None:
    directory(tmp_path / "a" / "m", ENTRIES)
    manifest, _ = unpack(tmp_path / "a", target, LIMITS)
    assert manifest.model_name == "m"
    assert files(target) == {"MAR-INF/MANIFEST.json", *ENTRIES}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "m").symlink_to(tmp_path / "a" / "m")
    with pytest.raises(UnpackError, match="m is a symbolic link that leads out of it"):
        unpack(tmp_path / "b", tmp_path / "other", LIMITS)


def test_more_than_the_limits(tmp_path: Path, target: Path) -> None:
    many = zipped(tmp_path / "many.mar", {f"f{i}": "" for i in range(20)})
    large = zipped(tmp_path / "large.mar", {"zeros": "0" * 20_000})
    for archive, key in ((many, "max_archive_files"), (large, "max_archive_bytes")):
        with pytest.raises(UnpackError, match=key):
            unpack(archive, target / key, LIMITS)


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path, target: Path) -> None:
    path = zipped(tmp_path / "a.mar", {"zeros": "0" * 20_000})
    honest = struct.pack("<I", 20_000)
    path.write_bytes(path.read_bytes().replace(honest, struct.pack("<I", 10)))
    with pytest.raises(UnpackError):
        unpack(path, target, LIMITS)
    assert sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) < 10_000


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_a_cut_archive(keep: float, tmp_path: Path, target: Path) -> None:
    for path in (zipped(tmp_path / "a.mar", ENTRIES), tarred(tmp_path / "a.tar.gz", {"m/x": "x" * 500})):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(UnpackError):
            unpack(path, target, LIMITS)


def test_damaged_contents(tmp_path: Path, target: Path) -> None:
    path = zipped(tmp_path / "a.mar", {"zeros": "0123456789" * 100})
    content = bytearray(path.read_bytes())
    content[content.index(b"zeros") + 8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UnpackError, match="not a sound zip file"):
        unpack(path, target, LIMITS)


def test_flipped_bytes_end_in_an_answer(tmp_path: Path) -> None:
    """Whatever the damage: unpacked, refused with a sentence, or an error of the disk. Nothing else."""
    entries = {"handler.py": "pass" * 50, "c.yaml": "batchSize: 3\n"}
    originals = [
        zipped(tmp_path / "a.mar", entries).read_bytes(),
        tarred(tmp_path / "a.tar.gz", {f"m/{k}": v for k, v in entries.items()}).read_bytes(),
    ]
    rng, refused = random.Random(1), 0
    for number in range(600):
        content = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "damaged").write_bytes(content)
        try:
            unpack(tmp_path / "damaged", tmp_path / str(number), LIMITS)
        except (UnpackError, ManifestError, OSError):
            refused += 1
    assert refused > 300


def test_the_same_name_twice(tmp_path: Path, target: Path) -> None:
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "a.mar", "w") as archive,
    ):
        archive.writestr("x", "1")
        archive.writestr("x", "2")
    with pytest.raises(UnpackError, match="'x' twice"):
        unpack(tmp_path / "a.mar", target, LIMITS)


def test_what_is_no_archive(tmp_path: Path, target: Path) -> None:
    (tmp_path / "a.mar").write_text("hello")
    with pytest.raises(UnpackError, match="neither a zip file"):
        unpack(tmp_path / "a.mar", target, LIMITS)


def without(*keys: str) -> dict:
    document = json.loads(json.dumps(MANIFEST))
    place = document
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    return document


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({**MANIFEST, "model": None}, "Missing Model entry in manifest file."),
        ({**MANIFEST, "model": "m"}, "Missing Model entry in manifest file."),
        ([], "Missing Model entry in manifest file."),
        ({**MANIFEST, "model": {**MANIFEST["model"], "modelVersion": ""}}, "Model version is not defined."),
        ({**MANIFEST, "runtime": None}, "Runtime is not defined or invalid."),
        ({**MANIFEST, "runtime": "LSP"}, "Runtime is not defined or invalid."),
        ({**MANIFEST, "model": {**MANIFEST["model"], "modelName": ["m"]}}, "model.modelName is not a string"),
    ],
)
def test_a_bad_manifest(document: object, sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence.replace(".", r"\.")):
        Manifest.parse(json.dumps(document).encode())


def test_a_manifest_that_is_not_json() -> None:
    with pytest.raises(ManifestError, match="is not JSON"):
        Manifest.parse(b"\xff{")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (without("model"), ("", "1.0", "", "python")),
        (without("model", "modelName"), ("", "1.0", "handler.py", "python")),
        (without("model", "modelVersion"), ("m", "1.0", "handler.py", "python")),
        (without("model", "handler"), ("m", "1.0", "", "python")),
        (without("runtime"), ("m", "1.0", "handler.py", "python")),
    ],
)
def test_what_a_manifest_may_leave_out(document: object, expected: tuple[str, ...]) -> None:
    manifest = Manifest.parse(json.dumps(document).encode())
    assert (manifest.model_name, manifest.version, manifest.handler, manifest.runtime) == expected


def test_a_version_may_be_a_number() -> None:
    document = {**MANIFEST, "model": {**MANIFEST["model"], "modelVersion": 1.5}}
    assert Manifest.from_document(document).version == "1.5"


def test_the_servers_keys_of_a_config_file() -> None:
    options = ArchiveOptions.parse(b"batchSize: 4\nmaxBatchDelay: 0\nminWorkers: 2\nmine: {a: 1}\n", "c.yaml")
    assert options == ArchiveOptions(batch_size=4, max_batch_delay_ms=0, min_workers=2)
    assert ArchiveOptions.parse(b"", "c.yaml") == ArchiveOptions()
    for text in (
        b"satrap: {sparse_sequence: 12}\nbatchSize: 4",
        b"batchSize: 4\nsatrap:\n  sparse_sequence: 12\n",
    ):
        assert ArchiveOptions.parse(text, "c.yaml") == ArchiveOptions(batch_size=4, sparse_sequence=12)
    for text in (b"satrap:", b"satrap: {}", b"satrap: {sparse_sequence: }"):
        assert ArchiveOptions.parse(text, "c.yaml") == ArchiveOptions()
    largest = ArchiveOptions.parse(b"satrap: {sparse_sequence: 4294967295}", "c.yaml")
    assert largest.sparse_sequence == 2**32 - 1


@pytest.mark.parametrize("key", ["parallelType: tp", "continuousBatching: true", "sequenceBatching: true"])
def test_a_config_file_that_asks_for_another_way_of_running_the_handler(key: str) -> None:
    name = key.partition(":")[0]
    with pytest.raises(
        ManifestError, match=rf"config file c\.yaml: {name} is .*not served here; take the key out"
    ):
        ArchiveOptions.parse(key.encode(), "c.yaml")


def test_keys_of_a_config_file_that_change_nothing() -> None:
    text = b"parallelType: none\ncontinuousBatching: false\nparallelLevel: 0\n"
    assert ArchiveOptions.parse(text, "c.yaml").ignored == ()
    text = b"torchrun: {nproc-per-node: 2}\nparallelLevel: 2\nuseJobTicket: true\nmine: 1\n"
    assert ArchiveOptions.parse(text, "c.yaml").ignored == ("torchrun", "parallelLevel", "useJobTicket")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"batchSize: 0", "batchSize is 0, not a whole number from 1"),
        (b"batchSize: many", "batchSize is 'many'"),
        (b"minWorkers: true", "minWorkers is True"),
        (b"satrap: 12", r"satrap is 12, not a mapping like \{sparse_sequence: 12\}"),
        (b"satrap: []", r"satrap is \[\], not a mapping"),
        (b"satrap: {sparse_sequnce: 12}", "satrap.sparse_sequnce is unknown"),
        (
            b"satrap: {sparse_sequence: 0}",
            "satrap.sparse_sequence is 0, not a whole number from 1 to 4294967295",
        ),
        (b"satrap: {sparse_sequence: -3}", "satrap.sparse_sequence is -3"),
        (b"satrap: {sparse_sequence: 4294967296}", "satrap.sparse_sequence is 4294967296"),
        (b"satrap: {sparse_sequence: 1.5}", "satrap.sparse_sequence is 1.5"),
        (b"satrap: {sparse_sequence: '12'}", "satrap.sparse_sequence is '12'"),
        (b"satrap: {sparse_sequence: true}", "satrap.sparse_sequence is True"),
        (b"satrap: {warmup: 3}", "satrap.warmup is 3, not a file's name"),
        (b"satrap: {warmup: ''}", "satrap.warmup is ''"),
        (b"- a", "not a mapping"),
        (b"{", "not YAML"),
    ],
)
def test_a_bad_config_file(text: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        ArchiveOptions.parse(text, "c.yaml")


@pytest.mark.parametrize("key", ["serializedFile", "modelFile", "configFile"])
def test_a_file_of_the_manifest_that_is_not_there_or_elsewhere(
    tmp_path: Path, target: Path, key: str
) -> None:
    document = {**MANIFEST, "model": {**MANIFEST["model"], key: "c.yaml"}}
    with pytest.raises(UnpackError, match=rf"'c\.yaml' that its manifest names as {key} is not in it"):
        unpack(zipped(tmp_path / "a.mar", {}, document), target, LIMITS)
    for outside in ("../c.yaml", "/etc/hostname"):
        document["model"][key] = outside
        with pytest.raises(UnpackError, match="outside"):
            unpack(zipped(tmp_path / "b.mar", {}, document), tmp_path / outside.replace("/", "_"), LIMITS)


def test_a_url_is_a_base_name_in_the_store(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    (tmp_path / "a.mar").touch()
    directory(tmp_path / "unpacked", {})
    for url in ("a.mar", "/elsewhere/a.mar", "sub/a.mar", "file:///elsewhere/a.mar"):
        assert store.find(url) == Located(tmp_path / "a.mar")
    assert store.find("/any/where/unpacked") == Located(tmp_path / "unpacked")
    directory(tmp_path / "nested" / "m", {})
    directory(tmp_path / ".satrap" / "m", {})
    (tmp_path / ".hidden.mar").touch()
    (tmp_path / "old.model").touch()
    (tmp_path / "folder.mar").mkdir()
    assert store.all() == ["a.mar", "nested", "old.model", "unpacked"]


NOT_ALLOWED = (
    "does not match any allowed URL(s): none is allowed here, see serving.allowed_urls (allowed_urls in "
    "config.properties)"
)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("../a.mar", "Relative path is not allowed in url: ../a.mar"),
        ("a..b.mar", "Relative path is not allowed in url: a..b.mar"),
        ("http://h/a.mar", f"Given URL http://h/a.mar {NOT_ALLOWED}"),
        ("S3://h/a.mar", f"Given URL S3://h/a.mar {NOT_ALLOWED}"),
        ("file:///elsewhere/b.mar", f"Given URL file:///elsewhere/b.mar {NOT_ALLOWED}"),
        ("/", "Model not found at: /"),
        ("a\0.mar", "Model not found at: a\0.mar"),
        ("missing.mar", "Model not found at: missing.mar"),
        (".hidden.mar", "Model not found at: .hidden.mar"),
        (".", "Model not found at: ."),
        ("/elsewhere/.satrap", "Model not found at: /elsewhere/.satrap"),
        ("n" * 300, "Model not found at: " + "n" * 300),
        ("\ud800.mar", "Model not found at: \ud800.mar"),
        ("/etc", "Model not found at: /etc"),
    ],
)
def test_a_url_that_is_refused(url: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.mar").touch()
    (tmp_path / ".hidden.mar").touch()
    (tmp_path / ".satrap").mkdir()
    with pytest.raises(ArchiveNotFoundError) as caught:
        ModelStore(tmp_path).find(url)
    assert str(caught.value) == sentence


def test_urls_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.mar").touch()
    store = ModelStore(tmp_path, AllowedUrls(["http://h/.*", "file:///.*", "ftp://.*"]))
    assert store.find("http://h/x/b.mar?v=1") == Located(tmp_path / "b.mar", "http://h/x/b.mar?v=1")
    assert store.find("file:///models/b.mar") == Located(tmp_path / "b.mar", "file:///models/b.mar")
    assert store.find(f"file://{tmp_path}/a.mar") == Located(tmp_path / "a.mar"), "it is there"
    for url in ("http://h/a.mar", "file:///models/a.mar"):
        with pytest.raises(ArchiveExistsError, match=r"Model file already exists a\.mar"):
            store.find(url)
    with pytest.raises(ArchiveNotFoundError, match=r"does not match any allowed URL\(s\)$"):
        store.find("http://g/a.mar")
    with pytest.raises(ArchiveNotFoundError, match="Model not found at"):
        store.find(f"file://{tmp_path}/b.mar")
    with pytest.raises(DownloadError, match="archives are downloaded from http"):
        store.find("ftp://h/b.mar")
    with pytest.raises(ArchiveNotFoundError, match="Relative path is not allowed"):
        store.find("http://h/../b.mar")
    with pytest.raises(ArchiveNotFoundError, match="Model store has not been configured"):
        ModelStore(None, AllowedUrls([".*"])).find("http://h/a.mar")


def test_no_url_and_no_store(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotFoundError, match="empty url"):
        ModelStore(tmp_path).find("")
    with pytest.raises(ArchiveNotFoundError, match=r"Model store has not been configured\."):
        ModelStore(None).find("a.mar")
    assert ModelStore(None).all() == []


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("a-b.mar", "a_b"),
        ("/x/m.mar", "m"),
        ("_m.model", "_m"),
        ("m.tar.gz", "m_tar_gz"),
        ("folder", "folder"),
    ],
)
def test_the_name_of_a_startup_model_that_has_none(url: str, name: str) -> None:
    assert fallback_name(url) == name, "TorchServe's"


def test_startup_archives(tmp_path: Path) -> None:
    (tmp_path / "b.mar").touch()
    store = ModelStore(tmp_path)
    assert startup_archives(None, store) == []
    assert startup_archives("a.mar, x=b.mar,", store) == [("", "a.mar"), ("x", "b.mar")]
    assert startup_archives("ALL", store) == [("", "b.mar")]
    for wrong in ("=a.mar", "x="):
        with pytest.raises(ConfigError, match="neither an archive nor name=archive"):
            startup_archives(wrong, store)
