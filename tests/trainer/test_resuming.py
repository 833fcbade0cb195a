"""Where a sequence goes on."""

import pytest

from satrap.errors import ConflictError
from satrap.trainer.resuming import Loaded, Position, resume


@pytest.mark.parametrize(
    ("newest", "loaded", "start_over", "position"),
    [
        (0, None, False, Position(0, full_due=False)),  # the first trainer of a stream
        (0, None, True, Position(0, full_due=False)),
        (7, None, True, Position(7, full_due=True)),
        (7, Loaded("ours", 7), False, Position(7, full_due=False)),  # nothing was published since
        (7, Loaded("ours", 5), False, Position(7, full_due=True)),  # older than its last packet
        (7, Loaded("ours", 9), False, Position(9, full_due=False)),  # packets are pruned, or elsewhere
        (0, Loaded("ours", 9), False, Position(9, full_due=False)),
        (7, Loaded("theirs", 7), False, Position(7, full_due=True)),
        (0, Loaded("theirs", 7), False, Position(0, full_due=True)),
        (0, Loaded("", 0), False, Position(0, full_due=True)),  # PERSIA's checkpoint
    ],
)
def test_the_sequence_goes_on(newest, loaded, start_over, position):
    assert resume("ours", newest, loaded, start_over=start_over) == position


def test_a_trainer_that_forgot_to_load_is_told_so():
    with pytest.raises(ConflictError, match=r"'ours'.*sequence 7.*load\(checkpoint\).*start_over=True"):
        resume("ours", 7, None, start_over=False)
