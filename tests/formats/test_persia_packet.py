"""PERSIA's packet directories and files: what is listed, what is believed, and how each way to be bad is called."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from persia_packets import PersiaTrainer, inc_bytes, rows_of

from satrap.errors import PersiaPacketError
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.formats.persia_packet import (
    PersiaFile,
    is_persia,
    list_packets,
    parse_packet,
)
from satrap.storage import open_storage

WHOLE = ShardRoute()


class TestParse:
    def test_what_persia_wrote(self, persia_data):
        for label in ("00", "10", "20"):
            with np.load(persia_data / f"inc_202601010000{label}_contents.npz") as contents:
                values = np.split(contents["values"], contents["offsets"][1:-1])
                expected = {
                    int(sign): row.tobytes() for sign, row in zip(contents["sign"], values, strict=True)
                }
            found = {}
            for path in (persia_data / "inc_dir").glob(f"s*/inc_202601010000{label}/*.inc"):
                packet = parse_packet(str(path), path.read_bytes(), WHOLE)
                assert packet.unix_seconds == 1795175300 + int(label) // 5
                for part in packet.parts:
                    found |= {
                        int(sign): row.tobytes() for sign, row in zip(part.signs, part.rows, strict=True)
                    }
            assert found == expected

    def test_the_optimizers_floats_are_dropped_and_the_order_is_the_files(self):
        data = inc_bytes([*rows_of([7, 3, 7], 1.0), *rows_of([9], 2.0, dim=2)], 12, optimizer_floats=8)
        packet = parse_packet("x", data, WHOLE)
        assert packet.unix_seconds == 12 and packet.records == 4
        assert [(part.dim, part.signs.tolist()) for part in packet.parts] == [(2, [9]), (4, [7, 3, 7])]
        assert packet.parts[1].rows.tolist() == [[1.0] * 4] * 3

    def test_each_shard_gets_its_own_rows(self):
        data = inc_bytes(rows_of(range(100), 1.0), 12)
        shards = [parse_packet("x", data, ShardRoute(index, 3)) for index in range(3)]
        assert all(shard.records == 100 for shard in shards)
        signs = [sign for shard in shards for part in shard.parts for sign in part.signs.tolist()]
        assert sorted(signs) == list(range(100))

    def test_no_entry(self):
        packet = parse_packet("x", inc_bytes([], 12), WHOLE)
        assert (packet.unix_seconds, packet.parts, packet.records) == (12, (), 0)

    def test_cut_anywhere(self):
        data = inc_bytes(rows_of([1, 2, 3], 1.0), 12)
        for size in range(len(data)):
            with pytest.raises(PersiaPacketError, match="s0/inc_x/0_0") as caught:
                parse_packet("s0/inc_x/0_0.inc", data[:size], WHOLE)
            assert 0 <= caught.value.offset <= size and caught.value.code == "bad_persia_packet"

    def test_what_persia_left_cut(self, persia_data):
        path = persia_data / "inc_dir/s0/inc_20260101000040/0_0.inc"
        with pytest.raises(PersiaPacketError, match=r"\(at byte \d+\)"):
            parse_packet(str(path), path.read_bytes(), WHOLE)

    def test_bytes_after_the_time(self):
        with pytest.raises(PersiaPacketError):
            parse_packet("x", inc_bytes(rows_of([1], 1.0), 12) + b"\0", WHOLE)

    @pytest.mark.parametrize(
        "data",
        [
            struct.pack("<I", 2**32 - 1) + bytes(64),
            struct.pack("<II", 1, 2**32 - 1) + bytes(64),
            struct.pack("<II", 1, 2**30) + bytes(64),
            struct.pack("<IIfQQQ", 1, 1, 0.0, 2**64 - 1, 5, 12),
            struct.pack("<IIfQQQ", 1, 1, 0.0, 0, 5, 12),
        ],
        ids=["entries", "floats", "floats that overflow", "dim", "dim 0"],
    )
    def test_enormous_counts(self, data):
        with pytest.raises(PersiaPacketError):
            parse_packet("x", data, WHOLE)

    @given(st.binary(max_size=200))
    @settings(deadline=None)
    def test_any_bytes_parse_or_are_refused(self, data):
        try:
            packet = parse_packet("x", data, WHOLE)
        except PersiaPacketError as error:
            assert 0 <= error.offset <= len(data)
        else:
            assert 4 + 20 * packet.records + 8 <= len(data)


class TestListing:
    def test_what_persia_wrote(self, persia_data):
        listing = list_packets(open_storage(str(persia_data / "inc_dir")))
        marked = {name: directory.marked for name, directory in listing.directories.items()}
        times = [f"inc_202601010000{label}" for label in ("00", "10", "20", "30", "40")]
        assert marked == {
            **{f"s0/{time}": not time.endswith("30") for time in times},
            **{f"s1/{time}": True for time in times[:3]},
        }
        files = listing.directories["s1/inc_20260101000020"].files
        assert [file.name for file in files] == [f"s1/inc_20260101000020/1_{k}.inc" for k in range(3)]
        assert all(file.size > 100 and file.modified_ns > 0 for file in files)

    def test_what_is_none_of_it_is_left_alone(self, tmp_path):
        trainer = PersiaTrainer(tmp_path)
        trainer.write("s0/inc_1", "0_0.inc", [], 1)
        for other in ("inc_2/0.inc", "x0/inc_1/0.inc", "s0/other/0.inc", "s0/0.inc", "s0/inc_1/.0_1.inc"):
            (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / other).touch()
        (tmp_path / "s0/inc_1/folder.inc").mkdir()
        (tmp_path / "s0/inc_3").touch()
        (listed,) = list_packets(open_storage(str(tmp_path))).directories.values()
        assert [file.name for file in listed.files] == ["s0/inc_1/0_0.inc"]

    def test_an_absent_directory_is_empty(self, tmp_path):
        storage = open_storage(str(tmp_path / "absent"))
        assert list_packets(storage).directories == {} and not is_persia(storage)

    def test_in_memory(self):
        storage = open_storage("memory://test-persia-listing")
        storage.publish("s0/inc_1/0_0.inc", inc_bytes([], 1))
        storage.publish("s0/inc_1/inc_update_done", b"")
        (listed,) = list_packets(storage).directories.values()
        assert listed.marked and listed.files[0].size == 12 and is_persia(storage)

    def test_whose_packets(self, tmp_path):
        (tmp_path / "s0").mkdir()
        assert not is_persia(open_storage(str(tmp_path)))
        (tmp_path / "s0/inc_20260101000000").mkdir()
        assert is_persia(open_storage(str(tmp_path)))


def test_order():
    files = [
        (PersiaFile("s1/inc_b/0.inc", 1, 0), 5),
        (PersiaFile("s0/inc_a/9.inc", 1, 0), 6),
        (PersiaFile("s0/inc_b/0.inc", 1, 0), 5),
        (PersiaFile("s0/inc_b/1.inc", 1, 0), 5),
        (PersiaFile("s9/inc_a/1.inc", 1, 0), 5),
    ]
    ordered = sorted(files, key=lambda item: item[0].order(item[1]))
    assert [file.name for file, _ in ordered] == [
        "s9/inc_a/1.inc",
        "s0/inc_b/0.inc",
        "s1/inc_b/0.inc",
        "s0/inc_b/1.inc",
        "s0/inc_a/9.inc",
    ]
    assert Path(files[0][0].directory) == Path("s1/inc_b")
