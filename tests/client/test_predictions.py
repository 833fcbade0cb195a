"""What the inference clients send, and what the answers say."""

from typing import Any

import numpy as np
import pytest

from satrap.client.predictions import parse_health, parse_prediction, predictions_request
from satrap.errors import UnexpectedAnswerError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"[\n  0.1,\n  0.3333333333333333,\n  1e-07\n]", [0.1, 0.3333333333333333, 1e-07]),
        (b"[]", []),
        (b"[[1.0, 2.0], [3.0, 4.0]]", [[1.0, 2.0], [3.0, 4.0]]),
        (b"[NaN, Infinity, -Infinity]", [np.nan, np.inf, -np.inf]),
        (b"[true, false]", [True, False]),
    ],
)
def test_numbers_of_a_prediction(answer: bytes, expected: list[Any]) -> None:
    np.testing.assert_array_equal(parse_prediction(answer), np.array(expected))


@pytest.mark.parametrize(
    "answer",
    [b"", b"[1.0", b"\xff\xfe", b"1.5", b'"text"', b'["a"]', b'{"a": 1}', b"[[1], [1, 2]]", b"[null]"],
)
def test_what_is_no_list_of_numbers(answer: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError, match="no list of numbers"):
        parse_prediction(answer)


def test_the_word_of_a_servers_health() -> None:
    assert parse_health('{\n  "status": "Partial Healthy"\n}') == "Partial Healthy"
    for document in ("", "[]", "{}", "Healthy"):
        with pytest.raises(UnexpectedAnswerError, match="no JSON with a status"):
            parse_health(document)


def test_a_request_names_model_version_and_inputs() -> None:
    request = predictions_request("m", {"a": b"1", "b": b""}, "2")
    assert (request.model_name, request.model_version, dict(request.input)) == (
        "m",
        "2",
        {"a": b"1", "b": b""},
    )
