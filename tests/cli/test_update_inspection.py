"""`satrap inspect` on packets, checkpoints, decisions and PERSIA's packets, whole and damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from satrap._core.table import TableGeneration, present_boot
from satrap.cli.app import app
from satrap.cli.inspection import examine
from satrap.embedding_server.updates.packet import PacketPart
from satrap.embedding_server.updates.persia import Settled
from satrap.embedding_server.updates.persia_ledger import format_applied
from satrap.embedding_server.updates.undo import SequencePosition, UndoLog
from satrap.errors import InvalidInputError
from satrap.formats.checkpoint import CheckpointWriter
from satrap.formats.decisions import Hold, Skip, add_skip, write_hold
from satrap.formats.packet import PacketContent, publish_packet
from satrap.formats.persia_packet import PersiaFile
from satrap.storage import open_storage

SIGNS = np.array([7, 8, 2**64 - 1], np.uint64)
ROWS = np.array([[3, 4], [0, 1], [np.nan, 1]], np.float32)


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": "300"})


def facts(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.output)


def publish(storage, sequence=1, parts=None, **options):
    options = {"stream": "ads", "writer": "5a1c", "previous": sequence - 1} | options
    parts = [PacketContent(2, SIGNS, ROWS), PacketContent(2, SIGNS[1:2])] if parts is None else parts
    return publish_packet(storage, sequence=sequence, parts=parts, **options)


@pytest.fixture
def packets(tmp_path):
    return open_storage(tmp_path / "packets")


@pytest.fixture
def kept(persia_data, tmp_path):
    """A copy of the documents' example packet."""
    return Path(shutil.copytree(persia_data.parent / "satrap" / "packet", tmp_path / "kept"))


def test_a_packet(packets):
    manifest = publish(packets, num_shards=2, newest_event_ns=1_795_175_211_000_000_000)
    found = facts(packets.path_of(manifest.name), "--id", 7)
    assert (found["kind"], found["damage"], found["stream"], found["sequence"]) == ("packet", "", "ads", "1")
    assert (found["records"], found["files"], found["newest_event"][:19]) == (4, 2, "2026-11-20T11:46:51")
    assert found["dims"] == [
        {"dim": 2, "rows": 3, "deletes": 1, "signs": [7, 2**64 - 1], "norms": [1.0, 5.0], "not_finite": 1}
    ]
    assert found["rows_of_id"] == [{"sequence": "1", "dim": 2, "values": [3.0, 4.0]}]
    assert facts(packets.path_of(manifest.name), "--id", 2**64 - 1)["rows_of_id"][0]["values"] == ["nan", 1.0]
    deleted = facts(packets.path_of(manifest.name), "--id", 8)["rows_of_id"]
    assert [one.get("deleted", False) for one in deleted] == [False, True]
    text = run(packets.path_of(manifest.name), "--id", 8).output
    assert "sequence 1, dim 2, values 0 1" in text and "sequence 1, dim 2, deleted yes" in text
    assert "signs 7 to 18446744073709551615" in text and "whole: every byte was read" in text
    assert "has no row here" in run(packets.path_of(manifest.name), "--id", 9).output


def test_a_data_file(packets, tmp_path):
    manifest = publish(packets)
    path = packets.local / manifest.files[0].name
    found = facts(path, "--id", 7)
    assert (found["kind"], found["manifest"], found["holds"]) == ("row file", manifest.name, "rows")
    assert (found["dim"], found["dtype"], found["shard"], found["records"]) == (2, "float32", "0 of 1", 3)
    assert found["checksum"] == manifest.files[0].checksum and found["rows_of_id"][0]["values"] == [3.0, 4.0]
    alone = shutil.copy(path, tmp_path / "alone.arrow")
    found = facts(alone)
    assert found["records"] == 3 and "none" in found["manifest"] and not found["damage"]
    path.write_bytes(path.read_bytes()[:-30])
    assert "only" in facts(path)["damage"] and run(path).exit_code == 1
    Path(alone).write_bytes(b"sign,embedding")
    assert "does not begin as an Arrow file" in facts(alone)["damage"]


def test_a_folder_of_packets(packets):
    for sequence in (1, 2, 5):
        publish(packets, sequence)
    publish(packets, 5, writer="other")
    publish(packets, 1, stream="news", writer="news")
    write_hold(packets, Hold("ads", 2, "ann", "twice", 5))
    found = facts(packets.url)
    assert (found["kind"], found["packets"], found["damage"]) == ("folder of packets", 5, "")
    ads, news = found["streams"]
    assert (
        ads["sequences"] == "1 to 5" and ads["gaps"] == ["2 to 5 (which follows 4)"] and ads["forks"] == ["5"]
    )
    assert news["sequences"] == "1 to 1" and news["gaps"] == []
    assert found["decisions"] == ["hold-ads.json"]
    assert "gaps 2 to 5 (which follows 4)" in run(packets.url).output


