"""Packets kept aside: records survive restarts, names are only names, and room is bounded."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.embedding_server.updates import quarantine as module
from satrap.embedding_server.updates.quarantine import Quarantine, Record, answer_quarantine
from satrap.errors import ChecksumError, ConflictError, GuardrailError, InvalidInputError, NotFoundError
from satrap.protos import embedding_pb2 as pb

NAME = "00000000000000000007-w.json"
PERSIA_NAME = "s0/inc_20260101000000/0_0.inc"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "quarantine"


def copied(folder: Path) -> None:
    (folder / "rows.arrow").write_bytes(b"rows")


def refuse(quarantine, name=NAME, sequence=7, decision="waiting", copy=copied, now_ns=5):
    return quarantine.refuse(name, sequence, GuardrailError(name, "too large"), decision, copy, now_ns)


def ask(quarantine, action="LIST", name="", past=lambda record: False):
    number = pb.QuarantineRequest.Action.Value(f"ACTION_{action}")
    return answer_quarantine(quarantine, pb.QuarantineRequest(action=number, name=name), past).records


@pytest.mark.parametrize("name", [NAME, PERSIA_NAME])
def test_a_record_and_its_files_survive_a_restart(folder, name):
    record = refuse(Quarantine(folder), name)
    again = Quarantine(folder).records()
    assert again == {name: record}
    assert (record.code, record.reason, record.since_ns, record.decision) == (
        "guardrail",
        f"{name}: too large",
        5,
        "waiting",
    )
    assert sorted(path.name for path in Path(record.kept_at).iterdir()) == ["reason.json", "rows.arrow"]
    assert Path(record.kept_at).parent == folder
    assert json.loads((Path(record.kept_at) / "reason.json").read_text())["name"] == name


def test_nothing_is_made_before_it_is_needed(folder):
    assert Quarantine(folder).records() == {}
    Quarantine(folder).retry(NAME)
    assert not folder.exists()


def test_retry_forgets(folder):
    quarantine = Quarantine(folder)
    refuse(quarantine)
    refuse(quarantine, "other", 8)
    quarantine.retry(NAME)
    assert list(quarantine.records()) == list(Quarantine(folder).records()) == ["other"]


def test_dropped_stays_dropped(folder):
    quarantine = Quarantine(folder)
    refuse(quarantine, now_ns=5)
    quarantine.drop(NAME)
    record = refuse(quarantine, now_ns=9)
    assert (record.decision, record.since_ns) == ("dropped", 5)
    assert Quarantine(folder).records()[NAME].decision == "dropped"


def test_refused_again_for_another_reason(folder):
    quarantine = Quarantine(folder)
    refuse(quarantine)
    record = quarantine.refuse(NAME, 7, ChecksumError(NAME, "flipped"), "skipped", lambda folder: None, 9)
    assert (record.code, record.since_ns, record.decision) == ("bad_checksum", 5, "skipped")
    assert [path.name for path in Path(record.kept_at).iterdir()] == ["reason.json"]


def test_what_cannot_be_copied_is_refused_all_the_same(folder, caplog):
    def unreadable(folder: Path) -> None:
        (folder / "part").write_bytes(b"x")
        raise PermissionError(13, "Permission denied", "rows.arrow")

    assert refuse(Quarantine(folder), copy=unreadable).code == "guardrail"
    assert "cannot be copied" in caplog.text
    assert NAME in Quarantine(folder).records()


def test_without_room_the_packet_is_refused_all_the_same(tmp_path, caplog):
    (tmp_path / "quarantine").write_text("no folder")
    quarantine = Quarantine(tmp_path / "quarantine")
    refuse(quarantine)
    assert NAME in quarantine.records() and "cannot be written" in caplog.text


def test_a_kill_in_the_middle_leaves_no_record(folder):
    refuse(Quarantine(folder))
    half = folder / ".half"
    half.mkdir()
    (half / "reason.json").write_text("{}")
    assert list(Quarantine(folder).records()) == [NAME]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "satrap-quarantine", "version": 2}',
        '{"format": "satrap-quarantine", "version": 1, "name": "a", "sequence": 1, "code": "c", "reason": "r", '
        '"since_ns": 1, "decision": "perhaps"}',
    ],
)
def test_damaged_records_are_none(folder, text, caplog):
    record = refuse(Quarantine(folder))
    (Path(record.kept_at) / "reason.json").write_text(text)
    assert Quarantine(folder).records() == {} and "is no quarantine record" in caplog.text


@given(st.text(min_size=1, max_size=400))
def test_no_name_leads_anywhere_else(name):
    escaped = module._folder_name(name)
    assert "/" not in escaped and "\0" not in escaped and not escaped.startswith(".") and escaped
    assert len(escaped.encode()) < 255


def test_names_do_not_collide():
    names = [NAME, PERSIA_NAME, "s0_inc", "s0/inc", ".", "..", "%2E", "x" * 300, "x" * 301]
    assert len({module._folder_name(name) for name in names}) == len(names)


def test_old_records_and_large_copies_go(folder, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_RECORDS", 4)
    monkeypatch.setattr(module, "_KEPT_BYTES", 10)
    quarantine = Quarantine(folder)
    refuse(quarantine, "waiting", 1, now_ns=1)
    for number in range(2, 8):
        refuse(quarantine, str(number), number, "skipped", now_ns=number)
    assert list(quarantine.records()) == list(Quarantine(folder).records()) == ["waiting", "5", "6", "7"]
    assert sorted(path.parent.name for path in folder.glob("*/rows.arrow")) == ["6", "7"]
    refuse(quarantine, "8", 8, copy=lambda folder: (folder / "big").write_bytes(b"x" * 11))
    assert not (folder / "8" / "big").exists() and (folder / "8" / "reason.json").exists()


class TestAnswer:
    def test_list(self, folder):
        quarantine = Quarantine(folder)
        refuse(quarantine)
        (record,) = ask(quarantine)
        assert (record.name, record.sequence, record.code, record.decision) == (
            NAME,
            7,
            "guardrail",
            "waiting",
        )
        assert record.kept_at == str(folder / NAME)
        (record,) = ask(quarantine, past=lambda record: True)
        assert record.decision == "skipped"

    def test_drop_and_retry(self, folder):
        quarantine = Quarantine(folder)
        refuse(quarantine)
        (record,) = ask(quarantine, "DROP", NAME)
        assert record.decision == "dropped"
        (record,) = ask(quarantine, "RETRY", NAME)
        assert record.name == NAME and quarantine.records() == {}

    def test_retry_of_what_lies_behind(self, folder):
        quarantine = Quarantine(folder)
        refuse(quarantine, decision="skipped")
        with pytest.raises(ConflictError, match=r"satrap rollback --to 6"):
            ask(quarantine, "RETRY", NAME, past=lambda record: record.sequence <= 9)
        assert NAME in quarantine.records()

    @pytest.mark.parametrize("action", ["RETRY", "DROP"])
    @pytest.mark.parametrize("name", ["", "other", "../../etc", ".", PERSIA_NAME])
    def test_names_that_are_none(self, folder, action, name):
        quarantine = Quarantine(folder)
        refuse(quarantine)
        with pytest.raises(NotFoundError, match="satrap quarantine list"):
            ask(quarantine, action, name)
        assert list(quarantine.records()) == [NAME]

    def test_an_action_of_a_later_version(self, folder):
        with pytest.raises(InvalidInputError, match="action 7"):
            answer_quarantine(Quarantine(folder), pb.QuarantineRequest(action=7), lambda record: False)


def test_a_record_says_where_its_files_are(folder):
    assert isinstance(refuse(Quarantine(folder)), Record)
