"""The attempts of one call, decided without a clock."""

import grpc
import pytest

from satrap.client import Retry
from satrap.client.call import Attempts, Call, metadata_pairs
from satrap.errors import NotFoundError, UnavailableError


class Failure(grpc.RpcError):
    """A status, as a stub raises it."""

    def __init__(self, code: grpc.StatusCode, details: str = "said so") -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)


def test_all_attempts_share_one_deadline() -> None:
    attempts = Attempts(Call(10.0, retry=Retry(attempts=9, first_delay=1.0, max_delay=4.0)), 100.0)
    assert attempts.seconds_left(100.0) == 10.0
    assert attempts.failed(UNAVAILABLE, 103.0) == 1.0
    assert attempts.seconds_left(104.0) == 6.0
    assert attempts.failed(UNAVAILABLE, 105.0) == 2.0
    assert attempts.seconds_left(107.0) == 3.0
    assert attempts.seconds_left(111.0) == 0.0, "gRPC takes no negative time"
    with pytest.raises(UnavailableError):
        attempts.failed(UNAVAILABLE, 107.0)


def test_the_last_failure_is_raised_with_its_cause() -> None:
    attempts = Attempts(Call(60.0, retry=Retry(attempts=2, first_delay=0.1)), 0.0)
    assert attempts.failed(UNAVAILABLE, 0.0) == 0.1
    with pytest.raises(UnavailableError, match="said so") as raised:
        attempts.failed(UNAVAILABLE, 0.2)
    assert raised.value.__cause__ is UNAVAILABLE


@pytest.mark.parametrize("retry", [True, False], ids=["a failure that would come again", "no retry"])
def test_what_is_not_tried_again_is_raised_at_once(retry: bool) -> None:
    attempts = Attempts(Call(60.0, retry=Retry()) if retry else Call(60.0), 0.0)
    with pytest.raises(NotFoundError if retry else UnavailableError):
        attempts.failed(Failure(grpc.StatusCode.NOT_FOUND) if retry else UNAVAILABLE, 0.0)


def test_names_of_headers_are_in_lower_case() -> None:
    assert metadata_pairs({"Authorization": "Bearer X"}) == (("authorization", "Bearer X"),)
