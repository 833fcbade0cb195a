"""The AUC against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satrap.demo.scores import auc


def by_pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    above = (positive[:, None] > negative[None, :]).sum()
    equal = (positive[:, None] == negative[None, :]).sum()
    return (above + equal / 2) / (len(positive) * len(negative))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(samples):
    labels = np.array([label for label, _ in samples], np.float32)
    scores = np.array([score for _, score in samples], np.float32)
    if 0 < labels.sum() < len(labels):
        assert auc(labels, scores) == pytest.approx(by_pairs(labels, scores))
