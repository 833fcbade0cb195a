"""A worker loads its model in the background, and answers as everybody else."""

import json
import os
from typing import Any

import pytest

from satrap.serving.query import Query
from satrap.serving.version_spec import RegisterParameters
from satrap.serving.worker.priority import in_background

HANDLER = """
import os

class Handler:
    def initialize(self, context):
        self.loading = os.sched_getscheduler(0)

    def handle(self, data, context):
        return [[self.loading, os.sched_getscheduler(0)]] * len(data)
"""


def test_the_policy_is_left_whatever_happens() -> None:
    before = os.sched_getscheduler(0)
    with pytest.raises(KeyError), in_background():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
        raise KeyError
    assert os.sched_getscheduler(0) == before


@pytest.mark.slow
def test_only_loading_is_in_the_background(in_process: Any, open_service: Any, store: Any) -> None:
    service = open_service()
    parameters = RegisterParameters(url=store.add("m.mar", HANDLER), initial_workers=1, synchronous=True)
    in_process.run(service.register(parameters))
    answer = in_process.run(service.predict(Query("m", "", {"data": b""})))
    assert json.loads(answer.value) == [os.SCHED_BATCH, os.SCHED_OTHER]
