"""Generations of tables in folders: their life, who may have them, and everything that is refused."""

import itertools
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from satrap._core.table import (
    MAX_INFO_BYTES,
    TableError,
    TableGeneration,
    TableReader,
    TableSpaceError,
    discard_generation,
    inspect_table,
    present_boot,
    read_control,
)

ID = bytes(range(16))
SIGNS = np.arange(5000, dtype=np.uint64)
ROWS = np.arange(5000 * 4, dtype=np.float32).reshape(5000, 4)


@pytest.fixture
def folder(table_directory):
    return table_directory / "00000001"


def create(folder: Path, **changes: object) -> TableGeneration:
    settings = {
        "instance": ID,
        "boot_id": present_boot(),
        "replica_index": 0,
        "replica_size": 2,
        "info": b"{}",
    }
    return TableGeneration.create(str(folder), **{**settings, **changes})


def recover(folder: Path, **changes: object) -> TableGeneration:
    settings = {"boot_id": present_boot(), "replica_index": 0, "replica_size": 2}
    return TableGeneration.recover(str(folder), **{**settings, **changes})


def served(folder: Path, **changes: object) -> None:
    """A whole generation of one table, whose server has ended."""
    generation = create(folder, **changes)
    generation.add_table(4, "float32", len(SIGNS)).upsert(SIGNS, ROWS)
    generation.serve()
    generation.close()


def rows_of(generation: TableGeneration) -> np.ndarray:
    rows = np.empty_like(ROWS)
    assert generation.tables[4].lookup(SIGNS, rows) == 0
    return rows


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def one_segment(folder: Path) -> Path:
    return min((folder / "4-float32").glob("segment-*"))


class TestLife:
    def test_created_loading_serving_abandoned_gone(self, folder):
        generation = create(folder, info=b"what it is")
        assert (generation.state, generation.info, generation.tables) == ("loading", b"what it is", {})
        assert generation.instance_id == ID and generation.folder == str(folder)
        table = generation.add_table(4, "float32", 100)
        assert list(generation.tables) == [4] and generation.bytes > table.bytes
        generation.serve()
        control = read_control(str(folder))
        assert (control.state, control.pid, control.locked, control.tables) == (
            "serving",
            os.getpid(),
            True,
            1,
        )
        assert (control.instance_id, control.boot_id) == (ID, present_boot())
        assert (control.replica_index, control.replica_size, control.info) == (0, 2, b"what it is")
        generation.abandon()
        assert read_control(str(folder)).state == "abandoned"
        generation.remove()
        assert not folder.exists()
        with pytest.raises(RuntimeError, match="was closed"):
            generation.serve()
        table.upsert(SIGNS[:10], ROWS[:10])  # for those who have it, it goes on
        assert len(table) == 10

    def test_taken_over_with_all_its_rows(self, folder):
        served(folder)
        assert not read_control(str(folder)).locked
        generation = recover(folder)
        assert rows_of(generation).tobytes() == ROWS.tobytes()
        generation.tables[4].upsert(SIGNS, ROWS + 1)
        generation.close()
        generation = recover(folder)
        assert rows_of(generation).tobytes() == (ROWS + 1).tobytes()
        generation.remove()

    def test_watermark_and_info_survive(self, folder):
        generation = create(folder)
        assert generation.applied == (0, 0)
        generation.set_applied(2**64 - 1, -5)
        generation.info = b"changed"
        generation.serve()
        generation.close()
        control = read_control(str(folder))
        assert (control.applied, control.info) == ((2**64 - 1, -5), b"changed")
        again = recover(folder)
        assert again.applied == (2**64 - 1, -5) and again.info == b"changed"

    def test_the_heart_beats_until_it_is_closed(self, folder):
        generation = create(folder)
        deadline = time.monotonic() + 30
        first = read_control(str(folder)).heartbeat_age_ns
        while read_control(str(folder)).heartbeat_age_ns >= first:
            first = max(first, read_control(str(folder)).heartbeat_age_ns)
            assert time.monotonic() < deadline
        generation.close()
        before = read_control(str(folder)).heartbeat_age_ns
        time.sleep(0.3)  # nothing to wait for: no beat must come
        assert read_control(str(folder)).heartbeat_age_ns >= before + 250_000_000

    def test_a_reader_that_is_attached_finds_a_table_that_is_added(self, folder):
        """As when the first packet of a new dim comes to a server whose tables are mapped already."""
        generation = create(folder)
        generation.add_table(4, "float32", 10).upsert(SIGNS, ROWS)
        generation.serve()
        reader = TableReader(str(folder), ID, os.getuid())
        signs = SIGNS[:3].tobytes()
        assert reader.lookup([(8, signs)]) == ([(1, bytes(3 * 8 * 4))], 0, 3)  # they are in the table of 4
        for dim in (8, 12):
            rows = np.full((3, dim), dim, np.float32)
            generation.add_table(dim, "float32", 0).upsert(SIGNS[:3], rows)
            assert reader.lookup([(dim, signs)]) == ([(1, rows.tobytes())], 0, 0)
        assert reader.state == "live"
        reader.close()

    def test_modes(self, folder):
        generation = create(folder, file_mode=0o640, folder_mode=0o750, group=os.getegid())
        generation.add_table(4, "float16", 10)
        generation.serve()
        generation.close()
        recover(folder).add_table(8, "float16", 10)
        for path in [folder, *folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path

    def test_private_by_default(self, folder):
        create(folder).add_table(4, "float32", 10)
        for path in [folder, *folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


class TestWrongCalls:
    def test_a_folder_that_is_there(self, folder):
        folder.mkdir()
        with pytest.raises(TableError, match="something already"):
            create(folder)
        assert list(folder.iterdir()) == []

    def test_a_folder_that_cannot_be(self, table_directory):
        with pytest.raises(TableError, match="No such file"):
            create(table_directory / "a" / "b")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"instance": b"short"}, "instance must have 16 bytes"),
            ({"boot_id": b""}, "boot_id must have 16 bytes"),
            ({"replica_index": 2}, "replica_index"),
            ({"info": bytes(MAX_INFO_BYTES + 1)}, "info has"),
        ],
    )
    def test_settings(self, folder, changes, words):
        with pytest.raises(ValueError, match=words):
            create(folder, **changes)
        assert not folder.exists()

    def test_tables(self, folder):
        generation = create(folder)
        generation.add_table(4, "float32", 10)
        with pytest.raises(ValueError, match="of dim 4 already"):
            generation.add_table(4, "float16", 10)
        with pytest.raises(ValueError, match="dtype"):
            generation.add_table(5, "int8", 10)
        with pytest.raises(ValueError):
            generation.add_table(0, "float32", 10)
        assert sorted(path.name for path in folder.iterdir()) == ["4-float32", "control"]

    def test_more_rows_than_memory(self, folder):
        generation = create(folder)
        with pytest.raises(TableSpaceError, match="the machine has room for"):
            generation.add_table(4096, "float32", 10**9)
        assert [path.name for path in folder.iterdir()] == ["control"]
        generation.add_table(4096, "float32", 10)


