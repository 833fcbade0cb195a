"""What is tried again, when, and what is refused."""

import pytest

from satrap.embedding_server.updates.trouble import after_failure
from satrap.errors import (
    ChecksumError,
    FormatVersionError,
    GuardrailError,
    ManifestError,
    MissingFileError,
    NoSpaceError,
    PathEscapeError,
    RowCountError,
    RowFileError,
    StorageError,
    TableFolderError,
    TruncatedFileError,
)

POLL = 10**9


@pytest.mark.parametrize(
    "error",
    [FormatVersionError, GuardrailError, PathEscapeError, RowCountError],
    ids=lambda error: error.code,
)
def test_refused_at_once(error):
    assert after_failure(error("p", "why"), None, 0, POLL) is None


@pytest.mark.parametrize(
    "error",
    [ChecksumError, ManifestError, MissingFileError, RowFileError, TruncatedFileError],
    ids=lambda error: error.code,
)
def test_three_tries_for_what_may_still_be_coming(error):
    first = after_failure(error("p", "why"), None, 0, POLL)
    assert first.retry_ns == POLL and first.alarm.code == "storage"
    second = after_failure(error("p", "why"), first, POLL, POLL)
    assert second.retry_ns == 2 * POLL
    assert after_failure(error("p", "why"), second, 2 * POLL, POLL) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("s3://b", "no network"), "storage"),
        (NoSpaceError("no room"), "no_room"),
        (TableFolderError("/dev/shm/t", "gone"), "storage"),
    ],
)
def test_weather_is_waited_for_ever_more_rarely(error, code):
    trouble, now, waits = None, 0, []
    for _ in range(40):
        trouble = after_failure(error, trouble, now, POLL)
        assert trouble.alarm.code == code
        waits.append(trouble.retry_ns - now)
        now = trouble.retry_ns
    assert waits[:3] == [POLL, 2 * POLL, 4 * POLL] and max(waits) == waits[-1] == 30 * POLL


def test_a_clock_that_is_set_back_makes_nobody_wait_longer():
    hour = 3600 * 10**9
    trouble = after_failure(StorageError("s3://b", "no network"), None, 2 * hour, POLL)
    assert trouble.waits(2 * hour) and trouble.waits(2 * hour + POLL - 1)
    assert not trouble.waits(2 * hour + POLL)
    assert not trouble.waits(hour)
