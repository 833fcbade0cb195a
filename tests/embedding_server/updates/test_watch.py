"""Being woken by what appears."""

import threading

import pytest

from satrap.embedding_server.updates.watch import FolderWatch
from satrap.storage import open_storage


@pytest.fixture
def arrived():
    return threading.Event()


@pytest.fixture
def watch(arrived):
    watch = FolderWatch(lambda name: None if name.startswith(".") else arrived.set())
    yield watch
    watch.close()


def test_what_is_published_wakes(watch, arrived, tmp_path):
    watch.watch([tmp_path])
    storage = open_storage(tmp_path)
    storage.publish("1.arrow", b"data")
    storage.publish("1.json", b"manifest")
    assert arrived.wait(10)
    arrived.clear()
    storage.publish("1.json", b"another", replace=True)
    assert arrived.wait(10)
    arrived.clear()
    (tmp_path / "copied.json").write_text("by something else")
    assert arrived.wait(10)


def test_a_folder_that_comes_and_goes(watch, arrived, tmp_path):
    folder = tmp_path / "later"
    watch.watch([folder])
    folder.mkdir()
    watch.watch([folder])
    (folder / "a").mkdir()
    assert arrived.wait(10)
    (folder / "a").rmdir()
    folder.rmdir()
    folder.mkdir()
    for _ in range(1000):  # as the polls do, until the thread has heard that the old one is gone
        watch.watch([])
        watch.watch([folder])
        arrived.clear()
        (folder / "b").touch()
        if arrived.wait(0.05):
            break
        (folder / "b").unlink()
    assert arrived.wait(10)


def test_no_other_folder_any_more(watch, arrived, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    watch.watch([old])
    watch.watch([new])
    (old / "1").touch()
    assert not arrived.is_set()
    (new / "1").touch()
    assert arrived.wait(10)


def test_closed_twice_and_never_used(arrived):
    watch = FolderWatch(lambda name: arrived.set())
    watch.close()
    watch.close()
