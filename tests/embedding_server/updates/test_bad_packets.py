"""Packets that are not what they should be, against a server that follows: a named error, and nothing else happens.

Whatever is in the directory, no row changes, lookups go on, the process lives, and when the bad packet is dropped, or
put right, the stream goes on.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packet_files import DIM, edited

from satrap.errors import UpdateError
from satrap.formats.packet import PacketContent

Files = dict[str, bytes]


def data_name(files: Files) -> str:
    return next(name for name in files if name.endswith(".arrow"))


def manifest_name(files: Files) -> str:
    return next(name for name in files if name.endswith(".json"))


def with_data(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda files: {**files, data_name(files): change(files[data_name(files)])}


def with_manifest(**changes: object) -> Callable[[Files], Files]:
    return lambda files: edited(files, lambda manifest: manifest.update(changes))


def with_entry(**changes: object) -> Callable[[Files], Files]:
    return lambda files: edited(files, lambda manifest: manifest["files"][0].update(changes))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def renamed(sequence: int) -> Callable[[Files], Files]:
    def rename(files: Files) -> Files:
        return {
            f"{sequence:020d}-w.json" if name.endswith(".json") else name: data
            for name, data in files.items()
        }

    return rename


def without_data(files: Files) -> Files:
    return {manifest_name(files): files[manifest_name(files)]}


BAD = {
    "truncated": ("truncated_file", with_data(lambda data: data[:-8])),
    "longer": ("truncated_file", with_data(lambda data: data + b"more")),
    "flipped bit": ("bad_checksum", with_data(flipped)),
    "missing": ("missing_file", without_data),
    "not Arrow": ("truncated_file", with_data(lambda data: b"something else")),
    "manifest cut": ("bad_manifest", lambda files: {**files, manifest_name(files): files[manifest_name(files)][:100]}),
    "manifest of zeros": ("bad_manifest", lambda files: {**files, manifest_name(files): bytes(4096)}),
    "manifest empty": ("bad_manifest", lambda files: {**files, manifest_name(files): b""}),
    "another sequence inside": ("bad_manifest", with_manifest(sequence=7)),
    "counts too many": ("wrong_row_count", with_entry(rows=101)),
    "counts too few": ("wrong_row_count", with_entry(rows=99)),
    "an enormous count": ("wrong_row_count", with_entry(rows=2**62)),
    "enormous bytes": ("truncated_file", with_entry(bytes=2**62)),
    "a later version": ("format_version", with_manifest(version=2)),
    "a path out": ("path_escape", with_entry(name="../secret.arrow")),
    "an absolute path": ("path_escape", with_entry(name="/etc/passwd")),
    "another dim than it says": ("bad_row_file", with_entry(dim=3)),
    "an ordinal too large": ("ordinal_range", None),
}  # fmt: skip


@pytest.fixture
def served(packets, following):
    """A server with packet 1 applied."""
    packets.publish()
    return following(dims=frozenset([DIM, 8]), config_digest="ours")


@pytest.fixture
def patient(packets, following):
    """The same, with a second between two tries, so that something can happen meanwhile."""
    packets.publish()
    return following({"poll_seconds": 1.0})


def refused_with(served, code: str) -> None:
    """The next packet was refused by this error, and only that has happened."""
    status = served.follow_until(lambda status: len(status.verdicts) == 1)
    assert status.verdicts[0].code == code
    # Shards are compared by it, so it is known also of what cannot be read.
    assert status.verdicts[0].sequence == int(status.verdicts[0].name[:20])
    assert status.applied_sequence == 1 and status.erased_rows == 0 and status.applied_rows == 100
    assert served.value() == 1 and served.value(dim=8) is None
    assert served.codes() == ["quarantined"] and served.ready()
    assert code in {error.code for error in _subclasses(UpdateError)}


def _subclasses(error: type[UpdateError]) -> set[type[UpdateError]]:
    return {error}.union(*map(_subclasses, error.__subclasses__()))


def goes_on(served, packets) -> None:
    """Dropped, and the stream goes on."""
    (record,) = served.quarantine("list")
    assert Path(record.kept_at, "reason.json").exists()
    served.quarantine("drop", record.name)
    packets.last = 2
    packets.publish()
    status = served.follow_until(lambda status: status.applied_sequence == 3)
    assert served.value() == 3 and not served.codes() and status.skipped_packets == 1


@pytest.mark.parametrize("name", [name for name, (_, make) in BAD.items() if make is not None])
def test_refused(name, packets, served):
    code, make = BAD[name]
    packets.put(make(packets.files(2)))
    refused_with(served, code)
    goes_on(served, packets)


@pytest.mark.parametrize("data", ["another config", "another dim", "misrouted", "not finite"])
def test_refused_for_what_is_in_it(data, packets, following):
    packets.publish(num_shards=2)
    served = following(dims=frozenset([DIM]), config_digest="ours", replica_index=0, replica_size=2)
    before = served.server.lookup((DIM, packets.signs)).groups[0].rows
    nan = np.full((100, DIM), 1, np.float32)
    nan[:, 2] = np.inf
    changes, code = {
        "another config": ({"embedding_config": "theirs"}, "foreign_config"),
        "another dim": ({"parts": packets.parts(2, dim=8)}, "foreign_config"),
        "not finite": ({"parts": [PacketContent(DIM, packets.signs, nan)]}, "guardrail"),
        "misrouted": ({"num_shards": 2}, "misrouted_sign"),
    }[data]
    files = packets.files(2, **changes)
    if data == "misrouted":  # the other shard's file under the name of this one's
        names = sorted(name for name in files if name.endswith(".arrow"))
        files = edited(files, lambda manifest: _swap_shards(manifest["files"]))
        assert len(names) == 2
    packets.put(files)
    status = served.follow_until(lambda status: len(status.verdicts) == 1)
    assert status.verdicts[0].code in (code, "bad_row_file") and status.applied_sequence == 1
    assert served.server.lookup((DIM, packets.signs)).groups[0].rows == before
    assert served.codes() == ["quarantined"]


def _swap_shards(files: list[dict]) -> None:
    files[0]["shard"], files[1]["shard"] = files[1]["shard"], files[0]["shard"]


def test_an_ordinal_too_large(packets, served):
    """2^32 and more do not fit into a row; nor does such a name stop the packets before it."""
    packets.put(renamed(2**32)(with_manifest(sequence=2**32, previous=1)(packets.files(2))))
    refused_with(served, "ordinal_range")
    packets.last = 1
    packets.publish()
    assert served.follow().applied_sequence == 2


def test_published_twice(packets, served):
    """The same packet under another writer's name: nobody can tell which one is right."""
    packets.put(packets.files(2))
    packets.put(packets.files(2, writer="copy"))
    status = served.follow()
    assert "forked_stream" in [alarm.code for alarm in status.alarms] and served.value() in (1, 2)


