"""The context: TorchServe's names, per request."""

import json
from typing import Any

import numpy as np
import pytest

from satrap.serving.context import Context, RequestProcessor


def context() -> Context:
    made = Context("m", "/dir", {"model": {}}, 4, None, "0.1", model_yaml_config={"k": 1})
    made.request_ids = {0: "first", 1: "second"}
    made.request_processor = [RequestProcessor({"data": {"content-type": ""}}), RequestProcessor({})]
    return made


def test_what_it_says_of_the_model() -> None:
    c = context()
    assert c.system_properties == {
        "model_dir": "/dir",
        "gpu_id": None,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "0.1",
        "limit_max_image_pixels": True,
    }
    assert (c.model_name, c.manifest, c.model_yaml_config) == ("m", {"model": {}}, {"k": 1})


def test_handlers_reach_for_what_torchserve_keeps_with_an_underscore() -> None:
    c: Any = context()
    assert c._system_properties is c.system_properties
    assert c._metrics is c.metrics
    c._request_processor[1].report_status(404)
    assert c.get_response_status(1)[0] == 404
    c._request_processor = [RequestProcessor({"key": "value"})]
    assert c.get_request_header(0, "key") == "value"


def test_requests() -> None:
    c = context()
    assert (c.get_request_id(), c.get_request_id(1), c.get_request_id(2)) == ("first", "second", "")
    assert c.get_request_header(0, "data") == {"content-type": ""}
    assert c.get_request_header(1, "data") is None
    assert c.get_all_request_header(0) == {"data": {"content-type": ""}}
    assert c.get_sequence_id() is None
    assert Context("m", "/", {}, 1, None, "0").get_request_id() == ""


def test_headers_are_found_whatever_their_letters() -> None:
    processor = RequestProcessor(
        {"x-trace": "7", "Data": {"content-type": "a"}, "data": {"content-type": "b"}}
    )
    assert processor.get_request_property("X-Trace") == "7"
    assert processor.get_request_property("x-trace") == "7"
    assert processor.get_request_property("data") == {"content-type": "b"}, "the exact name comes first"
    assert processor.get_request_property("absent") is None


def test_answers() -> None:
    c = context()
    c.set_response_content_type(0, "text/plain")
    c.set_response_header(0, "x", "y")
    assert c.get_response_content_type(0) == "text/plain"
    assert c.get_response_headers(0) == {"content-type": "text/plain", "x": "y"}
    assert c.get_response_headers(1) == {}
    c.set_response_status(404, "nothing", 1)
    assert c.get_response_status(0) == (200, None)
    assert c.get_response_status(1) == (404, "nothing")
    c.set_all_response_status(500, "all")
    assert c.get_response_status(0) == c.get_response_status(1) == (500, "all")


def test_what_an_answer_carries_can_be_sent_whatever_a_handler_gives() -> None:
    """It leaves the worker as JSON, and the frontend counts on it."""
    c = context()
    odd: Any = ("a", 1)
    c.set_response_header(0, odd, "x")
    c.set_response_status(np.int64(201), odd)
    assert json.loads(json.dumps([c.get_response_headers(0), *c.get_response_status(0)])) == [
        {"('a', 1)": "x"},
        201,
        "('a', 1)",
    ]


@pytest.mark.parametrize("code", ["404", None, 4.5, [1]], ids=repr)
def test_a_status_that_is_no_number_is_an_error_of_its_line(code: Any) -> None:
    c = context()
    with pytest.raises(TypeError):
        c.set_response_status(code)
    assert c.get_response_status(0) == (200, None)


@pytest.mark.parametrize("place", [-1, 2])
def test_a_part_for_no_request(place: int) -> None:
    c, sent = context(), []
    c.send_part = lambda values, places: sent.extend(places)
    with pytest.raises(IndexError, match=f"no request at place {place} of a batch of 2"):
        c.send_intermediate([b"p"] * 3, [0, place])
    c.send_intermediate([b"p"] * 2)
    assert sent == [0, 1]
