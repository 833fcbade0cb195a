"""The business logic of the gateway: who wants what, turned into a batch, and scores turned into a ranking.

No network and no FastAPI here, so it can be tested by itself.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from satrap.client import IDTypeFeature, IDTypeFeatureWithSingleID, NonIDTypeFeature, PersiaBatch

MAX_CANDIDATES = 1000


class Candidate(BaseModel):
    """Something that may be shown."""

    item: str
    price: float = Field(ge=0)


class RankingRequest(BaseModel):
    """What an application knows: names, not ids."""

    user: str
    seen: list[str] = Field(default_factory=list, max_length=100)
    candidates: list[Candidate] = Field(min_length=1, max_length=MAX_CANDIDATES)


class Ranked(BaseModel):
    """A candidate with its score; higher is better."""

    item: str
    score: float


def sign(feature: str, name: str) -> int:
    """The id that the trainer gave a name: the first 8 bytes of a digest."""
    return int.from_bytes(hashlib.blake2b(f"{feature}:{name}".encode(), digest_size=8).digest(), "little")


def to_batch(request: RankingRequest) -> PersiaBatch:
    """One sample for each candidate: the user, what they saw, and the item, with its price."""
    count = len(request.candidates)
    user = np.full(count, sign("user", request.user), np.uint64)
    seen = np.array([sign("item", name) for name in request.seen], np.uint64)
    items = np.array([sign("item", candidate.item) for candidate in request.candidates], np.uint64)
    prices = np.array([[np.log1p(candidate.price)] for candidate in request.candidates], np.float32)
    return PersiaBatch(
        [
            IDTypeFeatureWithSingleID("user", user),
            IDTypeFeature("seen", [seen] * count),
            IDTypeFeatureWithSingleID("item", items),
        ],
        non_id_type_features=[NonIDTypeFeature(prices, "price")],
        requires_grad=False,
    )


def to_ranking(candidates: Sequence[Candidate], scores: NDArray[np.generic]) -> list[Ranked]:
    """The candidates, best first.

    Raises:
        ValueError: the model did not give one score for each.
    """
    if scores.shape != (len(candidates),):
        raise ValueError(f"{len(candidates)} candidates, but scores of shape {scores.shape}")
    order = np.argsort(-scores, kind="stable")
    return [Ranked(item=candidates[i].item, score=float(scores[i])) for i in order]
