"""What a batch is made of: named id features, dense tensors and labels, as PERSIA's clients write them.

Names, constructors and checks are PERSIA's (`persia.embedding.data`); what PERSIA asserts raises `BatchError`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from satrap.batch import MAX_SAMPLES, IdFeature, Tensor
from satrap.errors import BatchError

__all__ = [
    "MAX_BATCH_SIZE",
    "IDTypeFeature",
    "IDTypeFeatureWithSingleID",
    "Label",
    "NdarrayDataBase",
    "NonIDTypeFeature",
]

MAX_BATCH_SIZE = MAX_SAMPLES
"""Samples of a batch at most, under PERSIA's name."""

Ids = NDArray[np.uint64]

_DTYPES = frozenset(
    np.dtype(kind).type for kind in ("bool", "int8", "int16", "int32", "int64", "float32", "float64", "uint8")
)


class IDTypeFeature:
    """Categorical ids of a batch: any number per sample, none included.

    IDTypeFeature("tags", [np.array([7, 9], np.uint64), np.array([], np.uint64)])
    """

    def __init__(self, name: str, data: Sequence[Ids]) -> None:
        """Take one uint64 array `[ids of the sample]` per sample.

        Raises:
            BatchError: an element is not a one-dimensional array of uint64.
        """
        for ids in data:
            _check_ids(name, ids)
        self.name = name
        self.data = data

    def __repr__(self) -> str:
        return f"IDTypeFeature({self.name!r}, {self.batch_size} samples)"

    @property
    def batch_size(self) -> int:
        """How many samples there are."""
        return len(self.data)

    def to_id_feature(self) -> IdFeature:
        """The same ids as one array with the places where samples begin."""
        offsets = np.zeros(self.batch_size + 1, np.uint32)
        np.cumsum([len(ids) for ids in self.data], out=offsets[1:])
        values = np.concatenate(self.data) if self.batch_size else np.empty(0, np.uint64)
        return IdFeature(self.name, values, offsets)


class IDTypeFeatureWithSingleID:
    """Categorical ids of a batch: exactly one per sample.

    IDTypeFeatureWithSingleID("user", np.array([10001, 10002], np.uint64))
    """

    def __init__(self, name: str, data: Ids) -> None:
        """Take a uint64 array `[samples]`.

        Raises:
            BatchError: it is not a one-dimensional array of uint64.
        """
        _check_ids(name, data)
        self.name = name
        self.data = data

    def __repr__(self) -> str:
        return f"IDTypeFeatureWithSingleID({self.name!r}, {self.batch_size} samples)"

    @property
    def batch_size(self) -> int:
        """How many samples there are."""
        return len(self.data)

    def to_id_feature(self) -> IdFeature:
        """The same ids with the places where samples begin."""
        return IdFeature(self.name, self.data, np.arange(self.batch_size + 1, dtype=np.uint32))


class NdarrayDataBase:
    """Numbers of a batch: an array `[samples, ...]` and a name.

    The dtype is one of bool, int8, int16, int32, int64, uint8, float32, float64.
    """

    DEFAULT_NAME: ClassVar[str] = "ndarray_base"

    def __init__(self, data: NDArray[Any], name: str | None = None) -> None:
        """Take the array; without a name it gets the class's default one.

        Raises:
            BatchError: it is no array, has no dimension, or another dtype.
        """
        feature = name or self.DEFAULT_NAME
        if not isinstance(data, np.ndarray):
            raise BatchError(f"expected a numpy array, got {type(data).__name__}", feature=feature)
        if data.dtype.type not in _DTYPES:
            allowed = ", ".join(sorted(kind.__name__ for kind in _DTYPES))
            raise BatchError(f"dtype {data.dtype} cannot travel; it can be {allowed}", feature=feature)
        if data.ndim == 0:
            raise BatchError("expected at least one dimension (the samples), got a scalar", feature=feature)
        self.data = data
        self._name = name

    def __repr__(self) -> str:
        shape = list(self.data.shape)
        return f"{type(self).__name__}({self.name!r}, {self.data.dtype} {shape})"

    def __len__(self) -> int:
        return len(self.data)

    @property
    def batch_size(self) -> int:
        """How many samples there are."""
        return len(self.data)

    @property
    def name(self) -> str:
        """The name given, or the class's default one."""
        return self._name or self.DEFAULT_NAME

    def to_tensor(self) -> Tensor:
        """The array and its name, as the batch format has them."""
        return Tensor(self.data, self.name)


class NonIDTypeFeature(NdarrayDataBase):
    """Dense features: `NonIDTypeFeature(np.zeros((128, 32), np.float32), "height")`."""

    DEFAULT_NAME = "non_id_type_feature_anonymous"


class Label(NdarrayDataBase):
    """Labels, which training needs and inference ignores: `Label(np.ones((128, 1), np.float32))`."""

    DEFAULT_NAME = "label_anonymous"


def _check_ids(name: str, ids: object) -> None:
    if not isinstance(ids, np.ndarray):
        raise BatchError(f"ids must be a numpy array of uint64, got {type(ids).__name__}", feature=name)
    if ids.ndim != 1:
        raise BatchError(f"ids must have one dimension, got {ids.ndim}", feature=name)
    if ids.dtype != np.uint64:
        raise BatchError(f"ids must be uint64, got {ids.dtype}: use array.astype(np.uint64)", feature=name)