class TestRefused:
    """Every damaged or foreign file is refused with a reason that names it, and nothing is changed by that."""

    def refusal(self, folder: Path, **changes: object) -> str:
        before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        with pytest.raises(TableError) as caught:
            recover(folder, **changes)
        assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before
        assert str(folder) in str(caught.value)
        return str(caught.value)

    def test_nothing_there(self, folder):
        with pytest.raises(TableError, match="No such file"):
            recover(folder)

    def test_another_boot_or_shard(self, folder):
        served(folder)
        assert "another run of the machine" in self.refusal(folder, boot_id=bytes(16))
        assert "of shard 0 of 2, not 1 of 2" in self.refusal(folder, replica_index=1)
        assert "of shard 0 of 2, not 0 of 3" in self.refusal(folder, replica_size=3)

    def test_held_by_a_living_process(self, folder):
        generation = create(folder)
        generation.serve()
        with pytest.raises(TableError, match=f"held by process {os.getpid()}"):
            recover(folder)
        with pytest.raises(TableError, match=f"held by process {os.getpid()}"):
            discard_generation(str(folder))
        assert generation.state == "serving"

    def test_not_whole_or_abandoned(self, folder):
        create(folder).close()
        assert "before it was loaded" in self.refusal(folder)
        discard_generation(str(folder))
        generation = create(folder)
        generation.abandon()
        generation.close()
        assert "abandoned" in self.refusal(folder)

    @pytest.mark.parametrize("name", ["control", "4-float32/directory", "4-float32/segment"])
    @pytest.mark.parametrize("size", [0, 1, 64, 4096, -4096, -1])
    def test_truncated(self, folder, name, size):
        served(folder)
        path = one_segment(folder) if name.endswith("segment") else folder / name
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)
        assert str(path) in self.refusal(folder)

    @pytest.mark.parametrize(
        ("name", "size"), [("control", 72), ("4-float32/directory", 72), ("4-float32/segment", 88)]
    )
    def test_any_flipped_bit_of_a_header(self, folder, name, size):
        served(folder)
        path = one_segment(folder) if name.endswith("segment") else folder / name
        for bit in range(0, size * 8, 5):  # coprime to 8: every byte, every position in a byte
            flip(path, bit)
            with pytest.raises(TableError):
                recover(folder)
            flip(path, bit)
        assert rows_of(recover(folder)).tobytes() == ROWS.tobytes()

    def test_missing_files(self, folder):
        served(folder)
        path = one_segment(folder)
        path.rename(folder / "kept")
        assert path.name in self.refusal(folder)
        (folder / "kept").rename(path)
        (folder / "4-float32").rename(folder / "elsewhere")
        assert "0 of 1 tables" in self.refusal(folder)

    def test_files_of_another_table(self, folder, table_directory):
        served(folder)
        other = table_directory / "00000002"
        served(other)
        one_segment(folder).write_bytes(one_segment(other).read_bytes())
        assert "another table" in self.refusal(folder)

    def test_a_table_under_another_name(self, folder):
        served(folder)
        (folder / "4-float32").rename(folder / "8-float32")
        with pytest.raises(TableError, match=r"8-float32: .* another shape: 4-float32"):
            recover(folder)


