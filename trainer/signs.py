"""Ids to signs, by the rules that lookups follow, and vectors to rows: what is not usable is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from satrap._core import ids as id_kernels
from satrap.config import EmbeddingConfig, index_prefixes
from satrap.errors import InvalidInputError, UnknownFeatureError

__all__ = ["FeatureSigns", "as_array", "feature_signs", "find_feature", "rows_of"]

Signs = NDArray[np.uint64]
DType = Literal["float32", "float16"]


@dataclass(frozen=True)
class FeatureSigns:
    """How one feature's ids become signs.

    Where the feature has a hash stack, what has rows of its own is not the id but the bucket, and "ids" are bucket
    numbers, below `buckets`; `bucket_numbers` says which ones an id has.
    """

    name: str
    dim: int
    prefix: int
    prefix_bits: int
    rounds: int = 0
    round_size: int = 0

    @property
    def buckets(self) -> int:
        """Buckets of all rounds; 0 without a hash stack."""
        return self.rounds * self.round_size

    def signs(self, ids: Any) -> Signs:
        """Signs u64 [n] of ids: an array, sequence or tensor of whole numbers from 0, of any shape with n elements.

        Raises:
            InvalidInputError: they are no whole numbers, negative, or no bucket numbers where buckets are needed.
        """
        values = _whole_numbers(self.name, ids)
        if self.buckets and len(values) and int(values.max()) >= self.buckets:
            raise InvalidInputError(
                f"feature {self.name!r} has a hash stack of {self.rounds} x {self.round_size} buckets, so rows belong "
                f"to buckets 0 to {self.buckets - 1}, and {int(values.max())} is none: commit the buckets that "
                f"TrainCtx.buckets({self.name!r}, ids) gives"
            )
        return id_kernels.add_prefix(values, self.prefix, self.prefix_bits)

    def bucket_numbers(self, ids: Any) -> Signs:
        """Buckets u64 [rounds, n] of the hash stack.

        Raises:
            InvalidInputError: no whole numbers, negative ones, or a feature without a hash stack.
        """
        if not self.buckets:
            raise InvalidInputError(
                f"feature {self.name!r} has no hash stack: its ids are committed as they are"
            )
        return id_kernels.hash_stack(_whole_numbers(self.name, ids), self.rounds, self.round_size)


def feature_signs(
    config: EmbeddingConfig, warn: Callable[[str], None], source: Path | str = "embedding config"
) -> dict[str, FeatureSigns]:
    """Every feature of an embedding config.

    Raises:
        ConfigError: the config contradicts itself.
    """
    prefixes = index_prefixes(config, warn, source)
    return {
        name: FeatureSigns(
            name,
            slot.dim,
            prefixes[name],
            config.feature_index_prefix_bit,
            slot.hash_stack_config.hash_stack_rounds,
            slot.hash_stack_config.embedding_size,
        )
        for name, slot in config.slots.items()
    }


def find_feature(features: Mapping[str, FeatureSigns], name: str) -> FeatureSigns:
    """The feature of that name.

    Raises:
        UnknownFeatureError: there is none.
    """
    try:
        return features[name]
    except KeyError:
        raise UnknownFeatureError(
            f"slots_config of the embedding config has no such feature, but {', '.join(sorted(features)) or 'none'}",
            feature=name,
        ) from None


def rows_of(feature: FeatureSigns, vectors: Any, count: int, dtype: DType) -> NDArray[Any]:
    """Rows [count, dim] of `dtype`, rounded where needed, of vectors: an array or tensor of floats.

    Raises:
        InvalidInputError: of another shape or kind, or not finite in `dtype`.
    """
    rows = as_array(vectors)
    if rows.dtype.kind != "f":
        raise InvalidInputError(f"vectors of feature {feature.name!r} must be floats, not {rows.dtype}")
    if rows.shape != (count, feature.dim):
        raise InvalidInputError(
            f"vectors of feature {feature.name!r} must be [{count}, {feature.dim}] (one for each id, and as wide as "
            f"the embedding config says), not {list(rows.shape)}"
        )
    # A value that the dtype cannot hold becomes infinite, which is what the check below finds.
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(rows, dtype)
    if not np.isfinite(rounded).all():
        bad = int(np.flatnonzero(~np.isfinite(rounded).all(1))[0])
        raise InvalidInputError(
            f"vector {bad} of feature {feature.name!r} is not finite as {dtype}: every embedding server would refuse "
            "the packet. Either the training has diverged, or trainer.row_dtype: float16 is too small for it"
        )
    return rounded


def as_array(values: Any) -> NDArray[Any]:
    """A numpy array of an array, a sequence or a torch tensor, wherever it lies."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().numpy())


def _exactly(feature: str, ids: Sequence[int]) -> NDArray[Any]:
    large = max(ids, default=0) >= 2**63
    try:
        return np.array(ids, np.uint64 if large and min(ids) >= 0 else np.int64)
    except OverflowError as error:
        raise InvalidInputError(f"ids of feature {feature!r} must be 0 to 2^64 - 1: {error}") from error


def _whole_numbers(feature: str, ids: Any) -> Signs:
    if isinstance(ids, list | tuple) and all(type(value) is int for value in ids):
        ids = _exactly(feature, ids)  # numpy would make floats of a mixture of small and very large ones
    values = as_array(ids).reshape(-1)
    if values.size == 0:
        return np.empty(0, np.uint64)
    if values.dtype.kind not in "ui":
        raise InvalidInputError(f"ids of feature {feature!r} must be whole numbers, not {values.dtype}")
    if values.dtype.kind == "i" and values.min() < 0:
        raise InvalidInputError(
            f"ids of feature {feature!r} must not be negative, but one is {int(values.min())}: view 64-bit ids as "
            "uint64 (array.view(np.uint64)) where the sign is part of the id"
        )
    return np.ascontiguousarray(values, np.uint64)
