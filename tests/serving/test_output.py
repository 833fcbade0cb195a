"""What handlers print, line by line in the server's log."""

import asyncio
import logging
import os

import pytest

from satrap.serving.output import OutputLog


def logged(caplog: pytest.LogCaptureFixture, printed: bytes) -> list[tuple[int, str]]:
    async def run() -> None:
        reading, writing = os.pipe()
        OutputLog(reading, "m 1.0 worker 9000")
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
    assert logged(caplog, b"a\n\n<40>b\nend") == [
        (20, "[m 1.0 worker 9000] a"),
        (40, "[m 1.0 worker 9000] b"),
        (20, "[m 1.0 worker 9000] end"),
    ]


def test_control_characters_steer_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """Clients send them, handlers print them."""
    printed = "\x1b[2J\rforged\x85\u2028\x00\ttab ä".encode()
    assert logged(caplog, printed) == [(20, "[m 1.0 worker 9000] \\x1b[2J\\rforged\\x85\\u2028\\x00\ttab ä")]
