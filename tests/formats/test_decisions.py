"""An operator's decisions: files that every server reads the same way, or not at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import FormatVersionError, ManifestError, StorageError, UpdateError
from satrap.formats.decisions import (
    Hold,
    Skip,
    add_skip,
    format_hold,
    format_skips,
    hold_name,
    parse_decision_name,
    parse_hold,
    parse_skips,
    read_hold,
    read_skips,
    remove_hold,
    remove_skips,
    skip_name,
    write_hold,
)
from satrap.storage import open_storage

HOLD = Hold("ads", 811, "ann@ops", "the click feed counts twice - höher", 1_700_000_000_000_000_000)
SKIP = Skip(815, "ann@ops", "the trainer's disk was lost", 1_700_000_000_000_000_001)


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    if request.param == "local":
        return open_storage(tmp_path / "packets")
    return open_storage(f"memory://{request.node.name}/packets")


def test_a_hold_is_there_until_it_is_removed(storage):
    assert read_hold(storage, "ads") is None and not remove_hold(storage, "ads")
    write_hold(storage, HOLD)
    assert [entry.name for entry in storage.list()] == ["hold-ads.json"] == [hold_name("ads")]
    assert read_hold(storage, "ads") == HOLD and read_hold(storage, "news") is None
    lower = Hold("ads", 805, "bob", "further back", 5)
    write_hold(storage, lower)
    assert read_hold(storage, "ads") == lower
    assert remove_hold(storage, "ads") and read_hold(storage, "ads") is None


def test_skips_add_up(storage):
    assert read_skips(storage, "ads") == () and not remove_skips(storage, "ads")
    assert add_skip(storage, "ads", SKIP) == (SKIP,)
    later = Skip(900, "bob", "again", 7)
    assert add_skip(storage, "ads", later) == (SKIP, later) == read_skips(storage, "ads")
    assert [entry.name for entry in storage.list()] == ["skip-ads.json"] == [skip_name("ads")]
    assert remove_skips(storage, "ads") and read_skips(storage, "ads") == ()


def hold_with(**change):
    return json.dumps(json.loads(format_hold(HOLD)) | change).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (format_hold(HOLD)[:-4], "not JSON"),
        (format_skips("ads", [SKIP]), "another kind of file"),
        (hold_with(stream="news"), "about the stream news, under the name of one about ads"),
        (hold_with(keep_through=-1), "keep_through"),
        (hold_with(keep_through=1.0), "keep_through"),
        (hold_with(keep_through=True), "keep_through"),
        (hold_with(keep_through=2**32), "keep_through"),
        (hold_with(who=""), "who"),
        (hold_with(who="a\nb"), "who"),
        (hold_with(why="x" * 1001), "why"),
        (hold_with(time_ns=None), "time_ns"),
        (format_hold(HOLD).replace(b'"who"', b'"why"'), "'why' comes twice"),
    ],
)
def test_a_hold_that_cannot_be_read_is_an_error_and_not_no_hold(storage, data, reason):
    storage.publish(hold_name("ads"), data)
    with pytest.raises(ManifestError, match=reason):
        read_hold(storage, "ads")


@pytest.mark.parametrize("skips", [None, {}, [5], [{"to": 0}], [{"to": 5}], [vars(SKIP) | {"to": 2**32}]])
def test_skips_that_cannot_be_read(storage, skips):
    content = json.loads(format_skips("ads", [])) | {"skips": skips}
    storage.publish(skip_name("ads"), json.dumps(content).encode())
    with pytest.raises(ManifestError):
        read_skips(storage, "ads")
    with pytest.raises(ManifestError):
        add_skip(storage, "ads", SKIP)


def test_a_later_version(storage):
    storage.publish(hold_name("ads"), hold_with(version=2))
    with pytest.raises(FormatVersionError):
        read_hold(storage, "ads")


@pytest.mark.parametrize(
    "hold",
    [
        Hold("ads", -1, "ann", "why", 5),
        Hold("ads", 5, "", "why", 5),
        Hold("../ads", 5, "ann", "why", 5),
    ],
)
def test_what_readers_would_refuse_is_not_written(storage, hold):
    with pytest.raises(ManifestError):
        write_hold(storage, hold)
    assert storage.list(temporary=True) == []


def test_what_a_terminal_could_not_decode_is_written_as_question_marks(storage):
    write_hold(storage, Hold("ads", 5, "ann", "h\udcf6her", 5))
    assert read_hold(storage, "ads").why == "h?her"


def test_a_decision_that_is_a_folder(tmp_path):
    (tmp_path / hold_name("ads")).mkdir()
    with pytest.raises(StorageError):
        read_hold(open_storage(tmp_path), "ads")


@given(st.data())
def test_any_byte_changed_is_read_or_refused(data):
    for content, parse in ((format_hold(HOLD), parse_hold), (format_skips("ads", [SKIP, SKIP]), parse_skips)):
        changed = bytearray(content)
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            parse("x", bytes(changed), "ads")
        except UpdateError:
            continue


@pytest.mark.parametrize(
    "name", ["hold-.json", "hold-a.json.tmp", ".hold-a.json", "skips-a.json", "hold.json"]
)
def test_names_of_no_decision(name):
    assert parse_decision_name(name) is None


@pytest.mark.parametrize("stream", ["ads", "a.b-c", "a.json"])
def test_names_of_decisions(stream):
    assert parse_decision_name(hold_name(stream)) == ("hold", stream)
    assert parse_decision_name(skip_name(stream)) == ("skip", stream)