def test_what_became_of_an_id(packets):
    publish(packets, 1, num_shards=3)
    publish(packets, 2, [PacketContent(2, SIGNS[:1], ROWS[1:2])], num_shards=2)
    publish(packets, 3, [PacketContent(2, SIGNS[:1])])
    found = facts(packets.url, "--id", 7)["rows_of_id"]
    assert found == [
        {"sequence": "1", "dim": 2, "values": [3.0, 4.0]},
        {"sequence": "2", "dim": 2, "values": [0.0, 1.0]},
        {"sequence": "3", "dim": 2, "deleted": True},
    ]


def test_damage_in_a_folder(packets):
    publish(packets, 1)
    manifest = publish(packets, 2)
    packets.remove(manifest.files[0].name)
    packets.publish(f"{3:020d}-x.json", b"{")
    found = facts(packets.url)
    assert found["packets"] == 2 and found["damaged_packets"] == 2 and "is not there" in found["damage"]
    assert run(packets.url).exit_code == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-5], "not JSON"),
        (lambda data: data.replace(b'"rows": 3', b'"rows": 2'), "it has more"),
        (lambda data: data.replace(b'"version": 1', b'"version": 2', 1), "update satrap first"),
        (lambda data: data.replace(b'"sequence": 812', b'"sequence": 813'), "another manifest's"),
    ],
)
def test_a_damaged_manifest(kept, change, reason):
    path = kept / "00000000000000000812-5a1c.json"
    path.write_bytes(change(path.read_bytes()))
    result = run(path)
    assert result.exit_code == 1 and "damaged: " in result.output and reason in result.output


def test_a_flipped_bit(kept):
    path = kept / "00000000000000000812-5a1c.2-float32.1-of-2.arrow"
    data = bytearray(path.read_bytes())
    data[0x262] ^= 1
    path.write_bytes(data)
    assert "its checksum is" in facts(kept / "00000000000000000812-5a1c.json")["damage"]
    assert facts(kept)["damage"] == "", "of a folder no file is read"


def test_checkpoints(tmp_path, persia_data):
    folder = open_storage(tmp_path / "checkpoints")
    for sequence in (5, 9):
        with CheckpointWriter(
            folder.subfolder(str(sequence)), stream="ads", writer="5a1c", sequence=sequence, num_shards=2
        ) as writer:
            writer.write(2, SIGNS[:2], ROWS[:2])
            writer.finish()
    found = facts(folder.path_of("9"), "--id", 7)
    assert (found["kind"], found["sequence"], found["records"]) == ("checkpoint", "9", 2)
    assert found["limits"][0]["rows"] == 2 and found["rows_of_id"][0]["values"] == [3.0, 4.0]
    assert facts(next((tmp_path / "checkpoints" / "9").glob("*.json")))["kind"] == "checkpoint"
    shutil.copytree(persia_data / "ckpt_1x1", tmp_path / "checkpoints" / "persia")
    (tmp_path / "checkpoints" / "empty").mkdir()
    found = facts(folder.url)
    assert found["kind"] == "folder of checkpoints" and not found["damage"]
    assert [(one["folder"], one["format"], one.get("sequence")) for one in found["checkpoints"]] == [
        ("5", "satrap", "5"),
        ("9", "satrap", "9"),
        ("persia", "PERSIA", None),
    ]
    next((tmp_path / "checkpoints" / "5").glob("*-of-2.arrow")).unlink()
    assert "names this file" in facts(folder.url)["damage"]
    assert run(folder.url, "--id", 7).exception


def test_decisions(packets):
    write_hold(packets, Hold("ads", 811, "ann@ops", "clicks count twice", 1_795_175_211_000_000_000))
    add_skip(packets, "ads", Skip(815, "bob", "the disk was lost", 1_795_175_211_000_000_000))
    hold, skip = (facts(packets.path_of(f"{what}-ads.json")) for what in ("hold", "skip"))
    assert (hold["kind"], hold["keep_through"], hold["who"]) == ("hold of the stream ads", "811", "ann@ops")
    assert hold["time"].startswith("2026-11-20") and skip["skips"][0]["to"] == "815"
    assert facts(packets.url)["decisions"] == ["hold-ads.json", "skip-ads.json"]
    packets.publish("hold-ads.json", b"{}", replace=True)
    assert "another kind of file" in facts(packets.path_of("hold-ads.json"))["damage"]


def test_persias_packets(persia_data):
    folder = persia_data / "inc_dir"
    found = facts(folder)
    assert (found["kind"], found["directories"], found["files"]) == ("PERSIA packets", 8, 18)
    assert found["unmarked"] == ["s0/inc_20260101000030"] and found["damaged_files"] == 1
    assert "inc_20260101000040/0_0.inc" in found["damage"] and run(folder).exit_code == 1
    one = facts(folder / "s0" / "inc_20260101000000")
    assert (one["files"], one["damage"]) == (2, "")
    assert facts(folder / "s0")["directories"] == 5
    file = facts(folder / "s0" / "inc_20260101000000" / "0_0.inc")
    assert (file["kind"], file["damage"], file["ordinals"][0]) == ("PERSIA packet file", "", "1795175300")
    sign = one["dims"][0]["signs"][0]
    history = facts(folder, "--id", sign)["rows_of_id"]
    assert history and [one["unix_seconds"] for one in history] == sorted(
        one["unix_seconds"] for one in history
    )
    assert len(history[0]["values"]) == history[0]["dim"]


