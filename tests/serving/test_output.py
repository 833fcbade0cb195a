"""What handlers print, line by line in the server's log."""

import asyncio
import logging
import os

import pytest

from satrap.serving.output import OutputLog
from satrap.serving.worker.surroundings import LevelFormatter


def logged(caplog: pytest.LogCaptureFixture, printed: bytes, mark: str = "mark") -> list[tuple[int, str]]:
    async def run() -> None:
        reading, writing = os.pipe()
        OutputLog(reading, "m 1.0 worker 9000", mark)
        os.write(writing, printed)
        os.close(writing)
        while True:  # until the log has closed its end
            try:
                os.fstat(reading)
            except OSError:
                return
            await asyncio.sleep(0)

    with caplog.at_level(logging.DEBUG, "satrap.serving.worker"):
        asyncio.run(run())
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def test_each_line_has_its_workers_name(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, b"a\n\nmark<40>b\nend") == [
        (20, "[m 1.0 worker 9000] a"),
        (40, "[m 1.0 worker 9000] b"),
        (20, "[m 1.0 worker 9000] end"),
    ]


def test_a_clients_text_chooses_no_level(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, b"<50>forged\nmark<5>\nx mark<50>") == [
        (20, "[m 1.0 worker 9000] <50>forged"),
        (20, "[m 1.0 worker 9000] mark<5>"),
        (20, "[m 1.0 worker 9000] x mark<50>"),
    ]


def test_without_a_mark_no_line_has_a_level(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, b"<50>text", mark="") == [(20, "[m 1.0 worker 9000] <50>text")]


def test_a_worker_marks_every_line_of_a_record(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.makeLogRecord({"name": "n", "levelno": 30, "msg": "two\nlines"})
    written = LevelFormatter("%(name)s: %(message)s", "mark").format(record)
    assert logged(caplog, written.encode()) == [
        (30, "[m 1.0 worker 9000] n: two"),
        (30, "[m 1.0 worker 9000] lines"),
    ]


def test_control_characters_steer_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """Clients send them, handlers print them."""
    printed = "\x1b[2J\rforged\x85\u2028\x00\ttab ä".encode()
    assert logged(caplog, printed) == [(20, "[m 1.0 worker 9000] \\x1b[2J\\rforged\\x85\\u2028\\x00\ttab ä")]
