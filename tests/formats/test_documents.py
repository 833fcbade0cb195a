"""The examples of the format documents: their bytes are what is written, what was written once, and what is read."""

import re
from pathlib import Path

import numpy as np
import pytest

from satrap.formats.checkpoint import CheckpointWriter, open_checkpoint
from satrap.formats.decisions import Hold, Skip, format_hold, format_skips
from satrap.formats.packet import PacketContent, publish_packet, read_manifest, read_shard
from satrap.formats.persia_checkpoint import ShardRoute
from satrap.storage import open_storage

SIGNS = np.array([7, 8, 9], np.uint64)
ROWS = np.array([[0.5, -1], [2, 0.25], [1, 3]], np.float32)
DOCUMENTS = Path(__file__).parents[2] / "docs"


def example_packet(storage):
    return publish_packet(
        storage,
        stream="ads",
        writer="5a1c",
        sequence=812,
        previous=811,
        parts=[PacketContent(2, SIGNS, ROWS), PacketContent(2, np.array([3], np.uint64))],
        num_shards=2,
        oldest_event_ns=1_795_175_210_000_000_000,
        newest_event_ns=1_795_175_211_000_000_000,
        published_ns=1_795_175_211_250_000_000,
    )


def example_checkpoint(storage):
    with CheckpointWriter(
        storage,
        stream="ads",
        writer="5a1c",
        sequence=812,
        oldest_event_ns=1_795_000_000_000_000_000,
        newest_event_ns=1_795_175_211_000_000_000,
    ) as checkpoint:
        checkpoint.write(2, SIGNS[:2], ROWS[:2])
        return checkpoint.finish(published_ns=1_795_175_290_000_000_000)


def dump(data):
    """From the first sign's line to the line of the end mark: offsets and bytes, 16 a line."""
    end = data.index(b"\xff\xff\xff\xff\0\0\0\0")
    first = data.rindex(SIGNS[:1].tobytes(), 0, end) // 16
    lines = range(first, (end + 7) // 16 + 1)
    return "\n".join(f"{line * 16:08x}  {data[line * 16 : line * 16 + 16].hex(' ')}" for line in lines)


def blocks(document, language):
    found = re.findall(
        r"^```(\w*)\n(.*?)\n```$", (DOCUMENTS / document).read_text(), re.MULTILINE | re.DOTALL
    )
    return [text for of, text in found if of == language]


EXAMPLES = pytest.mark.parametrize(
    ("name", "make"), [("packet", example_packet), ("checkpoint", example_checkpoint)]
)


@EXAMPLES
def test_the_documents_bytes_are_those_that_are_written(name, make, tmp_path):
    manifest = make(open_storage(tmp_path))
    [documented] = blocks(f"{name}-format.md", "json")
    assert (tmp_path / manifest.name).read_text() == documented + "\n"
    assert dump((tmp_path / manifest.files[0].name).read_bytes()) in blocks(f"{name}-format.md", "")


@EXAMPLES
def test_what_was_written_once_is_written_still(name, make, tmp_path, persia_data):
    make(open_storage(tmp_path))
    kept = persia_data.parent / "satrap" / name
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in kept.iterdir()
    }


def test_what_was_written_once_is_read_still(persia_data):
    storage = open_storage(persia_data.parent / "satrap" / "packet")
    manifest = read_manifest(storage, "00000000000000000812-5a1c.json")
    [(dim, signs, rows), (_, deleted, none)] = read_shard(storage, manifest, ShardRoute())
    assert dim == 2 and deleted.tolist() == [3] and none is None
    np.testing.assert_array_equal(signs, SIGNS)
    np.testing.assert_array_equal(rows, ROWS)
    assert [len(read_shard(storage, manifest, ShardRoute(index, 2))) for index in range(2)] == [1, 1]
    checkpoint = open_checkpoint(open_storage(persia_data.parent / "satrap" / "checkpoint"))
    [entry] = checkpoint.entries(ShardRoute())
    [(_, signs, rows)] = checkpoint.pages(entry, ShardRoute())
    np.testing.assert_array_equal(signs, SIGNS[:2])
    np.testing.assert_array_equal(rows, ROWS[:2])
    assert 2.0155 < checkpoint.manifest.limits[2].norm_p999 < 2.0155 * 1.01


def test_the_decisions_keys_are_documented():
    text = (DOCUMENTS / "packet-format.md").read_text()
    for data in (
        format_hold(Hold("ads", 1, "ann", "why", 5)),
        format_skips("ads", [Skip(1, "ann", "why", 5)]),
    ):
        for key in re.findall(rb'"(\w+)":', data):
            assert f"`{key.decode()}`" in text