def test_rows_of_an_id_in_persias_checkpoint(persia_data):
    contents = np.load(persia_data / "ckpt_2x4_contents.npz")
    sign, dim, replica = (contents[name][5].item() for name in ("sign", "dim", "replica"))
    values = contents["values"][contents["offsets"][5] : contents["offsets"][6]]
    found = facts(persia_data / "ckpt_2x4", "--id", sign)
    assert found["shard_of_id"] == f"{replica} of 2"
    [row] = found["rows_of_id"]
    assert row["dim"] == dim
    np.testing.assert_array_equal(np.array([float(value) for value in row["values"]], np.float32), values)
    path = persia_data / "ckpt_2x4" / f"s{replica}" / row["file"]
    assert facts(path, "--id", sign)["rows_of_id"] == [row]


def test_behind_a_url():
    storage = open_storage("memory://inspected/packets")
    manifest = publish(storage)
    assert examine(storage.url)["packets"] == 1
    assert examine(storage.path_of(manifest.name), 7)["rows_of_id"][0]["values"] == [3.0, 4.0]
    with CheckpointWriter(storage.subfolder("full"), stream="ads", writer="a", sequence=1) as writer:
        writer.write(2, SIGNS, ROWS)
        writer.finish()
    assert examine(storage.path_of("full"))["kind"] == "checkpoint"
    for path in (
        storage.path_of("nothing"),
        storage.path_of("nothing.arrow"),
        "memory://inspected-elsewhere",
    ):
        with pytest.raises(InvalidInputError, match="no packet or checkpoint"):
            examine(path)


def test_markers_are_their_folders(persia_data):
    found = facts(persia_data / "ckpt_2x4" / "embedding_dump_done")
    assert (found["kind"], found["file"], found["rows"]) == ("PERSIA checkpoint", "embedding_dump_done", 434)
    marker = persia_data / "inc_dir" / "s0" / "inc_20260101000000" / "inc_update_done"
    assert (facts(marker)["kind"], facts(marker)["files"]) == ("PERSIA packets", 2)


def test_an_undo_file(tmp_path):
    folder = tmp_path / "00000001"
    store = TableGeneration.create(
        str(folder), instance=bytes(16), boot_id=present_boot(), replica_index=0, replica_size=1, info=b""
    )
    table = store.add_table(2, "float32", 10)
    store.serve()
    table.upsert(SIGNS[:1], ROWS[:1], 4)
    table.erase(SIGNS[1:2], 5)
    store.set_applied(5, 0)
    UndoLog(folder, 4).begin(store, "x.json", 6, [PacketPart(2, SIGNS, ROWS)], SequencePosition(store))
    store.close()
    [path] = (folder / "undo").iterdir()
    found = facts(path, "--id", 7)
    assert (found["kind"], found["packet"], found["sequence"], found["leads_back_to"]) == (
        "undo file",
        "x.json",
        "6",
        "5",
    )
    assert found["dims"][0]["changed"] == 3 and found["dims"][0]["were_present"] == 1
    assert found["rows_of_id"] == [{"dim": 2, "was": "present", "ordinal": "4", "values": [3.0, 4.0]}]
    assert facts(path, "--id", 8)["rows_of_id"] == [{"dim": 2, "was": "deleted", "ordinal": "5"}]
    assert facts(path, "--id", 2**64 - 1)["rows_of_id"] == [{"dim": 2, "was": "absent", "ordinal": "0"}]
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged" in facts(path)["damage"] and run(path).exit_code == 1


def test_a_list_of_applied_files(tmp_path):
    path = tmp_path / "applied.json"
    path.write_bytes(format_applied({"x": Settled(PersiaFile("s0/inc_1/0_0.inc", 5, 6), 1_700_000_000, "")}))
    found = facts(path)
    assert (found["files"], found["ordinals"]) == (1, ["1700000000", "1700000000"])
    path.write_bytes(b"{}")
    assert "not a list of applied files" in facts(path)["damage"]


def test_a_quarantined_packet(kept):
    (kept / "reason.json").write_text(
        '{"format": "satrap-quarantine", "version": 1, "name": "x.json", "sequence": 812, "code": "guardrail",'
        ' "reason": "too large", "since_ns": 1795175211000000000, "decision": "waiting"}'
    )
    found = facts(kept)
    assert (found["kind"], found["code"], found["reason"]) == ("quarantined packet", "guardrail", "too large")
    assert found["since"].startswith("2026-11-20") and len(found["copies"]) == 3
    (kept / "reason.json").write_text("{}")
    assert facts(kept)["damage"]


def test_a_folder_that_is_empty_is_nothing(tmp_path):
    with pytest.raises(InvalidInputError, match="neither a table"):
        examine(str(tmp_path))


@pytest.mark.parametrize("sign", ["-1", str(2**64), "x", "1.5"])
def test_an_id_is_64_bits(packets, sign):
    publish(packets)
    assert run(packets.url, "--id", sign).exit_code == 2
