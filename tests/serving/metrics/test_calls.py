"""Calls are counted, and on demand logged as TorchServe logs them."""

import logging
from typing import Any

import pytest

from satrap.serving.metrics.calls import CallLog

SCOPE: dict[str, Any] = {
    "client": ("127.0.0.1", 40592),
    "method": "POST",
    "path": "/predictions/noop",
    "raw_path": b"/predictions/noop",
    "query_string": b"",
    "http_version": "1.1",
}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def test_lines_are_torchserves(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[int] = []
    calls = CallLog(counted.append, lines=True)
    with caplog.at_level(logging.INFO):
        calls.rest(SCOPE, 200, 0.0071)
        calls.rest({**SCOPE, "query_string": b"url=a.mar"}, 404, 0.0)
        method = "org.pytorch.serve.grpc.management.ManagementAPIsService/UnregisterModel"
        calls.grpc(method, "ipv4:127.0.0.1:52480", 200, 0.0071)
        calls.grpc(method, "ipv6:[::1]:1", 404, 0.0)
    assert lines(caplog) == [
        '/127.0.0.1:40592 "POST /predictions/noop HTTP/1.1" 200 7',
        '/127.0.0.1:40592 "POST /predictions/noop?url=a.mar HTTP/1.1" 404 0',
        f'/127.0.0.1:52480 "gRPC {method} HTTP/2.0" 0 7',
        f'/[::1]:1 "gRPC {method} HTTP/2.0" 404 0',
    ]
    assert counted == [200, 404, 200, 404]


def test_without_lines_they_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[int] = []
    with caplog.at_level(logging.INFO):
        CallLog(counted.append, lines=False).rest(SCOPE, 503, 1.0)
    assert lines(caplog) == [] and counted == [503]


def test_what_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[int] = []
    refused: list[tuple[str, str]] = []
    calls = CallLog(counted.append, lines=True, count_refused=lambda *reason: refused.append(reason))
    with caplog.at_level(logging.INFO):
        calls.rest_refused({"client": ("127.0.0.1", 1)}, "malformed")
        calls.rest_refused(SCOPE, "late")
        calls.grpc_refused("a.B/C", "ipv4:127.0.0.1:1", "too large")
        calls.refused("rest", "token")
    assert lines(caplog) == [
        '/127.0.0.1:1 "-" 400 0',
        '/127.0.0.1:40592 "POST /predictions/noop HTTP/1.1" 408 0',
        '/127.0.0.1:1 "gRPC a.B/C HTTP/2.0" 413 0',
    ]
    assert counted == [400, 408, 413]
    assert refused == [("rest", "malformed"), ("rest", "late"), ("grpc", "too large"), ("rest", "token")]


def test_nobody_writes_lines_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    calls = CallLog(lambda status: None, lines=True)
    with caplog.at_level(logging.INFO):
        calls.rest({**SCOPE, "raw_path": b'/a\r\n/1.1.1.1 "GET\x00\xff', "client": None}, 404, 0.0)
        calls.rest({key: value for key, value in SCOPE.items() if key != "raw_path"}, 200, 0.0)
    assert lines(caplog) == [
        '/unix: "POST /a%0D%0A/1.1.1.1%20"GET%00%FF HTTP/1.1" 404 0',
        '/127.0.0.1:40592 "POST /predictions/noop HTTP/1.1" 200 0',
    ]
