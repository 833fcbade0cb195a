"""Alarms: raised once, cleared once, and since when."""

from satrap.embedding_server.updates.alarms import Alarm, changed_alarms

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
