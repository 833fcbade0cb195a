"""Protobuf itself is the twin: for any bytes the same fields, or an error from both."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from satrap.protos import inference_pb2
from satrap.serving.prediction_message import PredictionMessage, parse_request

REQUESTS = st.builds(
    inference_pb2.PredictionsRequest,
    model_name=st.text(max_size=20),
    model_version=st.text(max_size=200),
    input=st.dictionaries(st.text(max_size=10), st.binary(max_size=300), max_size=4),
    sequence_id=st.one_of(st.none(), st.text(max_size=5)),
)


def fields(message: object) -> tuple[object, ...]:
    inputs = {key: bytes(value) for key, value in message.input.items()}
    sequence = message.sequence_id if message.HasField("sequence_id") else None
    return message.model_name, message.model_version, inputs, sequence


def assert_same(data: bytes) -> None:
    try:
        expected = fields(inference_pb2.PredictionsRequest.FromString(data))
    except DecodeError:
        with pytest.raises(DecodeError):
            parse_request(data)
        return
    assert fields(parse_request(data)) == expected


@given(REQUESTS)
def test_whole_requests(request_: inference_pb2.PredictionsRequest) -> None:
    data = request_.SerializeToString()
    assert fields(parse_request(data)) == fields(request_)
    assert isinstance(parse_request(bytearray(data)), PredictionMessage)


@given(REQUESTS, REQUESTS)
def test_the_last_of_a_field_counts(first: object, second: object) -> None:
    assert_same(first.SerializeToString() + second.SerializeToString())


@given(REQUESTS, st.data())
def test_broken_requests(request_: inference_pb2.PredictionsRequest, data: st.DataObject) -> None:
    sent = bytearray(request_.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if sent:
            sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    assert_same(bytes(sent[: data.draw(st.integers(0, len(sent)))]))


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    assert_same(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x1a\x00",  # an entry of nothing
        b"\x1a\x03\x12\x01v",  # a value without a key
        b"\x1a\x03\x0a\x01k",  # a key without a value
        b"\x1a\x06\x12\x01v\x0a\x01k",  # the value first
        b"\x1a\x09\x0a\x01k\x12\x01a\x12\x01b",  # two values
        b"\x0a\x81\x00m",  # a length in two bytes where one would do
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x28\x05\x0a\x01m",  # a number that this version does not know
        b"\x2b\x2c\x0a\x01m",  # a group
        b"\x0a\x01\xff",  # no UTF-8
        b"\x08\x01",  # the name as a number
    ],
)
def test_what_is_not_expected(data: bytes) -> None:
    assert_same(data)


def test_inputs_are_not_copied() -> None:
    data = bytearray(inference_pb2.PredictionsRequest(input={"a": b"x" * 1000}).SerializeToString())
    value = parse_request(data).input["a"]
    data[-1] = ord("y")
    assert bytes(value) == b"x" * 999 + b"y"
