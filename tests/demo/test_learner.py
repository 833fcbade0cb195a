"""Training that goes on beside: every click once, in order, until it is stopped."""

import numpy as np
import pytest
import torch

from satrap.demo.clicks import make_clicks
from satrap.demo.learner import Learner
from satrap.demo.model import Trainer

CLICKS = make_clicks(200, seed=3)


def test_chunks_are_the_clicks_in_order():
    chunks = list(CLICKS.chunks(64))
    assert [len(chunk) for chunk in chunks] == [64, 64, 64, 8]
    assert np.array_equal(np.concatenate([chunk.labels for chunk in chunks]), CLICKS.labels)
    for name, ids in CLICKS.ids.items():
        assert np.array_equal(np.concatenate([chunk.ids[name] for chunk in chunks]), ids)


def test_it_learns_what_a_loop_would():
    beside, here = Trainer(1), Trainer(1)
    with Learner(beside, CLICKS, batch=50, clicks_per_second=1e9) as learner:
        learner._thread.join(60)
        assert learner.learned == len(CLICKS)
        dense = learner.dense()
    for chunk in CLICKS.chunks(50):
        here.learn(chunk)
    for name, table in here.embeddings.tables.items():
        assert torch.equal(table.weight, beside.embeddings.tables[name].weight)
    assert dense is not beside.dense
    assert np.array_equal(here.predict(CLICKS), beside.predict(CLICKS))


def test_leaving_stops_it():
    with Learner(Trainer(1), CLICKS, batch=10, clicks_per_second=1e-3) as learner:
        pass
    assert learner.learned == 0


def test_what_ended_it_is_raised():
    class Broken:
        def learn(self, clicks):
            raise ArithmeticError("diverged")

    with Learner(Broken(), CLICKS, batch=10, clicks_per_second=1e9) as learner:
        learner._thread.join(60)
        with pytest.raises(ArithmeticError, match="diverged"):
            _ = learner.learned
