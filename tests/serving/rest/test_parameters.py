"""Parameters of management calls, from the query string and from JSON."""

import json
import logging
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.errors import InvalidInputError
from satrap.serving.rest.parameters import boolean, number, register_parameters, warn_about_misspelled
from satrap.serving.rest.request import RestRequest
from satrap.serving.version_spec import RegisterParameters


def request(query: str = "", content_type: str = "") -> RestRequest:
    scope = {
        "method": "POST",
        "path": "/models",
        "query_string": query.encode(),
        "headers": [(b"content-type", content_type.encode())] if content_type else [],
    }
    return RestRequest(scope, None, "id", None)  # type: ignore[arg-type]  # neither is needed


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"url"',
        b"null",
        b'{"url": []}',
        b'{"url": {}}',
        b'{"batch_size": [1]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_no_registration(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        register_parameters(request(content_type="application/json"), body)


def test_too_many_parameters() -> None:
    with pytest.raises(InvalidInputError, match="1024"):
        register_parameters(request("&".join(f"a{n}=1" for n in range(1025))), b"")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0", 0),
        ("-1", -1),
        ("+7", 7),
        ("007", 7),
        ("2147483647", 2147483647),
        ("-2147483648", -2147483648),
        ("2147483648", None),
        ("1.0", None),
        ("1e3", None),
        ("", None),
        (" 1", None),
        ("1_000", None),
        ("٣", None),
        ("x", None),
    ],
)
def test_numbers(text: str, value: int | None, caplog: Any) -> None:
    asked = request("n=" + urllib.parse.quote(text))
    assert number(asked, "n") == value
    assert bool(caplog.records) is (value is None)
    assert number(asked, "other") is None


@pytest.mark.parametrize(
    ("query", "value"),
    [("b=true", True), ("b=TRUE", True), ("b=1", False), ("b=", False), ("b=false", False), ("", True)],
)
def test_booleans(query: str, value: bool) -> None:
    assert boolean(request(query), "b", default=True) is value


EVERYTHING = {
    "url": "a.mar",
    "model_name": "m",
    "handler": "h.py",
    "runtime": "python3",
    "batch_size": 4,
    "max_batch_delay": 50,
    "initial_workers": 2,
    "response_timeout": 3,
    "startup_timeout": 5,
    "synchronous": "false",
    "s3_sse_kms": "true",
}
PARAMETERS = RegisterParameters(
    url="a.mar",
    model_name="m",
    handler="h.py",
    runtime="python3",
    batch_size=4,
    max_batch_delay=50,
    initial_workers=2,
    response_timeout=3,
    startup_timeout=5,
    synchronous=False,
    s3_sse_kms=True,
)


def of_query(given: Mapping[str, Any]) -> RegisterParameters:
    return register_parameters(
        request("&".join(f"{name}={value}" for name, value in given.items())), b"ignored"
    )


def of_json(given: Mapping[str, Any], query: str = "url=ignored") -> RegisterParameters:
    return register_parameters(request(query, "Application/JSON; charset=utf-8"), json.dumps(given).encode())


def test_every_parameter() -> None:
    assert of_query(EVERYTHING) == PARAMETERS
    assert of_json(EVERYTHING) == PARAMETERS
    assert (
        of_json({**EVERYTHING, "batch_size": "4", "initial_workers": 2.0, "synchronous": False}) == PARAMETERS
    )


def test_nothing_given() -> None:
    nothing = RegisterParameters(url=None, synchronous=True)
    assert of_query({}) == nothing
    assert of_json({}) == nothing
    assert of_json({"url": None, "batch_size": None, "synchronous": None}) == nothing
    assert register_parameters(request(content_type="application/json"), b"") == nothing


def test_values_that_count_as_not_given() -> None:
    odd = {"url": "", "batch_size": 0, "max_batch_delay": -1, "response_timeout": -5, "startup_timeout": "x"}
    assert of_query(odd) == of_json(odd) == RegisterParameters(url="", synchronous=True)


def test_zero_workers_and_no_delay_are_given() -> None:
    for workers in (0, -3):
        parameters = of_query({"initial_workers": workers, "max_batch_delay": 0})
        assert (parameters.initial_workers, parameters.max_batch_delay) == (0, 0)


def test_of_two_values_the_first_counts() -> None:
    assert register_parameters(request("url=a&url=b;model_name=m"), b"").url == "a"
    assert register_parameters(request("url=a&url=b;model_name=m"), b"").model_name == "m"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("min_workers", "min_worker"),
        ("minWorker", "min_worker"),
        ("MIN_WORKER", "min_worker"),
        ("initial_worker", "initial_workers"),
        ("batchSize", "batch_size"),
        ("max-batch-delay", "max_batch_delay"),
        ("modelName", "model_name"),
    ],
)
def test_a_misspelled_name_is_logged_with_the_one_that_is_meant(name: str, meant: str, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        warn_about_misspelled([name, "min_worker", "something_else"])
    assert [record.getMessage() for record in caplog.records] == [
        f"the parameter {name!r} is ignored: there is {meant!r}"
    ]


@given(
    st.dictionaries(st.sampled_from([*EVERYTHING, "x"]), st.none() | st.booleans() | st.floats() | st.text())
)
def test_any_json_object_is_taken(given: dict[str, Any]) -> None:
    parameters = of_json(given)
    assert parameters.batch_size is None or parameters.batch_size >= 1
