"""When to try again: decided without a clock."""

import pytest

from satrap.client import NO_RETRY, Retry
from satrap.errors import (
    DeadlineError,
    InvalidInputError,
    MiddlewareUnavailableError,
    NotFoundError,
    SatrapError,
    UnavailableError,
)

RETRY = Retry(attempts=4, first_delay=0.1, max_delay=0.3)


def test_pauses_double_up_to_the_longest_and_end() -> None:
    error = UnavailableError("connection refused")
    assert [RETRY.pause(error, attempt, 60.0) for attempt in (1, 2, 3, 4)] == [0.1, 0.2, 0.3, None]


def test_a_pause_that_would_pass_the_deadline_is_not_made() -> None:
    error = UnavailableError("connection refused")
    assert RETRY.pause(error, 1, 0.11) == 0.1
    assert RETRY.pause(error, 1, 0.1) is None
    assert RETRY.pause(error, 1, -1.0) is None


@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("bad batch"),
        NotFoundError("Model not found: m"),
        DeadlineError("late"),
        UnavailableError("Prediction failed"),
        UnavailableError("Invalid model predict output"),
        UnavailableError("number of batch response mismatched"),
        UnavailableError("Unsupported model output data type."),
    ],
)
def test_what_would_fail_again_is_not_tried_again(error: SatrapError) -> None:
    assert RETRY.pause(error, 1, 60.0) is None


def test_other_kinds_of_unavailable_are() -> None:
    assert RETRY.pause(MiddlewareUnavailableError(["a:1"], "refused"), 1, 60.0) == 0.1


def test_no_retry() -> None:
    assert NO_RETRY.pause(UnavailableError("connection refused"), 1, 60.0) is None
