"""Room for tables: what is needed, what there is, and the sentence when that is not enough."""

import numpy as np
import pytest

from satrap._core.table import Table
from satrap.embedding_server.room import Room, check_room, needed_bytes, present_room
from satrap.errors import NoSpaceError


@pytest.mark.parametrize("dim", [1, 4, 16, 33])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_a_table_takes(dim, dtype):
    rows = 200_000
    table = Table(dim, dtype, rows)
    table.upsert(np.arange(rows, dtype=np.uint64), np.zeros((rows, dim), np.float32))
    assert 0.8 * table.bytes < needed_bytes({dim: rows}, dtype) < 1.1 * table.bytes


def test_of_several_dims():
    assert needed_bytes({}, "float32") == 0
    assert needed_bytes({4: 10, 8: 10}, "float32") == pytest.approx(
        needed_bytes({4: 10}, "float32") + needed_bytes({8: 10}, "float32"), abs=1
    )


def test_the_first_that_is_too_small_is_named():
    rooms = (Room("a", 10, "do this"), Room("b", 5, "do that"))
    check_room("c", 5, rooms)
    with pytest.raises(NoSpaceError, match="c: its tables take about 6 bytes, and b has room for 5; do that"):
        check_room("c", 6, rooms)
    with pytest.raises(NoSpaceError, match="a has room for 10; do this"):
        check_room("c", 11, rooms)


@pytest.fixture
def machine(tmp_path):
    """machine({file: text}) -> the rooms of a machine with such files below proc and cgroups."""

    def make(files: dict[str, str]) -> dict[str, int]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        rooms = present_room(tmp_path / "nowhere", proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")
        return {room.what: room.bytes for room in rooms}

    return make


MEMINFO = {"proc/meminfo": "MemTotal:  9 kB\nMemAvailable:    7 kB\n"}


class TestPresentRoom:
    def test_of_this_machine(self, tmp_path):
        rooms = {room.what: room.bytes for room in present_room(tmp_path)}
        assert rooms["the machine"] > 1 << 20 and rooms[f"the file system of {tmp_path}"] > 0

    def test_memory(self, machine):
        assert machine(MEMINFO) == {"the machine": 7 * 1024}

    def test_nothing_is_known(self, machine):
        assert machine({"proc/meminfo": "MemAvailable: x\n", "proc/self/cgroup": ""}) == {}

    def test_the_tightest_cgroup(self, machine):
        assert machine(
            {
                "proc/self/cgroup": "1:cpu:/x\n0::/a/b\n",
                "cgroup/a/b/memory.max": "max\n",
                "cgroup/a/b/memory.current": "1\n",
                "cgroup/a/memory.max": "1000\n",
                "cgroup/a/memory.current": "900\n",
                "cgroup/a/memory.stat": "anon 5\ninactive_file 30\n",
                "cgroup/memory.max": "2000\n",
                "cgroup/memory.current": "100\n",
            }
        ) == {"the cgroup": 130}

    def test_a_cgroup_that_is_full(self, machine):
        files = {"cgroup/memory.max": "10\n", "cgroup/memory.current": "20\n"}
        assert machine({"proc/self/cgroup": "0::/\n", **files}) == {"the cgroup": 0}
