"""Results, byte for byte: the twin is `json.dumps(indent=2)`, which TorchServe calls."""

import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import ShardUnavailableError, UnknownFeatureError
from satrap.serving.prediction import PredictionException
from satrap.serving.worker.results import Answer, answers_of, encode_value, error_answer

LIMIT = 1000

NUMBERS = st.one_of(st.floats(), st.integers(), st.booleans())
JSON = st.recursive(
    st.one_of(st.none(), NUMBERS, st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(st.one_of(st.lists(NUMBERS), JSON.filter(lambda v: not isinstance(v, str))))
def test_json_is_torchserves(value: object) -> None:
    assert encode_value(value) == json.dumps(value, indent=2).encode()


def test_the_documented_example() -> None:
    assert encode_value([0.1, 1 / 3, 1e-7]) == b"[\n  0.1,\n  0.3333333333333333,\n  1e-07\n]"
    assert encode_value([]) == b"[]"
    assert encode_value([math.nan, math.inf, -math.inf]) == b"[\n  NaN,\n  Infinity,\n  -Infinity\n]"
    assert encode_value([float(np.float32(0.49677))]) == b"[\n  0.4967699944972992\n]"


def test_bytes_and_text_as_they_are() -> None:
    assert encode_value(b"\x00\xff") == b"\x00\xff"
    assert encode_value(bytearray(b"ab")) == b"ab"
    assert encode_value("å") == "å".encode()


def test_a_tensor_is_saved() -> None:
    loaded = torch.load(io.BytesIO(bytes(encode_value(torch.arange(3)))), weights_only=True)
    assert torch.equal(loaded, torch.arange(3))


@pytest.mark.parametrize("returned", [None, (b"x",), {"a": 1}, b"x", np.zeros(1)])
def test_only_a_list_is_a_result(returned: object) -> None:
    assert answers_of(returned, 2, LIMIT) == [Answer(503, b"Invalid model predict output")] * 2


@pytest.mark.parametrize("returned", [[], [b"a"], [b"a"] * 3])
def test_one_element_for_each_request(returned: list[bytes]) -> None:
    assert answers_of(returned, 2, LIMIT) == [Answer(503, b"number of batch response mismatched")] * 2


@pytest.mark.parametrize("value", [np.zeros(2), np.float32(1), object(), {1, 2}])
def test_what_json_cannot_say_fails_alone(value: object) -> None:
    assert answers_of([value, "fine"], 2, LIMIT) == [
        Answer(503, b"Unsupported model output data type."),
        Answer(200, b"fine"),
    ]


def test_errors_inside_a_batch_are_their_requests_alone() -> None:
    answers = answers_of(
        ["fine", PredictionException("no such user", 404), UnknownFeatureError("why", feature="f")], 3, LIMIT
    )
    assert answers == [
        Answer(200, b"fine"),
        Answer(404, b"no such user"),
        Answer(400, b"bad batch: feature 'f': why"),
    ]


def test_a_prediction_over_the_limit_is_an_error() -> None:
    (answer,) = answers_of([b"x" * (LIMIT + 1)], 1, LIMIT)
    assert answer.code == 500 and b"1001 bytes" in answer.value
    assert answers_of([b"x" * LIMIT], 1, LIMIT)[0].code == 200


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (PredictionException("custom", 513), Answer(513, b"custom")),
        (PredictionException("no code"), Answer(500, b"no code")),
        (PredictionException("odd code", "x"), Answer(500, b"odd code")),
        (MemoryError(), Answer(507, b"Out of resources")),
        (RuntimeError("CUDA out of memory"), Answer(507, b"Out of resources")),
        (RuntimeError("secret path"), Answer(503, b"Prediction failed")),
        (ValueError("secret path"), Answer(503, b"Prediction failed")),
        (
            ShardUnavailableError(0, 2, "h:1", "loading"),
            Answer(503, b"embedding shard 0 of 2 at h:1: loading"),
        ),
    ],
)
def test_exceptions_of_handlers(error: Exception, answer: Answer) -> None:
    assert error_answer(error) == answer
