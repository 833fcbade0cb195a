"""The lock file of an identity's folder. The lock is of the open file: one process can stand for two servers."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from satrap.embedding_server.identity_lock import LOCK, Holder, holder_of, open_lock, take_lock, write_holder
from satrap.errors import TableHeldError


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Open the file once more; all are closed at the end."""
    descriptors: list[int] = []

    def once_more() -> int:
        descriptors.append(open_lock(tmp_path))
        return descriptors[-1]

    yield once_more
    for descriptor in descriptors:
        os.close(descriptor)


def test_one_has_it_and_the_others_are_told_who(tmp_path: Path, opened: Callable[[], int]) -> None:
    first, second = opened(), opened()
    assert holder_of(tmp_path) is None, "it is open, and nobody's"
    assert take_lock(tmp_path, first)
    write_holder(first, "unix:a-long-name")
    write_holder(first, "h:1")
    with pytest.raises(TableHeldError) as refused:
        take_lock(tmp_path, second)
    assert refused.value.pid == os.getpid()
    assert holder_of(tmp_path) == Holder(os.getpid(), "h:1")


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path, opened: Callable[[], int]) -> None:
    assert take_lock(tmp_path, opened())
    assert holder_of(tmp_path) == Holder(0, "")


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_the_lock_of_a_file_that_is_not_there_any_more_is_of_nothing(
    tmp_path: Path, opened: Callable[[], int], replaced: bool
) -> None:
    late = opened()
    (tmp_path / LOCK).unlink()
    if replaced:
        opened()
    assert not take_lock(tmp_path, late)


def test_no_file_no_holder(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    (tmp_path / LOCK).symlink_to("/etc/hostname")
    assert holder_of(tmp_path) is None
    with pytest.raises(OSError):  # a link is not followed
        open_lock(tmp_path)
