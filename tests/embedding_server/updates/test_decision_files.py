"""Files of operators beside the packets: read when they appear, and again when they change."""

import pytest

from satrap.embedding_server.updates.decisions import DecisionFiles
from satrap.errors import ManifestError
from satrap.formats.decisions import Hold, Skip, add_skip, remove_hold, write_hold
from satrap.storage import Entry, open_storage


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def test_read_changed_and_released(storage):
    decisions = DecisionFiles(storage)
    decisions.read(storage.list())
    assert decisions.holds == {} and decisions.skips == {}
    write_hold(storage, Hold("main", 5, "anna", "why", 1))
    add_skip(storage, "main", Skip(3, "ben", "lost", 1))
    add_skip(storage, "main", Skip(9, "anna", "lost as well", 2))
    write_hold(storage, Hold("other-1", 7, "anna", "why", 1))
    decisions.read(storage.list(after="00000000000000000004"))
    assert decisions.holds == {"main": 5, "other-1": 7} and decisions.skips == {"main": 9}
    assert decisions.who_skipped("main") == "anna (lost as well)"
    write_hold(storage, Hold("main", 4, "anna", "why", 2))
    remove_hold(storage, "other-1")
    decisions.read(storage.list())
    assert decisions.holds == {"main": 4}


def test_what_cannot_be_understood_is_an_error_each_time(storage, tmp_path):
    decisions = DecisionFiles(storage)
    (tmp_path / "hold-main.json").write_text("{")
    for _ in range(2):
        with pytest.raises(ManifestError):
            decisions.read(storage.list())
    (tmp_path / "hold-main.json").unlink()
    decisions.read(storage.list())
    assert decisions.holds == {}


def test_names_of_others(storage, tmp_path):
    (tmp_path / "hold-.json").mkdir()
    (tmp_path / "holding.json").write_text("{")
    decisions = DecisionFiles(storage)
    decisions.read(storage.list())
    assert decisions.holds == {}


def test_two_decisions_within_a_second_where_only_seconds_are_told(tmp_path):
    storage = open_storage(tmp_path)
    files = DecisionFiles(storage)
    for keep in (7, 6):
        write_hold(storage, Hold("main", keep, "anna", "why", 1))
        files.read([Entry("hold-main.json", 100, 1_700_000_000 * 10**9)])
        assert files.holds == {"main": keep}
