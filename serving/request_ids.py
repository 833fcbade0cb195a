"""Ids of requests: what handlers see, logs show, and REST answers carry as x-request-id."""

import itertools
import uuid
from collections.abc import Iterator

__all__ = ["request_ids"]


def request_ids() -> Iterator[str]:
    """Ids in UUID's form: random for this server, then a count. A tenth of the cost of random ones."""
    server = str(uuid.uuid4())[:24]
    return (f"{server}{number:012x}" for number in itertools.count())
