"""The folder of one server's tables: its lock, what it lists, and that nothing of others is touched."""

import os
import resource
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satrap._core.table import present_boot, read_control
from satrap.embedding_server.generations import examine_generation, list_generations
from satrap.embedding_server.identity_lock import holder_of
from satrap.embedding_server.inventory import held_generations
from satrap.embedding_server.table_directory import (
    Identity,
    TableDirectory,
    TablePlace,
    held_identities,
    remove_identity,
)
from satrap.embedding_server.takeover import GenerationInfo, Wanted
from satrap.errors import InvalidInputError, NoSpaceError, TableFolderError, TableHeldError
from satrap.formats.persia_checkpoint import ShardRoute

OWNER = ShardRoute(0, 2)
INFO = GenerationInfo("float32", config_digest="config", created_ns=1)


@pytest.fixture
def place(table_directory):
    return TablePlace(table_directory)


@pytest.fixture
def wanted():
    return Wanted(present_boot(), OWNER, "float32", "config")


def leave(directory: TableDirectory, rows: int = 10, *, whole: bool = True) -> Path:
    """A generation whose server has ended."""
    generation = directory.new_generation(INFO)
    generation.add_table(4, "float32", rows).upsert(
        np.arange(rows, dtype=np.uint64), np.ones((rows, 4), np.float32)
    )
    if whole:
        generation.serve()
    generation.close()
    return Path(generation.folder)


