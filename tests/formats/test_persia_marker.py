"""PERSIA's embedding_dump_done."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import CheckpointCorruptError, CheckpointIncompleteError
from satrap.formats.persia_marker import MARKER, Marker, format_marker, parse_marker

PATH = Path("ckpt/embedding_dump_done")


def test_what_persia_wrote(persia_data):
    data = (persia_data / "ckpt_2x4" / MARKER).read_bytes()
    marker = parse_marker(PATH, data)
    assert marker == Marker(2, 4, 1795175210_325744470)
    assert format_marker(marker) == data


@given(st.integers(1, 2**32), st.integers(1, 2**32), st.integers(0, 2**62))
def test_round_trip(num_shards, num_internal_shards, written_ns):
    marker = Marker(num_shards, num_internal_shards, written_ns)
    assert parse_marker(PATH, format_marker(marker)) == marker


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n"])
def test_empty_marker_is_still_being_written(data):
    with pytest.raises(CheckpointIncompleteError, match="still being written"):
        parse_marker(PATH, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"num_shards: [2", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"---\nnum_shards: 2\n", "num_internal_shards must be an integer of at least 1, not None"),
        (b"just text", "num_shards must be an integer of at least 1, not None"),
        (b"num_shards: 0\nnum_internal_shards: 1", "num_shards must be an integer of at least 1, not 0"),
        (b"num_shards: true\nnum_internal_shards: 1", "not True"),
        (b"num_shards: two\nnum_internal_shards: 1", "not 'two'"),
        (
            b"num_shards: 1\nnum_internal_shards: 1\ndatetime: now",
            "datetime.secs_since_epoch must be an integer",
        ),
    ],
)
def test_bad_marker_is_named(data, reason):
    with pytest.raises(CheckpointCorruptError, match=reason) as caught:
        parse_marker(PATH, data)
    assert caught.value.path == PATH


def test_marker_cut_at_any_length():
    whole = format_marker(Marker(12, 34, 5_000_000_006))
    for size in range(len(whole)):
        try:
            marker = parse_marker(PATH, whole[:size])
        except (CheckpointCorruptError, CheckpointIncompleteError):
            continue
        assert (marker.num_shards, marker.num_internal_shards) == (12, 34)