def test_two_before_either_is_applied(packets, following):
    packets.publish()
    for writer in ("a", "b"):
        packets.put(packets.files(2, writer=writer))
    served = following()
    assert served.codes() == ["forked_stream"] and served.value() == 1
    (packets.directory / f"{2:020d}-b.json").unlink()
    assert served.follow().applied_sequence == 2 and not served.codes()


def test_reordered(packets, served):
    for sequence in (4, 3, 2):
        assert served.value() == 1
        packets.put(packets.files(sequence))
        assert served.codes() == (["gap"] if sequence > 2 else [])
    assert served.value() == 4


def test_another_stream(packets, served):
    packets.put(packets.files(2, stream="other", writer="x"))
    assert served.codes() == ["foreign_stream"] and served.value() == 1


def test_another_stream_that_begins_below(packets, served):
    """A listing starts where the tables are; who publishes below is told of all the same, as inotify saw it."""
    packets.publish(3)
    assert served.follow().applied_sequence == 4
    packets.put(packets.files(1, stream="other", writer="x"))
    served.wait_until(lambda status: [alarm.code for alarm in status.alarms] == ["foreign_stream"])
    packets.publish()
    served.wait_until(lambda status: status.applied_sequence == 5)
    packets.put(packets.files(2))  # late, of the own stream: nothing happens
    (packets.directory / f"{1:020d}-x.json").unlink()
    served.wait_until(lambda status: not status.alarms)
    assert served.value() == 5


