"""S3, as moto's server answers it, through s3fs: the same promises, and what only S3 has."""

import threading

import numpy as np
import pytest

from satrap.errors import StorageError
from satrap.formats.checkpoint import CheckpointWriter, open_checkpoint, validate_checkpoint
from satrap.formats.manifest import after_sequence
from satrap.formats.packet import PacketContent, publish_packet, read_manifest, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import open_storage

pytestmark = pytest.mark.slow


@pytest.fixture
def storage(s3_endpoint, request):
    """A folder of a bucket of the test's own."""
    import boto3

    bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return open_storage(f"s3://{bucket}/folder")


def names(entries):
    return [entry.name for entry in entries]


def test_what_is_published_is_there_whole(storage):
    assert storage.list() == [] and not storage.exists()
    storage.publish("b", b"hello")
    storage.publish("a", lambda upload: [upload.write(b"x") for _ in range(3)])
    storage.publish("empty", b"")
    storage.publish("sub/c", b"1")
    assert names(storage.list()) == ["a", "b", "empty", "sub"]
    assert [entry.size for entry in storage.list()] == [3, 5, 0, 0]
    assert storage.list()[3].is_folder and storage.list()[0].modified_ns > 1_600_000_000 * 10**9
    assert storage.read("b") == b"hello" and storage.read("empty") == b"" and storage.read("sub/c") == b"1"
    assert storage.read("b", limit=2) == b"hel" and storage.read("empty", limit=2) == b""
    with storage.open("b") as file:
        assert file.seek(1) == 1 and file.read(2) == b"el" and file.read() == b"lo"
    assert storage.subfolder("sub").list() == storage.list("sub")
    with pytest.raises(FileExistsError):
        storage.publish("a", b"2")
    storage.publish("a", b"3", replace=True)
    assert storage.read("a") == b"3"
    with pytest.raises(StorageError, match="not empty"):
        storage.remove("sub")
    storage.remove("a")
    assert names(storage.list()) == ["b", "empty", "sub"] and not storage.exists("a")
    for fails in (storage.read, storage.open, storage.stat):
        with pytest.raises(FileNotFoundError):
            fails("a")


def test_nobody_sees_what_is_not_published(storage):
    upload = storage.upload("a")
    upload.write(b"1" * 40_000_000)  # two parts have gone
    assert storage.list(temporary=True) == [] and not storage.exists("a")
    upload.discard()
    assert storage.list(temporary=True) == [] and not storage.exists("a")
    storage.publish("a", lambda upload: upload.write(b"2" * 40_000_000))
    assert storage.stat("a").size == 40_000_000
    with storage.open("a") as file:
        file.seek(39_999_990)
        assert file.read() == b"2" * 10


def test_lists_of_more_than_one_page(storage, monkeypatch):
    monkeypatch.setattr("satrap.storage.remote._PAGE", 2)
    for number in range(5):
        storage.publish(f"{number}", b"")
        storage.publish(f"{number}-sub/a", b"")
    every = [f"{number}{end}" for number in range(5) for end in ("", "-sub")]
    assert names(storage.list()) == every
    assert names(storage.list(after="2")) == every[5:]


def test_only_the_names_after_the_last_are_asked_for(storage, monkeypatch):
    for sequence in range(1, 6):
        storage.publish(f"{sequence:020d}-w.json", b"")
    asked = []
    real = storage._fs.call_s3
    monkeypatch.setattr(
        storage._fs, "call_s3", lambda *args, **request: asked.append(request) or real(*args, **request)
    )
    assert names(storage.list(after=after_sequence(3))) == [
        f"{sequence:020d}-w.json" for sequence in (3, 4, 5)
    ]
    assert [request["StartAfter"] for request in asked] == ["folder/00000000000000000003"]


def test_packets_and_checkpoints(storage):
    signs = np.arange(1000, dtype=np.uint64)
    rows = np.outer(signs, np.ones(8)).astype(np.float32)
    manifest = publish_packet(
        storage,
        stream="ads",
        writer="w",
        sequence=1,
        previous=0,
        parts=[PacketContent(8, signs, rows)],
        num_shards=3,
    )
    assert read_manifest(storage, manifest.name) == manifest
    for route in (ShardRoute(1, 3), ShardRoute(1, 2), ShardRoute()):
        for _, own, own_rows in read_shard(storage, manifest, route):
            np.testing.assert_array_equal(own_rows[:, 0], own)
    folder = storage.subfolder("checkpoint")
    with CheckpointWriter(folder, stream="ads", writer="w", sequence=1, num_shards=2) as writer:
        writer.write(8, signs, rows)
        writer.finish()
    assert validate_checkpoint(open_checkpoint(folder), ShardRoute()) == 1000


def test_several_threads_at_once(storage):
    storage.publish("a", b"x" * 1000)
    found = []
    threads = [threading.Thread(target=lambda: found.append(storage.read("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"x" * 1000] * 8


def test_no_such_bucket(s3_endpoint):
    storage = open_storage("s3://no-such-bucket-here/folder")
    for use in (storage.list, lambda: storage.publish("a", b"1")):
        with pytest.raises(StorageError, match="bucket"):
            use()


def test_nobody_answers(monkeypatch):
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage = open_storage("s3://bucket-of-nobody/folder")
    with pytest.raises(StorageError, match="Could not connect to the endpoint"):
        storage.list()
