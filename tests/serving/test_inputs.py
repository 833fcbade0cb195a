"""What a handler finds in `data`: decoded by content type as TorchServe does, and never an error of ours."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.serving.worker.inputs import decode_input

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(["application/json", "Application/JSON ; charset=utf-8"]))
def test_json_becomes_objects(value: object, content_type: str) -> None:
    assert decode_input(bytearray(json.dumps(value).encode()), content_type) == value


@given(st.text())
def test_text_becomes_text(value: str) -> None:
    assert decode_input(bytearray(value.encode()), "text/plain") == value


@pytest.mark.parametrize(
    "content_type", ["", "application/octet-stream", "image/png", "application/jsonp", "texts"]
)
def test_anything_else_stays_as_it_is(content_type: str) -> None:
    value = bytearray(b'{"a": 1}')
    assert decode_input(value, content_type) is value


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff", "text/plain"),
    ],
    ids=["half an object", "nothing", "no UTF-8", "too deep", "text that is none"],
)
def test_what_cannot_be_decoded_is_passed_on(
    value: bytes, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    given_value = bytearray(value)
    assert decode_input(given_value, content_type) is given_value
    assert "passed on undecoded" in caplog.text
