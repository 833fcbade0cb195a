"""Which checkpoint of a folder is loaded: a pure choice, and what a folder tells."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.embedding_server.candidates import Candidate, Serving, by_preference, choose
from satrap.embedding_server.checkpoint_folder import (
    CheckpointFolder,
    folder_identity,
    is_folder_of_checkpoints,
)
from satrap.embedding_server.checkpoints import CheckpointSettings
from satrap.embedding_server.origin import NO_ORIGIN, Origin
from satrap.formats.persia_checkpoint import ShardRoute

SETTINGS = CheckpointSettings(ShardRoute(), 100)
ROWS = {4: (np.arange(10, dtype=np.uint64), np.ones((10, 4), np.float32))}


def ours(sequence: int, published: int = 0, stream: str = "ads", name: str = "") -> Candidate:
    name = name or f"{stream}-{sequence}-{published}"
    return Candidate(name, stream, sequence, published or sequence, name, sequence)


def persia(written: int) -> Candidate:
    return Candidate(f"p{written}", "persia", written - 100, written * 10**9, f"p{written}", written)


def serving(applied: int, base: int = 1, stream: str = "ads", published: int = 1) -> Serving:
    return Serving(Origin("satrap", stream, base, 0, published), applied, "base")


class TestChoose:
    def test_nothing_there(self):
        assert choose([], serving(5), {}) is None

    def test_beyond_what_is_applied(self):
        assert choose([ours(4), ours(5)], serving(5), {}) is None
        assert choose([ours(6), ours(9), ours(7)], serving(5), {}) == ours(9)

    def test_of_one_sequence_the_last(self):
        assert choose([ours(9, 8), ours(9, 12), ours(9, 10)], serving(5), {}) == ours(9, 12)

    def test_a_lower_one_that_was_published_later(self):
        assert choose([ours(9, 50), ours(4, 60)], serving(9), {}) is None

    def test_one_that_is_refused(self):
        assert choose([ours(8), ours(9)], serving(5), {}, {ours(9).identity}) == ours(8)
        assert choose([ours(4), ours(9)], serving(5), {}, {ours(9).identity}) is None

    def test_a_hold(self):
        assert choose([ours(7), ours(8), ours(9)], serving(5), {"ads": 8}) == ours(8)
        assert choose([ours(7), ours(9)], serving(7), {"ads": 8}) is None
        assert choose([ours(7), ours(9)], serving(7), {"other": 8}) == ours(9)

    def test_nothing_is_served_yet(self):
        empty = Serving(NO_ORIGIN, 0)
        assert choose([ours(7), ours(9)], empty, {}) == ours(9)
        assert choose([ours(9)], empty, {"ads": 8}) is None

    def test_a_stream_that_was_adopted(self):
        adopted = Serving(Origin("satrap", "ads"), 5)
        assert choose([ours(5)], adopted, {}) is None and choose([ours(6)], adopted, {}) == ours(6)

    def test_another_stream_that_was_published_later(self):
        foreign = ours(2, 99, "new")
        assert choose([ours(9, 50), foreign], serving(5, published=40), {}) == foreign
        assert choose([foreign], serving(5, published=99), {}) is None

    def test_another_stream_that_was_published_earlier(self):
        foreign = ours(2000, 45, "new")
        assert choose([ours(9, 50), foreign], serving(5, published=40), {}) == ours(9, 50)
        assert choose([ours(4, 50), foreign], serving(5, published=40), {}) is None
        assert choose([foreign], serving(5, published=50), {}) is None

    def test_the_own_stream_if_another_may_not_be_used(self):
        foreign = ours(2, 99, "new")
        assert choose([ours(9, 50), foreign], serving(5), {"new": 1}) == ours(9, 50)
        assert choose([ours(9, 50), foreign], serving(5), {}, {foreign.identity}) == ours(9, 50)

    def test_persias_by_their_time(self):
        """Its packets may be lost: a later checkpoint is better, however much is applied."""
        from_persia = Serving(Origin("persia", "persia", 900, 0, 1000 * 10**9, 900), 5000)
        assert choose([persia(999), persia(1000)], from_persia, {}) is None
        assert choose([persia(1001), persia(1003)], from_persia, {}) == persia(1003)

    def test_persias_below_a_hold(self):
        """It may hold rows up to the second in which it was written, though packets from before that follow it."""
        from_persia = Serving(Origin("persia", "persia", 900, 0, 1000 * 10**9, 900), 5000)
        assert choose([persia(1001), persia(1003)], from_persia, {"persia": 1002}) == persia(1001)
        assert choose([persia(1003)], from_persia, {"persia": 1002}) is None

    def test_from_persia_to_ours(self):
        from_persia = Serving(Origin("persia", "persia", 900, 0, 1000 * 10**9, 900), 5000)
        assert choose([persia(1000), ours(3, 1001 * 10**9)], from_persia, {}) == ours(3, 1001 * 10**9)

    def test_what_is_served_has_to_be_replaced(self):
        """It is beyond a hold and cannot be taken back."""
        held = {"ads": 8}
        found = [ours(3), ours(7), ours(9), ours(5, 99, "new")]
        assert choose(found, serving(9), held, must_replace=True) == ours(7)
        assert choose([ours(9)], serving(9), held, must_replace=True) is None

    @given(
        st.lists(
            st.builds(ours, st.integers(0, 9), st.integers(1, 9), st.sampled_from(["ads", "new"])), max_size=8
        ),
        st.integers(0, 9),
        st.one_of(st.none(), st.integers(0, 9)),
    )
    def test_what_is_chosen_is_better_and_allowed(self, candidates, applied, hold):
        held = {} if hold is None else {"ads": hold}
        now = serving(applied, published=5)
        chosen = choose(candidates, now, held)
        usable = by_preference(candidates, held)
        own = [found for found in usable if found.stream == "ads"]
        if chosen is None:
            assert all(found.sequence <= applied for found in own) or usable[0].stream == "new"
            return
        assert chosen in usable
        if chosen.stream == "ads":
            assert chosen.sequence == max(found.sequence for found in own) > applied
        else:
            assert chosen.published_ns > 5
        # having loaded it, there is nothing better
        loaded = Origin("satrap", chosen.stream, chosen.sequence, 0, chosen.published_ns)
        assert choose(candidates, Serving(loaded, chosen.sequence, chosen.identity), held) in (
            None,
            *[found for found in usable if found.stream != chosen.stream],
        )


class TestFolder:
    def test_both_formats(self, tmp_path, persia_data, write_ours):
        write_ours(tmp_path / "b", ROWS, 7, published_ns=9)
        shutil.copytree(persia_data / "ckpt_2x4", tmp_path / "a")
        (tmp_path / "begun").mkdir()
        (tmp_path / "begun" / "x.arrow").write_bytes(b"")
        (tmp_path / "README").write_text("mine")
        folder = CheckpointFolder(tmp_path, SETTINGS)
        found = {candidate.location: candidate for candidate in folder.candidates()}
        assert set(found) == {str(tmp_path / "a"), str(tmp_path / "b")}
        own = found[str(tmp_path / "b")]
        assert (own.stream, own.sequence, own.published_ns) == ("ads", 7, 9)
        other = found[str(tmp_path / "a")]
        assert (other.stream, other.sequence) == ("persia", other.reaches - 100)
        assert {candidate.identity for candidate in folder.candidates()} == {
            candidate.identity for candidate in found.values()
        }

    def test_a_url(self, write_ours):
        write_ours("memory://choosing/b", ROWS, 7)
        (candidate,) = CheckpointFolder("memory://choosing", SETTINGS).candidates()
        assert candidate.location.endswith("choosing/b") and candidate.sequence == 7

    def test_bad_ones_are_told_once(self, tmp_path, write_ours, caplog):
        write_ours(tmp_path / "good", ROWS, 7)
        write_ours(tmp_path / "cut", ROWS, 8)
        next((tmp_path / "cut").glob("*.arrow")).unlink()
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "embedding_dump_done").write_text("")
        folder = CheckpointFolder(tmp_path, SETTINGS)
        for _ in range(3):
            assert [candidate.sequence for candidate in folder.candidates()] == [7]
        messages = [record.message for record in caplog.records]
        assert len(messages) == 2
        assert "cut" in messages[0] and "still being written" in messages[1]

    def test_one_that_becomes_whole(self, tmp_path, write_ours):
        write_ours(tmp_path / "elsewhere" / "c", ROWS, 8)
        (tmp_path / "folder").mkdir()
        folder = CheckpointFolder(tmp_path / "folder", SETTINGS)
        assert folder.candidates() == []
        (tmp_path / "folder" / "c").mkdir()
        for path in sorted((tmp_path / "elsewhere" / "c").iterdir(), key=lambda path: path.suffix == ".json"):
            assert folder.candidates() == []
            shutil.copy(path, tmp_path / "folder" / "c")
        assert [candidate.sequence for candidate in folder.candidates()] == [8]

    def test_one_that_is_written_again(self, tmp_path, write_ours):
        write_ours(tmp_path / "c", ROWS, 8)
        folder = CheckpointFolder(tmp_path, SETTINGS)
        (before,) = folder.candidates()
        shutil.rmtree(tmp_path / "c")
        write_ours(tmp_path / "c", ROWS, 8)
        (after,) = folder.candidates()
        assert before.identity != after.identity

    def test_what_a_folder_is(self, tmp_path, persia_data, write_ours):
        assert is_folder_of_checkpoints(tmp_path)
        assert not is_folder_of_checkpoints(tmp_path / "nowhere")
        write_ours(tmp_path / "c", ROWS, 8)
        (tmp_path / "README").write_text("mine")
        assert is_folder_of_checkpoints(tmp_path) and not is_folder_of_checkpoints(tmp_path / "c")
        assert not is_folder_of_checkpoints(persia_data / "ckpt_2x4")
        (tmp_path / "unfinished" / "s0").mkdir(parents=True)
        (tmp_path / "cut").mkdir()
        (tmp_path / "cut" / "x.arrow").write_bytes(b"")
        assert not is_folder_of_checkpoints(tmp_path / "cut")
        assert not is_folder_of_checkpoints(tmp_path / "unfinished")
        assert is_folder_of_checkpoints("memory://nothing-here-yet")

    def test_its_identity(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "a")
        assert (
            folder_identity(tmp_path / "a")
            == folder_identity(f"{tmp_path}/a/")
            == folder_identity(tmp_path / "link")
        )
        assert folder_identity(tmp_path / "a") != folder_identity(tmp_path)


def test_settings_are_hashable():
    assert hash(SETTINGS) == hash(CheckpointSettings(ShardRoute(), 100))


@pytest.mark.parametrize("wrong", ["s3x://bucket", ""])
def test_a_location_that_is_none(wrong):
    from satrap.errors import InvalidInputError

    with pytest.raises(InvalidInputError):
        CheckpointFolder(wrong, SETTINGS)
