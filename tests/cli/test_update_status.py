"""What a person is told of a server's updates, from what the server said."""

from satrap.cli.server_status import ServerStatus
from satrap.cli.update_status import age, disagreements, update_lines, updates_of
from satrap.protos import embedding_pb2 as pb

NOW = 1_700_000_000_000_000_000


def said(**fields):
    answer = pb.StatusResponse(updates=pb.UpdateStatus(**{"directory": "/p", "stream": "main", **fields}))
    return updates_of(answer, NOW)


def lines(**fields) -> dict[str, str]:
    return dict(update_lines(said(**fields)))


def test_nothing_is_followed():
    assert updates_of(pb.StatusResponse(), NOW) is None


def test_before_the_first_packet():
    told = lines(stream="", format="", gap_detection="sequence")
    assert told["updates"] == "no packet yet, from /p" and told["newest event"] == "not known"
    assert "visible after" not in told and told["packets"] == ""


def test_behind():
    assert lines(applied_sequence=9, newest_sequence=10, packets_behind=1)["applied"] == (
        "sequence 9, 1 packet behind (newest 10)"
    )
    assert lines(applied_sequence=1009)["applied"] == "sequence 1,009, nothing is waiting"


def test_ages_are_never_negative():
    assert lines(newest_event_ns=NOW + 10**9)["newest event"] == "0.0 s old"
    assert lines(newest_event_ns=NOW - 90 * 10**9)["newest event"] == "90.0 s old"
    assert [age(seconds) for seconds in (0.04, 119, 7200, 200_000)] == ["0.0 s", "119.0 s", "2 h", "2 d"]


def test_red_health():
    assert lines()["not ready"] == ""
    assert lines(not_ready="too old")["not ready"] == "too old"
    fine = ServerStatus("a", state="ready", updates=said())
    red = ServerStatus("a", state="ready", updates=said(not_ready="too old"))
    assert fine.is_ready and not red.is_ready and not ServerStatus("a").is_ready
    assert ServerStatus("a", state="ready").is_ready


def test_delays():
    histogram = pb.Histogram(bounds=[0.01, 0.02, 4], counts=[50, 98, 100], count=100, sum=1)
    told = said(visible_seconds=histogram)
    assert told.visible_p50_seconds is not None and told.visible_p50_seconds <= 0.02
    assert dict(update_lines(told))["visible after"].endswith("(100 packets)")


def test_everything_else():
    told = lines(
        gap_detection="none",
        hold=pb.Hold(keep_through=1041, who="me", why="bad"),
        alarms=[pb.Alarm(code="held", message="m", since_ns=NOW - 5 * 10**9)],
        quarantined_packets=2,
        unmarked_packets=1,
        clock_skew_seconds=3600.0,
        verdicts=[pb.Verdict(sequence=3, name="x", code="guardrail", decision="waiting")],
    )
    assert told["gap detection"] == "none"
    assert told["held"] == "through 1,041 by me: bad"
    assert told["alarm held"] == "m (for 5.0 s)"
    assert told["packets"] == "2 refused, 1 without PERSIA's marker since start"
    assert told["quarantine"] == "x (guardrail), waiting"
    assert told["clock"] == "the trainer's is 3600.0 s ahead of the server's"


class TestDisagreements:
    REFUSED = (pb.Verdict(sequence=3, name="p", code="guardrail"),)

    def test_none(self):
        assert disagreements([]) == []
        assert disagreements([("0", said(applied_sequence=3)), ("1", said(applied_sequence=2))]) == []

    def test_refused_by_all_or_not_reached_yet(self):
        one, other = said(applied_sequence=2, verdicts=self.REFUSED), said(applied_sequence=2)
        assert disagreements([("0", one), ("1", one)]) == []
        assert disagreements([("0", one), ("1", other)]) == []

    def test_refused_by_one_and_applied_by_another(self):
        one, other = said(applied_sequence=2, verdicts=self.REFUSED), said(applied_sequence=4)
        (sentence,) = disagreements([("0", one), ("1", other), ("2", other)])
        assert sentence.startswith("the shards disagree on p: refused by 0 (guardrail), applied by 1, 2.")
        assert "satrap rollback --to 2" in sentence

    def test_what_was_dropped_is_settled(self):
        dropped = pb.Verdict(sequence=3, name="p", code="guardrail", decision="dropped")
        one, other = said(applied_sequence=4, verdicts=[dropped]), said(applied_sequence=4)
        assert disagreements([("0", one), ("1", other)]) == []

    def test_what_has_no_sequence_says_nothing(self):
        unread = said(applied_sequence=2, verdicts=[pb.Verdict(name="a/0.inc", code="bad_persia_packet")])
        assert disagreements([("0", unread), ("1", said(applied_sequence=9))]) == []

    def test_streams(self):
        (sentence,) = disagreements([("0", said()), ("1", said(stream="other"))])
        assert "0: main, 1: other" in sentence
        assert disagreements([("0", said()), ("1", said(stream=""))]) == []
