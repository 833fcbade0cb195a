"""Closed and open loops against a target that the test controls."""

import asyncio
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from satrap.errors import InvalidInputError
from satrap.load_test.load import Load, arrivals, run
from satrap.load_test.report import summarize
from satrap.load_test.target import GrpcTarget, Request, RestTarget, read_request, target_of


class Slow:
    """Answers after `seconds`; every `fails`-th answer is an error."""

    def __init__(self, seconds: float, fails: int = 0) -> None:
        self.seconds, self.fails = seconds, fails
        self.sent = self.under_way = self.most = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        pass

    async def send(self, timeout: float) -> str:  # noqa: ASYNC109
        self.sent += 1
        number = self.sent
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        return "failed" if self.fails and number % self.fails == 0 else ""


def measured(target: Slow, load: Load):
    return asyncio.run(run(target, load, lambda seconds, answered, failed: None))


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    target = Slow(0.01)
    result = measured(target, Load(clients=4, seconds=0.3, warmup=0.1))
    assert target.most == 4 and target.under_way == 0
    assert 0 < len(result.answers) < target.sent  # the warm-up is not counted
    assert all(answer.due == answer.sent for answer in result.answers)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    target = Slow(0.2)
    result = measured(target, Load(clients=1000, seconds=0.4, rate=100, warmup=0.0))
    assert target.sent == len(list(arrivals(100, 0.4, 1))) == len(result.answers)
    assert target.most > 4


def test_an_open_loop_says_what_it_could_not_send() -> None:
    load = Load(clients=2, seconds=0.2, rate=200, warmup=0.0)
    target = Slow(0.3)
    result = measured(target, load)
    assert target.most == 2
    errors = summarize(result.answers, result.seconds, 0.0).errors
    assert list(errors) == ["not sent: as many requests are under way as --clients allows"]


def test_an_open_loop_lasts_though_nothing_is_due() -> None:
    load = Load(clients=1, seconds=0.1, rate=0.001, warmup=0.05)
    result = measured(Slow(0.0), load)
    assert not result.answers and result.seconds >= load.seconds


def test_errors_are_counted() -> None:
    result = measured(Slow(0.001, fails=2), Load(clients=1, seconds=0.1, warmup=0.0))
    report = summarize(result.answers, result.seconds, 0.0)
    assert report.errors.keys() == {"failed"}
    assert abs(report.failed - report.requests / 2) <= 1


def test_arrivals_are_a_seeded_poisson_process() -> None:
    moments = np.fromiter(arrivals(1000, 20, seed=3), float)
    np.testing.assert_array_equal(moments, np.fromiter(arrivals(1000, 20, seed=3), float))
    gaps = np.diff(moments)
    assert gaps.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)


REQUEST = Request("m", b"x")


def test_urls() -> None:
    assert isinstance(target_of("http://localhost:8080", REQUEST, 1, {}), RestTarget)
    assert isinstance(target_of("grpc://localhost:7070", REQUEST, 1, {}), GrpcTarget)
    assert isinstance(target_of("localhost:7070", REQUEST, 1, {}), GrpcTarget)
    for url in ("ftp://host", "http://", "", "grpc://"):
        with pytest.raises(InvalidInputError, match="is no server"):
            target_of(url, REQUEST, 1, {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        read_request("m", tmp_path / "none", version="", key="data")


def test_json_is_sent_as_json(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text("{}")
    assert read_request("m", file, version="1", key="data") == Request(
        "m", b"{}", "1", "data", "application/json"
    )
