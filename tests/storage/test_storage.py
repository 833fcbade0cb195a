"""What every storage promises, over each that needs no server."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from satrap.errors import InvalidInputError, PathEscapeError, StorageError
from satrap.storage import Entry, full_location, open_storage
from satrap.storage.remote import RemoteStorage


def names(entries):
    return [entry.name for entry in entries]


def test_an_absent_folder_is_an_empty_one(storage):
    assert storage.list() == [] and storage.list("sub") == []
    assert not storage.exists() and not storage.exists("a")
    for fails in (storage.read, storage.open, storage.stat, storage.remove):
        with pytest.raises(FileNotFoundError):
            fails("a")


def test_what_is_published_is_there_whole(storage):
    storage.publish("b", b"hello")
    storage.publish(
        "a", lambda upload: [upload.write(piece) for piece in (b"a", bytearray(b"b"), memoryview(b"c"))]
    )
    storage.publish("empty", b"")
    assert names(storage.list()) == ["a", "b", "empty"]
    assert [entry.size for entry in storage.list()] == [3, 5, 0]
    assert storage.read("a") == b"abc" and storage.read("empty") == b""
    assert storage.exists("a") and storage.exists()
    with storage.open("b") as file:
        assert file.seekable()
        assert file.read(2) == b"he" and file.seek(-1, 2) == 4 and file.read() == b"o"
    entry = storage.stat("b")
    assert (entry.name, entry.size, entry.is_folder) == ("b", 5, False)
    assert entry.modified_ns > 1_600_000_000 * 10**9


def test_two_readers_of_one_file(storage):
    storage.publish("a", b"0123456789")
    with storage.open("a") as one, storage.open("a") as other:
        assert one.read(5) == b"01234" and other.read(2) == b"01" and one.read() == b"56789"


@pytest.mark.parametrize(
    ("limit", "expected"), [(0, b"h"), (3, b"hell"), (4, b"hello"), (5, b"hello"), (2**62, b"hello")]
)
def test_a_limit_bounds_what_is_read(storage, limit, expected):
    storage.publish("a", b"hello")
    assert storage.read("a", limit=limit) == expected
    storage.publish("empty", b"")
    assert storage.read("empty", limit=limit) == b""


def test_a_name_is_taken_once(storage):
    storage.publish("a", b"1")
    with pytest.raises(FileExistsError):
        storage.publish("a", b"2")
    assert storage.read("a") == b"1"
    storage.publish("a", b"3", replace=True)
    assert storage.read("a") == b"3"
    assert names(storage.list(temporary=True)) == ["a"]


def test_what_is_replaced_is_never_absent(storage, monkeypatch):
    """A hold that is not there for a moment is a release."""
    storage.publish("hold", b"1")
    if isinstance(storage, RemoteStorage):
        real = storage._fs.rm_file

        def remove(place: str) -> None:
            assert not place.endswith("/hold")
            real(place)

        monkeypatch.setattr(storage._fs, "rm_file", remove)
    for content in (b"2" * 100, b"", b"3"):
        storage.publish("hold", content, replace=True)
        assert storage.read("hold") == content
        assert names(storage.list(temporary=True)) == ["hold"]


def test_what_is_large_is_replaced_too(storage):
    storage.publish("a", b"1")
    storage.publish("a", b"2" * (2 << 20), replace=True)
    assert storage.read("a") == b"2" * (2 << 20)
    assert names(storage.list(temporary=True)) == ["a"]


def test_lists_begin_after_a_name(storage):
    for name in ("00", "01", "02-x", "hold"):
        storage.publish(name, b"")
    assert names(storage.list(after="01")) == ["02-x", "hold"]
    assert names(storage.list(after="01x")) == ["02-x", "hold"]
    assert names(storage.list(after="zz")) == []


def test_folders(storage):
    storage.publish("sub/a", b"1")
    storage.publish("b", b"2")
    assert storage.list()[1] == Entry("sub", 0, storage.list()[1].modified_ns, True)
    assert names(storage.list("sub")) == ["a"]
    assert storage.read("sub/a") == b"1"
    below = storage.subfolder("sub")
    assert below.read("a") == b"1" and below.url == storage.path_of("sub")
    assert storage.stat("sub").is_folder
    storage.remove("sub/a")
    with suppress(FileNotFoundError):  # an object store forgets a folder with its last file
        storage.remove("sub")
    assert names(storage.list()) == ["b"]


def test_a_folder_that_is_not_empty_stays(storage):
    storage.publish("sub/a", b"1")
    with pytest.raises(StorageError, match="not empty"):
        storage.remove("sub")
    assert storage.read("sub/a") == b"1"


def test_a_file_is_no_folder(storage):
    storage.publish("a", b"1")
    for lists in (lambda: storage.list("a"), storage.subfolder("a").list):
        with pytest.raises(StorageError, match="is a file, not a folder"):
            lists()


def test_removed_is_gone(storage):
    storage.publish("a", b"1")
    storage.remove("a")
    assert storage.list() == [] and not storage.exists("a")
    with pytest.raises(FileNotFoundError):
        storage.remove("a")
    storage.sync()


def test_nobody_sees_what_is_not_published(storage):
    upload = storage.upload("a")
    upload.write(b"1")
    upload.sync()
    assert storage.list() == [] and not storage.exists("a")
    upload.discard()
    upload.discard()
    assert storage.list(temporary=True) == [] and not storage.exists("a")


def test_a_writer_that_fails_leaves_nothing(storage):
    def fails(upload):
        upload.write(b"1")
        raise RuntimeError("the trainer's own")

    with pytest.raises(RuntimeError, match="the trainer's own"):
        storage.publish("a", fails)
    assert storage.list(temporary=True) == [] and not storage.exists("a")


@pytest.mark.parametrize("name", ["..", "../a", "/etc/passwd", "a/../../b", "a//b", ".", "a/", "a\0b", "./a"])
def test_no_name_leads_out(storage, name):
    storage.publish("a/b", b"")
    uses = [
        storage.read,
        storage.open,
        storage.upload,
        storage.remove,
        storage.stat,
        storage.subfolder,
        storage.list,
    ]
    for use in uses:
        with pytest.raises(PathEscapeError, match="does not lead to a file below"):
            use(name)


def test_the_empty_name_is_no_file(storage):
    storage.publish("a", b"")
    for use in (storage.read, storage.open, storage.upload, storage.remove, storage.subfolder):
        with pytest.raises(PathEscapeError):
            use("")


def test_memory_is_named_by_its_url():
    storage = open_storage("memory://here/there/")
    assert storage.url == "memory://here/there" and storage.local is None
    assert storage.path_of("a") == "memory://here/there/a" and storage.path_of("") == storage.url


def test_paths_and_file_urls_are_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = open_storage("packets")
    assert relative.local == tmp_path / "packets" and relative.url == str(tmp_path / "packets")
    monkeypatch.chdir("/")
    assert relative.local == tmp_path / "packets"
    assert open_storage(f"file://{tmp_path}/a%20b").local == tmp_path / "a b"


@pytest.mark.parametrize(
    ("location", "kind", "full"),
    [
        ("/packets", "local", "/packets"),
        ("/packets", "ceph", "/packets"),
        ("/packets", "hdfs", "hdfs:///packets"),
        ("s3://bucket/packets", "hdfs", "s3://bucket/packets"),
        ("hdfs://host:8020/packets", "local", "hdfs://host:8020/packets"),
    ],
)
def test_what_a_path_without_a_scheme_means(location, kind, full):
    assert full_location(location, kind) == full


@pytest.mark.parametrize(
    ("location", "kind", "reason"),
    [
        ("", "local", "neither a path nor a URL"),
        ("a\0b", "local", "neither a path nor a URL"),
        ("s3:/bucket/packets", "local", "lost a slash: write s3://bucket/packets"),
        (Path("hdfs://host/packets"), "local", "lost a slash: write hdfs://host/packets"),
        ("/a", "tape", "storage is one of local, ceph, hdfs"),
        ("nosuch://a", "local", "there is no storage nosuch://"),
    ],
)
def test_what_names_no_storage(location, kind, reason):
    with pytest.raises(InvalidInputError, match=reason):
        open_storage(location, kind)


def test_a_missing_package_is_named(monkeypatch):
    def missing(scheme):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(InvalidInputError, match=r"pip install 'satrap\[s3\]'"):
        open_storage("s3://bucket/packets")


@pytest.mark.slow
def test_importing_takes_neither_pyarrow_nor_fsspec():
    code = (
        "import sys; import satrap.storage, satrap.formats.manifest, satrap.formats.packet, satrap.formats.decisions;"
        "satrap.storage.open_storage('.');"
        "assert not {'pyarrow', 'fsspec', 's3fs', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
