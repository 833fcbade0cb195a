"""Folders of this machine: links, pipes, permissions, full disks, and who else is there."""

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from satrap.errors import PathEscapeError, StorageError
from satrap.storage import open_storage


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.fixture
def storage(folder):
    return open_storage(folder)


def hidden(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def test_a_link_out_of_the_folder_is_refused(storage, folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("secret")
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to("../secret")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (folder / "chain").symlink_to("link")
    for name in ("link", "up", "chain", "sub/file"):
        for use in (storage.read, storage.open, storage.stat):
            with pytest.raises(PathEscapeError, match="a symbolic link leads out of"):
                use(name)
    for use in (storage.subfolder, storage.list, storage.sync):
        with pytest.raises(PathEscapeError):
            use("sub")
    with pytest.raises(PathEscapeError):
        storage.publish("sub/new", b"")
    with pytest.raises(PathEscapeError):
        storage.remove("sub/file")
    assert [entry.name for entry in storage.list()] == ["chain", "link", "sub", "up"]
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["file"]


def test_a_link_within_the_folder_is_followed(storage, folder):
    storage.publish("sub/a", b"1")
    (folder / "link").symlink_to("sub/a")
    (folder / "latest").symlink_to("sub")
    assert storage.read("link") == b"1" and storage.read("latest/a") == b"1"
    assert storage.subfolder("latest").read("a") == b"1"
    assert next(entry for entry in storage.list() if entry.name == "latest").is_folder


def test_the_folder_itself_may_be_a_link(storage, folder, tmp_path):
    storage.publish("a", b"1")
    (tmp_path / "link").symlink_to(folder)
    other = open_storage(tmp_path / "link")
    assert other.read("a") == b"1"
    other.publish("b", b"2")
    assert storage.read("b") == b"2"


def test_a_folder_whose_name_begins_like_this_one_is_another(storage, folder, tmp_path):
    (tmp_path / "folder-2").mkdir()
    (tmp_path / "folder-2" / "a").write_text("1")
    (folder / "link").symlink_to(tmp_path / "folder-2" / "a")
    with pytest.raises(PathEscapeError):
        storage.read("link")


def test_removing_a_link_leaves_what_it_leads_to(storage, folder, tmp_path):
    (tmp_path / "kept").write_text("1")
    (folder / "link").symlink_to(tmp_path / "kept")
    storage.remove("link")
    assert (tmp_path / "kept").exists() and storage.list() == []


def test_links_that_lead_nowhere(storage, folder):
    (folder / "circle").symlink_to("circle")
    (folder / "gone").symlink_to("nothing")
    assert [entry.name for entry in storage.list()] == ["circle", "gone"]
    with pytest.raises((StorageError, FileNotFoundError)):
        storage.read("circle")
    with pytest.raises(FileNotFoundError):
        storage.read("gone")
    with pytest.raises(FileExistsError):
        storage.publish("gone", b"")


def test_a_pipe_is_not_waited_for(storage, folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(StorageError, match="is not a file"):
        storage.read("pipe")


def test_folders_and_files_are_told_apart(storage):
    storage.publish("a", b"1")
    storage.publish("sub/b", b"1")
    with pytest.raises(StorageError, match="is a folder, not a file"):
        storage.read("sub")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        storage.read("a/b")
    with pytest.raises((StorageError, FileExistsError)):
        storage.publish("a/b", b"")
    with pytest.raises(StorageError, match="not empty"):
        storage.remove("sub")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        storage.subfolder("a").list()


def test_of_many_who_publish_one_name_one_does(storage, folder):
    start = threading.Barrier(8)
    results = []

    def publish(number):
        start.wait()
        try:
            storage.publish("a", bytes([number]) * 10_000)
        except FileExistsError:
            return
        results.append(number)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1 and storage.read("a") == bytes(results) * 10_000
    assert hidden(folder) == []


def test_names_that_are_not_utf8_are_left_out(storage, folder):
    storage.publish("a", b"1")
    (folder / os.fsdecode(b"\xff\xfe")).write_text("")
    assert [entry.name for entry in storage.list()] == ["a"]


def test_temporary_names_are_shown_when_asked_for(storage, folder):
    upload = storage.upload("a")
    assert storage.list() == []
    [entry] = storage.list(temporary=True)
    assert entry.name.startswith(".a.")
    upload.discard()
    assert hidden(folder) == []


def test_a_file_that_goes_while_it_is_read_is_read_to_its_end(storage, folder):
    storage.publish("a", b"x" * 100_000)
    with storage.open("a") as file:
        first = file.read(10)
        (folder / "a").unlink()
        assert len(first + file.read()) == 100_000


def test_a_folder_that_goes_while_it_is_written(storage, folder):
    upload = storage.upload("a")
    upload.write(b"1")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(StorageError, match="the folder went away"):
        upload.publish()


def test_where_there_are_no_hard_links_files_are_renamed(storage, folder, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    storage.publish("a", b"1")
    assert storage.read("a") == b"1"
    with pytest.raises(FileExistsError):
        storage.publish("a", b"2")
    assert storage.read("a") == b"1" and hidden(folder) == []


def test_a_disk_that_fails_to_sync_publishes_nothing(storage, folder, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.publish("a", b"1")
    assert list(folder.iterdir()) == []


def test_a_file_system_whose_folders_need_no_syncing(storage, monkeypatch):
    real = os.fsync

    def refuse_folders(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    storage.publish("a", b"1")
    assert storage.read("a") == b"1"


def test_a_file_larger_than_allowed(storage, folder):
    """The process may write 4 KiB a file: what a quota or a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match="larger than this process or the file system may write"):
            storage.publish("a", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []
    storage.publish("a", b"x" * 10_000)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_write_that_fails_leaves_nothing(storage, folder, monkeypatch, number, reason):
    real = os.write
    calls = []

    def fail(descriptor, data):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data[:10])  # a short write, as before a full disk

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StorageError, match=reason):
        storage.publish("a", b"x" * 100)
    assert list(folder.iterdir()) == []


def test_a_full_disk(small_disk):
    storage = open_storage(small_disk)
    storage.publish("a", b"x" * 1000)
    with pytest.raises(StorageError, match="the disk is full: free some space"):
        storage.publish("b", b"x" * (1 << 20))
    assert [path.name for path in small_disk.iterdir()] == ["a"]
    storage.publish("c", b"x" * 1000)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB, where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_permission_denied(folder):
    """By another user's process, if this is root's."""
    (folder / "unreadable").write_bytes(b"1")
    (folder / "unreadable").chmod(0)
    (folder / "locked").mkdir(mode=0)
    folder.chmod(0o555)
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    code = """
import os, sys
from satrap.errors import StorageError
from satrap.storage import open_storage
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
storage = open_storage(sys.argv[1])
for use, name in [(storage.read, "unreadable"), (storage.list, "locked"), (storage.upload, "new"),
                  (storage.remove, "unreadable"), (storage.stat, "locked/a"), (storage.read, "locked/a")]:
    try:
        use(name)
    except StorageError as error:
        assert "permission denied" in str(error), error
    else:
        raise SystemExit(f"{use} did not fail")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd="/", check=False
    )
    folder.chmod(0o755)
    assert result.returncode == 0, result.stderr
