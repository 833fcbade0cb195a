"""The comparison itself: what it leaves out of answers, what it finds, and what it lets pass."""

import pytest
from torchserve_calls.answer import Answer, from_json, rest_answer, rpc_answer, to_json
from torchserve_calls.call import Ready, Rest, name_calls
from torchserve_calls.differences import (
    Deliberate,
    Difference,
    Place,
    differences,
    page_with_table,
    read_deliberate,
    sort_out,
    table,
)

UNKNOWN = Deliberate(
    "a case", "this", "that", "a reason", [Place("s", ["call [a note]"], ["status", "body"], "^404$|nowhere")]
)
USUAL = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
    "Connection": "keep-alive",
    "x-request-id": "2df3883d-ef07-46f2-a017-345969dbb9f8",
}


def test_what_changes_from_run_to_run_is_left_out() -> None:
    body = b'{"pid": 4711, "startTime": "2026-11-21T21:14:43.081Z", "id": "9003", "url": "http://127.0.0.1:8080/x"}'

    answer = rest_answer(
        200, [("x-request-id", "2df3883d-ef07-46f2-a017-345969dbb9f8"), ("date", "now")], body
    )

    assert answer.headers == {"x-request-id": "<uuid>"}
    assert answer.body == (
        '{"pid": "<number>", "startTime": "<time>", "id": "<worker>", "url": "http://127.0.0.1:<port>/x"}'
    )


def test_metrics_keep_their_names_and_the_values_that_calls_decide() -> None:
    text = (
        b"# HELP Requests2XX of all\n# TYPE Requests2XX counter\n"
        b'Requests2XX{Level="Host",Hostname="vm",} 29.0\n'
        b"# HELP QueueTime of the last\n# TYPE QueueTime gauge\n"
        b'QueueTime{Level="Host",Hostname="vm",} 3.0\n'
        b"# HELP satrap_x ours\n# TYPE satrap_x gauge\nsatrap_x 1\n"
    )

    answer = rest_answer(200, [("content-type", "text/plain; version=0.0.4; charset=utf-8")], text)

    assert answer.body.splitlines() == [
        "# QueueTime gauge: of the last",
        "# Requests2XX counter: of all",
        'QueueTime{Level="Host",Hostname="<host>"} <value>',
        'Requests2XX{Level="Host",Hostname="<host>"} 29',
    ]


@pytest.mark.parametrize(
    "answer",
    [
        rest_answer(200, USUAL.items(), b'{\n  "status": "Healthy"\n}\n'),
        rest_answer(200, USUAL.items(), b"[]"),
        rest_answer(404, [("content-type", "application/json")], b'{"one": "line"}'),
        rest_answer(200, USUAL.items(), b"first\nsecond\n"),
        rest_answer(200, USUAL.items(), b""),
        rest_answer(200, USUAL.items(), b"\xff\x00"),
        rpc_answer("OK", "", [{"msg": "done"}]),
        rpc_answer("NOT_FOUND", "Model not found: nope\njava.class", []),
        Answer("no answer", {}, "ConnectionResetError"),
    ],
    ids=range(9),
)
def test_an_answer_is_read_as_it_was_recorded(answer: Answer) -> None:
    assert from_json(to_json(answer)) == answer


def test_calls_that_look_alike_are_numbered() -> None:
    ping = Rest("inference", "GET", "/ping")

    assert [name for name, _ in name_calls([ping, Ready("m", 1), ping])] == [
        "inference GET /ping",
        "",
        "inference GET /ping (2)",
    ]


def test_every_part_of_an_answer_is_compared() -> None:
    theirs = {"call": Answer("200", {"a": "1", "b": "2"}, "x")}
    ours = {"call": Answer("404", {"a": "1", "c": "3"}, "y")}

    assert differences("s", theirs, ours) == [
        Difference("s", "call", "b", "2", "(absent)"),
        Difference("s", "call", "body", "x", "y"),
        Difference("s", "call", "c", "(absent)", "3"),
        Difference("s", "call", "status", "200", "404"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        Difference("other", "call [a note]", "status", "200", "404"),
        Difference("s", "call [another note]", "status", "200", "404"),
        Difference("s", "call [a note]", "connection", "close", "404"),
        Difference("s", "call [a note]", "status", "200", "500"),
    ],
    ids=["scenario", "call", "part", "what satrap says"],
)
def test_a_difference_that_is_not_listed_is_not_meant(other: Difference) -> None:
    listed = Difference("s", "call [a note]", "status", "200", "404")

    assert sort_out([listed, other], [UNKNOWN], ["s"]) == ([other], [])


def test_a_text_that_is_replaced_must_be_all_that_differs() -> None:
    place = Place("s", ["call"], ["body"], instead={"a: 1": "a: 2"})
    listed = Deliberate("a case", "this", "that", "a reason", [place])
    meant = Difference("s", "call", "body", "a: 1, b: 1", "a: 2, b: 1")
    more = Difference("s", "call", "body", "a: 1, b: 1", "a: 2, b: 2")

    assert sort_out([meant, more], [listed], ["s"]) == ([more], [])


def test_a_listed_difference_that_is_gone_is_told() -> None:
    assert sort_out([], [UNKNOWN], ["s"]) == ([], [(UNKNOWN, UNKNOWN.seen[0])])
    assert sort_out([], [UNKNOWN], ["another scenario"]) == ([], [])


def test_the_table_of_a_page_is_written_anew() -> None:
    page = "before\n<!-- differences -->\nold\n<!-- end of differences -->\nafter\n"

    written = page_with_table(page, [UNKNOWN])

    assert written == page.replace("old", table([UNKNOWN]))
    assert "| a case | this | that | a reason |" in written
    assert page_with_table(written, [UNKNOWN]) == written


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="between which the table is written"):
        page_with_table("nothing", [UNKNOWN])


def test_every_listed_difference_has_a_reason() -> None:
    for one in read_deliberate():
        assert all((one.case, one.torchserve, one.satrap, one.why)), one