@pytest.mark.parametrize("slow", ["data", "half of the data", "half of the manifest"])
def test_slow_to_appear(slow, packets, patient):
    """Copied by something that does not publish as it should: waited for, and applied when it is whole."""
    files = packets.files(2)
    data, manifest = data_name(files), manifest_name(files)
    first = {
        "data": {manifest: files[manifest]},
        "half of the data": {data: files[data][:300], manifest: files[manifest]},
        "half of the manifest": {data: files[data], manifest: files[manifest][:200]},
    }[slow]
    packets.put(first)
    status = patient.follow()
    assert status.applied_sequence == 1 and [alarm.code for alarm in status.alarms] == ["storage"]
    packets.put(files)
    status = patient.follow_until(lambda status: status.applied_sequence == 2)
    assert not status.verdicts and patient.value() == 2


def test_deleted_while_it_is_read(packets, patient):
    """The manifest was read, its data are gone: and it may be that it all is, as a tidy operator leaves it."""
    files = packets.files(2)
    packets.put(without_data(files))
    patient.follow()
    (packets.directory / manifest_name(files)).unlink()
    status = patient.follow()
    assert status.applied_sequence == 1 and not status.alarms and not status.verdicts


def test_a_link_out_of_the_directory(packets, served, tmp_path):
    files = packets.files(2)
    data = data_name(files)
    (tmp_path / "outside.arrow").write_bytes(files[data])
    (packets.directory / data).symlink_to(tmp_path / "outside.arrow")
    packets.put(without_data(files))
    refused_with(served, "path_escape")
    goes_on(served, packets)


def test_a_folder_where_a_file_should_be(packets, served):
    """Nobody can read that, not even root: weather, until somebody puts it right, and not the packet's fault."""
    files = packets.files(2)
    data = data_name(files)
    (packets.directory / data).mkdir()
    packets.put(without_data(files))
    status = served.follow()
    assert [alarm.code for alarm in status.alarms] == ["storage"] and status.applied_sequence == 1
    assert served.value() == 1
    (packets.directory / data).rmdir()
    packets.put(files)
    served.follow_until(lambda status: status.applied_sequence == 2 and not status.alarms)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(packets, served):
    files = packets.files(2)
    packets.put(files)
    (packets.directory / data_name(files)).chmod(0)
    assert served.codes() == ["storage"] and served.value() == 1
    (packets.directory / data_name(files)).chmod(0o600)
    served.follow_until(lambda status: status.applied_sequence == 2)


def test_the_directory_becomes_a_file(packets, served):
    shutil.rmtree(packets.directory)
    packets.directory.write_text("not a directory")
    served.follow_until(lambda status: [alarm.code for alarm in status.alarms] == ["storage"])
    assert served.value() == 1 and served.ready()
    packets.directory.unlink()
    packets.last = 1
    packets.publish()
    served.follow_until(lambda status: status.applied_sequence == 2 and not status.alarms)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of six megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=1777", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("only root can make a file system of six megabytes")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_disk_full(packets, following, small_disk):
    """No room for more rows: the packet waits, whole; what was written of it is taken back."""
    packets.publish()
    served = following(table_directory=small_disk)
    many = np.arange(400_000, dtype=np.uint64)
    rows = np.full((len(many), DIM), 2, np.float32)
    packets.put(packets.files(2, parts=[*packets.parts(2), PacketContent(DIM, many, rows)]))
    status = served.follow()
    assert [alarm.code for alarm in status.alarms] == ["no_room"] and status.applied_sequence == 1
    assert served.value() == 1
    (group,) = served.server.lookup((DIM, many)).groups
    assert group.missing == len(many) - 100


def test_every_code_of_the_errors_is_met():
    """So that a new way to be bad gets its line above."""
    met = {code for code, _ in BAD.values()} | {
        "forked_stream", "foreign_stream", "foreign_config", "guardrail", "misrouted_sign",
    }  # fmt: skip
    named = {error.code for error in _subclasses(UpdateError)}
    assert named - met == {"bad_update", "bad_persia_packet"}
