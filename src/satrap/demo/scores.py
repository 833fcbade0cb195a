"""Figures of the demo's table."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["auc"]


def auc(labels: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Area under the ROC curve; equal scores count half.

    Both are `[samples]`; labels are 0 or 1, and both occur.
    """
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # 1-based, the mean rank among equals
    positive = labels > 0.5
    n_positive = int(positive.sum())
    n_negative = len(labels) - n_positive
    assert len(values) > 0
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
