"""What updates are applied to: tables of new dims, the stream, catching up, and the switch."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from satrap._core.table import read_control
from satrap.embedding_server.loading import LoadProgress
from satrap.embedding_server.origin import Origin
from satrap.embedding_server.state import ShardState
from satrap.embedding_server.takeover import GenerationInfo
from satrap.embedding_server.target import Target
from satrap.errors import OrdinalRangeError
from satrap.formats.persia_marker import MARKER, Marker, format_marker
from satrap.trainer import write_persia_checkpoint

NEVER = threading.Event()
SECONDS = 1_800_000_000
SIGNS = np.arange(100, dtype=np.uint64)


def ignore(_: LoadProgress) -> None:
    """Nobody watches."""


def write(path: Path, value: float, seconds: int = SECONDS) -> Path:
    """A checkpoint of dim 4 whose rows all hold one value, and whose markers say `seconds`."""
    write_persia_checkpoint(path, {4: (SIGNS, np.full((len(SIGNS), 4), value, np.float32))}, num_shards=1)
    for marker in path.rglob(MARKER):
        files = len(list((path / "s0").glob("*.emb")))
        marker.write_bytes(format_marker(Marker(1, files, seconds * 10**9)))
    return path


def may_write(state: ShardState) -> bool:
    """Whether nobody else holds `writing`."""
    if free := state.writing.acquire(blocking=False):
        state.writing.release()
    return free


def value_of(target: Target, sign: int = 0, dim: int = 4) -> float:
    rows = np.empty((1, dim), np.float32)
    assert target.tables[dim].lookup(np.array([sign], np.uint64), rows) == 0
    return float(rows[0, 0])


class TestOrigin:
    def test_of_a_persia_checkpoint(self, shard_state, tmp_path):
        state = shard_state()
        generation = state.load(write(tmp_path / "a", 1), ignore, NEVER)
        origin = Origin("persia", "persia", SECONDS - 100, SECONDS * 10**9, SECONDS * 10**9, SECONDS - 100)
        assert generation.origin == origin
        assert state.target().origin == origin
        assert state.applied() == state.target().store.applied == (SECONDS - 100, SECONDS * 10**9)
        _, _, ordinals, _ = state.target().tables[4].scan()
        assert set(ordinals) == {SECONDS - 100}

    def test_survives_a_restart(self, shard_state, tmp_path):
        checkpoint = write(tmp_path / "a", 1)
        state = shard_state()
        origin = state.start(checkpoint, ignore, NEVER).origin
        state.target().store.set_applied(SECONDS + 5, 7)
        state = shard_state()
        assert state.start(checkpoint, ignore, NEVER).origin == origin
        assert (state.snapshot.started, state.applied()) == ("warm", (SECONDS + 5, 7))

    def test_a_time_that_is_no_ordinal(self, shard_state, tmp_path):
        with pytest.raises(OrdinalRangeError, match="4294967396 seconds since the epoch"):
            shard_state().load(write(tmp_path / "a", 1, 2**32 + 100), ignore, NEVER)

    def test_a_time_before_the_margin(self, shard_state, tmp_path):
        assert shard_state().load(write(tmp_path / "a", 1, 99), ignore, NEVER).origin.replay_from == 0

    def test_a_stream_is_adopted(self, shard_state):
        state = shard_state()
        assert state.applied() == (0, 0) and state.target() is None
        state.start(None, ignore, NEVER)
        assert state.generation().origin == Origin()
        state.target().adopt("satrap", "ads")
        assert state.generation().origin == Origin("satrap", "ads")
        told = GenerationInfo.from_bytes(read_control(str(state.target().folder)).info)
        assert told.origin == Origin("satrap", "ads")
        assert shard_state().start(None, ignore, NEVER).origin == Origin("satrap", "ads")


class TestTables:
    def test_of_a_new_dim(self, shard_state, tmp_path):
        state = shard_state()
        before = state.load(write(tmp_path / "a", 1), ignore, NEVER)
        target = state.target()
        assert target.table_for(4) is target.tables[4] and state.generation() is before
        added = target.table_for(8)
        added.upsert(SIGNS, np.ones((len(SIGNS), 8), np.float32), 1)
        assert set(before.tables) == {4}
        assert len(state.generation().tables[8]) == len(SIGNS)
        assert set(shard_state().start(None, ignore, NEVER).tables) == {4, 8}

    def test_a_dim_that_no_table_has(self, shard_state):
        state = shard_state()
        state.start(None, ignore, NEVER)
        with pytest.raises(ValueError):
            state.target().table_for(0)
        assert state.generation().tables == {}


class TestCatchUp:
    def test_before_the_switch_and_once_more_inside_writing(self, shard_state, tmp_path):
        state = shard_state()
        state.load(write(tmp_path / "a", 1), ignore, NEVER)
        old = state.target()
        seen = []

        def catch_up(target: Target) -> None:
            assert state.target() is old and target is not old
            with ThreadPoolExecutor(1) as others:
                seen.append(others.submit(may_write, state).result())
            target.table_for(4).upsert(SIGNS[:1], np.full((1, 4), 5, np.float32), 2**31)

        state.load(write(tmp_path / "b", 2), ignore, NEVER, catch_up)
        assert seen == [True, False]
        assert value_of(state.target()) == 5 and value_of(state.target(), 1) == 2

    def test_at_start_before_lookups(self, shard_state, tmp_path):
        state = shard_state()

        def catch_up(target: Target) -> None:
            assert state.snapshot.generation is None and state.target() is None
            target.table_for(4).upsert(SIGNS[:1], np.full((1, 4), 5, np.float32), 2**31)

        state.start(write(tmp_path / "a", 1), ignore, NEVER, catch_up)
        assert value_of(state.target()) == 5

    def test_that_fails_leaves_what_was_served(self, shard_state, tmp_path):
        state = shard_state()
        state.load(write(tmp_path / "a", 1), ignore, NEVER)

        def refuse(target: Target) -> None:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            state.load(write(tmp_path / "b", 2), ignore, NEVER, refuse)
        assert value_of(state.target()) == 1 and "no" in state.snapshot.failure
        assert [path.name for path in state.target().folder.parent.iterdir() if path.is_dir()] == ["00000001"]

    def test_a_start_that_is_cut_short_in_it_goes_on_from_there(self, shard_state, tmp_path):
        checkpoint = write(tmp_path / "a", 1)
        state = shard_state()

        def die(target: Target) -> None:
            target.store.set_applied(SECONDS + 1, 1)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            state.start(checkpoint, ignore, NEVER, die)
        state = shard_state()
        state.start(checkpoint, ignore, NEVER)
        assert (state.snapshot.started, state.applied()) == ("warm", (SECONDS + 1, 1))
