"""A worker that loads its model leaves the processor to those that answer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["in_background"]


@contextmanager
def in_background() -> Iterator[None]:
    """Run the body under the kernel's policy for batch work, which every user may choose and leave again.

    It gets as much of an idle core as ever, but does not push aside a process that wakes up for a request. The policy
    is this thread's; threads that the body starts keep it.
    """
    usual = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, usual, os.sched_param(0))