class TestUnfinished:
    def test_a_table_that_was_begun(self, folder):
        """Killed after the folder was made, and before its directory had its name."""
        served(folder)
        (folder / "8-float32").mkdir()
        (folder / "8-float32" / "directory.new").write_bytes(b"half")
        generation = recover(folder)
        assert list(generation.tables) == [4] and not (folder / "8-float32").exists()
        generation.add_table(8, "float32", 10)

    def test_a_table_that_was_made_and_not_counted(self, folder):
        served(folder)
        extra = folder.parent / "extra"
        generation = create(extra)
        generation.add_table(8, "float32", 10)
        generation.close()
        (extra / "8-float32").rename(folder / "8-float32")
        assert sorted(recover(folder).tables) == [4, 8]
        assert read_control(str(folder)).tables == 2

    def test_discarding_whatever_there_is(self, folder):
        for state in ("empty", "unnamed", "damaged", "loading", "whole"):
            if state in ("loading", "whole"):
                served(folder) if state == "whole" else create(folder).close()
            else:
                folder.mkdir()
                (folder / "8-float32").mkdir()
                if state == "unnamed":
                    (folder / "control.new").write_bytes(b"x")
                if state == "damaged":
                    (folder / "control").write_bytes(b"x" * 65536)
            discard_generation(str(folder))
            assert not folder.exists(), state

    @pytest.mark.slow
    def test_killed_at_any_moment_of_its_making(self, table_directory):
        """What is left is whole or can be discarded; never anything that stops the next start."""
        script = (
            "import sys, numpy as np; from satrap._core.table import *\n"
            "print(flush=True)\n"
            "for i in range(10**6):\n"
            "    g = TableGeneration.create(f'{sys.argv[1]}/{i}', instance=bytes(16), boot_id=present_boot(),\n"
            "        replica_index=0, replica_size=2, info=b'{}')\n"
            "    t = g.add_table(4, 'float32', 10)\n"
            "    t.upsert(np.arange(10, dtype=np.uint64), np.ones((10, 4), np.float32)); g.serve()\n"
            "    g.close() if i % 2 else g.remove()\n"
        )
        taken = 0
        for attempt in range(12):
            place = table_directory / f"attempt-{attempt}"
            place.mkdir()
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE, cwd=place
            )
            process.stdout.readline()
            time.sleep(0.003 * attempt)  # the moment of the kill is what varies
            process.kill()
            process.communicate()
            for folder in place.iterdir():
                try:
                    generation = recover(folder)
                except TableError:
                    discard_generation(str(folder))
                    continue
                taken += 1
                assert len(generation.tables[4]) == 10
                generation.remove()
            assert list(place.iterdir()) == []
        assert taken


class TestInspection:
    def test_counts(self, folder):
        generation = create(folder)
        table = generation.add_table(4, "float16", 0)
        table.upsert(SIGNS, ROWS)
        table.erase(SIGNS[:10], 1)
        files = inspect_table(str(folder / "4-float16"))
        assert (files.dim, files.dtype, files.row_bytes) == (4, "float16", 8)
        assert (files.rows, files.occupied, files.tombstones, files.changing) == (4990, 4990, 10, 0)
        assert files.bytes == table.bytes and files.boot_id == present_boot()
        assert inspect_table(str(folder / "4-float16"), count_slots=False).occupied == 0

    def test_damage(self, folder):
        served(folder)
        path = one_segment(folder)
        for bit in itertools.chain(range(0, 88 * 8, 37), [4096 * 8 + 60]):
            flip(path, bit)
            with pytest.raises(TableError, match="segment-"):
                inspect_table(str(folder / "4-float32"))
            flip(path, bit)
        inspect_table(str(folder / "4-float32"))
        with pytest.raises(TableError, match="directory"):
            inspect_table(str(folder))