class TestLock:
    def test_one_server_of_an_identity(self, place):
        first = TableDirectory(place, OWNER)
        with pytest.raises(
            TableHeldError, match=f"process {os.getpid()} holds these tables: stop it, or"
        ) as caught:
            TableDirectory(place, OWNER)
        assert caught.value.pid == os.getpid() and caught.value.path == first.folder
        others = [
            TableDirectory(place, ShardRoute(1, 2)),
            TableDirectory(replace(place, namespace="other"), OWNER),
        ]
        first.close()
        TableDirectory(place, OWNER).close()
        for other in others:
            other.close()

    def test_a_killed_holder_holds_nothing(self, place):
        script = (
            "import sys; from pathlib import Path\n"
            "from satrap.embedding_server.table_directory import *\n"
            "from satrap.formats.persia_checkpoint import ShardRoute\n"
            "held = TableDirectory(TablePlace(Path(sys.argv[1])), ShardRoute(0, 2))\n"
            "print('held', flush=True); sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(place.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(TableHeldError) as caught:
                TableDirectory(place, OWNER)
            assert caught.value.pid == process.pid
            process.kill()
        TableDirectory(place, OWNER).close()

    def test_asking_takes_nothing(self, place):
        directory = TableDirectory(place, OWNER)
        directory.announce("127.0.0.1:1")
        assert holder_of(directory.folder) == (os.getpid(), "127.0.0.1:1")
        directory.close()
        assert holder_of(directory.folder) is None
        assert holder_of(place.directory) is None

    def test_a_purge_between_two_starts(self, place):
        """Whoever waits for a lock file that is then removed does not end up with a lock of nothing."""
        for _ in range(3):
            directory = TableDirectory(place, OWNER)
            leave(directory)
            directory.purge()
            assert list(place.directory.iterdir()) == []

    def test_purge_leaves_other_shards(self, place):
        other = TableDirectory(place, ShardRoute(1, 2))
        kept = leave(other)
        directory = TableDirectory(place, OWNER)
        leave(directory)
        directory.purge()
        assert kept.exists() and not directory.folder.exists()
        other.close()


class TestFolders:
    def test_private_by_default(self, place):
        directory = TableDirectory(place, OWNER)
        for folder in (directory.folder, directory.folder.parent, directory.folder.parent.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        directory.close()

    def test_the_directory_is_everybodys(self, table_directory):
        TableDirectory(TablePlace(table_directory / "new" / "tables"), OWNER).close()
        assert stat.S_IMODE((table_directory / "new" / "tables").stat().st_mode) == 0o1777

    def test_a_group_may_read(self, place):
        group = os.getegid()
        directory = TableDirectory(replace(place, group=str(group)), OWNER)
        generation = leave(directory)
        directory.close()
        for path in [directory.folder, generation, *generation.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640)

    def test_a_group_that_is_named_later_and_no_more(self, place, wanted):
        directory = TableDirectory(place, OWNER)
        folder = leave(directory)
        directory.close()
        for group, mode in ((str(os.getegid()), 0o640), (None, 0o600)):
            directory = TableDirectory(replace(place, group=group), OWNER)
            generation, _ = directory.take_over(wanted)
            assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {
                mode
            }
            generation.close()
            directory.close()

    def test_an_unknown_group(self, place):
        with pytest.raises(InvalidInputError, match="there is no group 'nobody-of-that-name'"):
            TableDirectory(replace(place, group="nobody-of-that-name"), OWNER)

    def test_another_users_folder(self, place):
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        folder = place.directory / str(os.geteuid())
        folder.mkdir()
        os.chown(folder, 4321, -1)
        with pytest.raises(TableFolderError, match="belongs to user 4321"):
            TableDirectory(place, OWNER)

    def test_a_link_in_its_place(self, place, tmp_path):
        (place.directory / str(os.geteuid())).symlink_to(tmp_path)
        with pytest.raises(TableFolderError, match="is a link") as caught:
            TableDirectory(place, OWNER)
        assert list(tmp_path.iterdir()) == [] and "belongs to" not in str(caught.value)

    def test_a_link_in_the_place_of_the_lock(self, place, tmp_path):
        directory = TableDirectory(place, OWNER)
        directory.close()
        (directory.folder / "lock").unlink()
        (directory.folder / "lock").symlink_to(tmp_path / "precious")
        with pytest.raises(TableFolderError, match="lock: is a link"):
            TableDirectory(place, OWNER)
        assert not (tmp_path / "precious").exists()

    def test_a_directory_where_everybody_may_remove(self, place):
        place.directory.chmod(0o777)
        with pytest.raises(TableFolderError, match=r"sticky bit \(chmod \+t\)"):
            TableDirectory(place, OWNER)
        assert list(place.directory.iterdir()) == []
        place.directory.chmod(0o1777)
        TableDirectory(place, OWNER).close()

    def test_a_directory_of_a_third_user(self, place, caplog):
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(place.directory, 4321, -1)
        TableDirectory(place, OWNER).close()
        assert "belongs to user 4321, who can take away" in caplog.text

    def test_a_disk(self, place, tmp_path, caplog):
        """/dev/shm is memory; of the test's own folder only what the kernel says of it is known."""
        with Path("/proc/self/mountinfo").open(encoding="utf-8") as mounts:
            device = tmp_path.stat().st_dev
            number = f"{os.major(device)}:{os.minor(device)}"
            kinds = {line.split(" - ")[1].split()[0] for line in mounts if line.split()[2] == number}
        if not kinds or kinds & {"tmpfs", "ramfs", "hugetlbfs"}:
            pytest.skip("the folder for temporary files is not on a disk")
        TableDirectory(replace(place, directory=tmp_path), OWNER).close()
        assert "not in memory (tmpfs)" in caplog.text

    def test_a_link_in_the_place_of_a_generation_is_not_followed(self, place, wanted, tmp_path):
        directory = TableDirectory(place, OWNER)
        (tmp_path / "precious").write_text("")
        (directory.folder / "00000001").symlink_to(tmp_path)
        assert "a link" in str(directory.take_over(wanted))
        directory.discard_rest()
        assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]
        assert list_generations(directory.folder) == []
        directory.close()

    def test_removing_follows_no_link(self, place, tmp_path):
        (tmp_path / "0-of-1" / "00000001").mkdir(parents=True)
        own = place.directory / str(os.geteuid())
        own.mkdir()
        (own / "default").symlink_to(tmp_path)
        with pytest.raises(TableFolderError, match="is a link"):
            remove_identity(own / "default" / "0-of-1")
        assert (tmp_path / "0-of-1" / "00000001").is_dir()

    def test_a_directory_that_cannot_be_made(self, place):
        with pytest.raises(TableFolderError, match="choose another --table-directory"):
            TableDirectory(replace(place, directory=Path("/proc/nothing/x")), OWNER)

    def test_a_file_in_its_place(self, place):
        (place.directory / str(os.geteuid())).write_text("")
        with pytest.raises(TableFolderError, match="choose another --table-directory"):
            TableDirectory(place, OWNER)


class TestTakeOver:
    def test_what_is_wanted_and_nothing_else_stays(self, place, wanted):
        directory = TableDirectory(place, OWNER)
        for whole in (True, False):
            leave(directory, whole=whole)
        newest = leave(directory)
        leave(directory, whole=False)
        (directory.folder / "00000009").mkdir()
        generation, info = directory.take_over(wanted)
        assert generation.folder == str(newest) and info == INFO and len(generation.tables[4]) == 10
        assert [found.folder for found in list_generations(directory.folder)] == [newest]
        assert Path(directory.new_generation(INFO).folder).name > newest.name

    @pytest.mark.parametrize(
        ("changes", "words"),
        [({"config_digest": "x"}, "embedding config"), ({"row_dtype": "float16"}, "float32 rows")],
    )
    def test_what_is_not_wanted_stays_until_it_is_discarded(self, place, wanted, changes, words):
        directory = TableDirectory(place, OWNER)
        folder = leave(directory)
        reason = directory.take_over(replace(wanted, **changes))
        assert isinstance(reason, str) and words in reason
        assert read_control(str(folder)).state == "serving"
        directory.discard_rest()
        assert not folder.exists()

    def test_damage_is_a_reason(self, place, wanted):
        directory = TableDirectory(place, OWNER)
        folder = leave(directory)
        segment = next((folder / "4-float32").glob("segment-*"))
        os.truncate(segment, 100)
        reason = directory.take_over(wanted)
        assert isinstance(reason, str) and f"{segment}: truncated" in reason
        directory.discard_rest()
        assert list_generations(directory.folder) == []

    def test_info_that_cannot_be_read(self, place, wanted):
        directory = TableDirectory(place, OWNER)
        folder = leave(directory)
        generation, _ = directory.take_over(wanted)
        generation.info = b"not JSON"
        generation.close()
        assert f"{folder / 'control'}: its description cannot be read" in examine_generation(folder).damage
        assert isinstance(directory.take_over(wanted), str)

    def test_the_folder_is_removed_under_its_server(self, place, caplog):
        directory = TableDirectory(place, OWNER)
        directory.announce("127.0.0.1:1")
        generation = directory.new_generation(INFO)
        table = generation.add_table(4, "float32", 10)
        table.upsert(np.arange(10, dtype=np.uint64), np.ones((10, 4), np.float32))
        generation.serve()
        shutil.rmtree(directory.folder.parent.parent)
        rows = np.zeros((10, 4), np.float32)
        table.lookup(np.arange(10, dtype=np.uint64), rows)
        assert rows.sum() == 40  # not harmed
        again = directory.new_generation(INFO)
        assert (Path(again.folder) / "control").is_file() and "made and locked again" in caplog.text
        assert holder_of(directory.folder) == (os.getpid(), "127.0.0.1:1")
        with pytest.raises(TableHeldError):
            TableDirectory(place, OWNER)
        again.close()
        generation.close()
        directory.close()
        TableDirectory(place, OWNER).close()

    def test_the_folder_was_removed_and_another_server_began(self, place):
        directory = TableDirectory(place, OWNER)
        shutil.rmtree(directory.folder.parent.parent)
        other = TableDirectory(place, OWNER)
        with pytest.raises(TableHeldError):
            directory.new_generation(INFO)
        other.close()
        directory.close()

    def test_the_folder_was_removed_and_cannot_be_made(self, place):
        directory = TableDirectory(place, OWNER)
        shutil.rmtree(directory.folder.parent.parent)
        directory.folder.parent.parent.write_text("")
        with pytest.raises(TableFolderError, match=r"was removed while this server ran.*restart the server"):
            directory.new_generation(INFO)
        directory.close()

    def test_no_more_descriptors(self, place, wanted):
        directory = TableDirectory(place, OWNER)
        folder = leave(directory)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        next_one = os.dup(0)
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            with pytest.raises(NoSpaceError, match="Too many open files"):
                directory.new_generation(INFO)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [found.folder for found in list_generations(directory.folder)] == [folder]
        assert not isinstance(directory.take_over(wanted), str)


class TestInventory:
    def test_what_is_held(self, place):
        first, second = TableDirectory(place, OWNER), TableDirectory(place, ShardRoute(1, 2))
        kept = leave(first, rows=100)
        leave(second, whole=False)
        second.close()
        identities = [identity for identity, _ in held_identities(place.directory)]
        assert identities == [Identity(os.geteuid(), "default", ShardRoute(i, 2)) for i in range(2)]
        held = list(held_generations(place.directory))
        assert [(one.found.state, one.rows, one.holder is not None) for one in held] == [
            ("serving", 100, True),
            ("loading", 10, False),
        ]
        assert held[0].found.folder == kept and held[0].bytes >= 100 * 24 and held[0].age_seconds > 0
        first.close()

    def test_other_things_are_no_tables(self, place):
        for name in ("x/default/0-of-1", "0/default/2-of-1", "0/default/0-of-x"):
            (place.directory / name).mkdir(parents=True)
        assert list(held_generations(place.directory)) == []
        assert list(held_generations(place.directory / "nowhere")) == []

    def test_removing(self, place):
        directory = TableDirectory(place, OWNER)
        leave(directory)
        with pytest.raises(TableHeldError):
            remove_identity(directory.folder)
        directory.close()
        (directory.folder / "mine.txt").write_text("")
        with pytest.raises(TableFolderError, match="none of satrap's"):
            remove_identity(directory.folder)
        (directory.folder / "mine.txt").unlink()
        remove_identity(directory.folder)
        assert list(place.directory.iterdir()) == []
