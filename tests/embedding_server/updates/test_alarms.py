"""Alarms: raised once, cleared once, and since when."""

import pytest

from satrap.embedding_server.updates.alarms import Alarm, alarm_of, changed_alarms
from satrap.errors import ManifestError, NoSpaceError, StorageError

GAP = Alarm("gap", "5 is missing")
HELD = Alarm("held", "by anna")


def test_raised_once_and_cleared_once():
    first = changed_alarms([], [GAP], 10)
    assert first.standing == first.raised == (Alarm("gap", "5 is missing", 10),) and not first.cleared
    later = changed_alarms(first.standing, [Alarm("gap", "5 and 6 are missing"), HELD], 20)
    assert later.standing == (Alarm("gap", "5 and 6 are missing", 10), Alarm("held", "by anna", 20))
    assert [alarm.code for alarm in later.raised] == ["held"] and not later.cleared
    over = changed_alarms(later.standing, [HELD], 30)
    assert over.standing == (Alarm("held", "by anna", 20),) and not over.raised
    assert over.cleared == (Alarm("gap", "5 and 6 are missing", 10),)


def test_the_first_of_a_code_stands():
    assert changed_alarms([], [HELD, Alarm("held", "by another")], 1).standing == (
        Alarm("held", "by anna", 1),
    )


@pytest.mark.parametrize(
    ("error", "alarm"),
    [
        (NoSpaceError("no memory"), Alarm("no_room", "no memory")),
        (StorageError("s3://b", "is away"), Alarm("storage", "s3://b: is away")),
        (
            ManifestError("hold-s.json", "no JSON"),
            Alarm("held", "hold-s.json: no JSON; nothing is applied until it is mended, or removed"),
        ),
        (ValueError("what"), Alarm("failed", "what")),
        (KeyError(), Alarm("failed", "KeyError()")),
    ],
    ids=["no room", "storage", "decision", "no name", "no words"],
)
def test_the_alarm_of_a_look_that_failed(error, alarm):
    assert alarm_of(error) == alarm
