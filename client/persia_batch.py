"""A batch of samples: what a client sends to a model."""

import logging
from collections.abc import Sequence
from typing import Any

from satrap.batch import Batch
from satrap.client.features import (
    MAX_BATCH_SIZE,
    IDTypeFeature,
    IDTypeFeatureWithSingleID,
    Label,
    NonIDTypeFeature,
)
from satrap.errors import BatchError

__all__ = ["PersiaBatch"]

log = logging.getLogger(__name__)


class PersiaBatch:
    """Features (and labels) of the same samples, in PERSIA's form.

        batch = PersiaBatch(
            [IDTypeFeatureWithSingleID("user", np.array([7, 8], np.uint64))],
            non_id_type_features=[NonIDTypeFeature(np.zeros((2, 13), np.float32))],
            requires_grad=False,
        )
        client.infer("deepctr", batch)

    Attributes:
        batch_size: How many samples there are.
        data: The features in the form that is encoded.
    """

    def __init__(
        self,
        id_type_features: Sequence[IDTypeFeature | IDTypeFeatureWithSingleID],
        non_id_type_features: Sequence[NonIDTypeFeature] | None = None,
        labels: Sequence[Label] | None = None,
        batch_size: int | None = None,
        requires_grad: bool = True,
        meta: bytes | None = None,
    ) -> None:
        """Check and collect; arrays are used as they are, so leave them alone until the batch is encoded.

        Args:
            id_type_features: At least one. Their order is the order of the model's embedding tensors.
            non_id_type_features: Dense tensors, in the order in which the model gets them.
            labels: For training.
            batch_size: How many samples there are, if that is to be checked.
            requires_grad: Whether the embeddings are to be trained, PERSIA's default. A batch for inference
                says False.
            meta: Bytes that travel with the batch.

        Raises:
            BatchError: features disagree on the number of samples, there are none or too many, or
                `requires_grad` is set without a label.
        """
        if not id_type_features:
            raise BatchError("there must be at least one id feature")
        for feature in id_type_features:
            _check_kind(feature)
        self.batch_size = batch_size or id_type_features[0].batch_size
        for each in (*id_type_features, *(non_id_type_features or ()), *(labels or ())):
            self._check_size(each)
        if requires_grad and not labels:
            raise BatchError(
                "requires_grad=True needs a label; a batch for inference has requires_grad=False"
            )
        self.data = Batch(
            id_features=[feature.to_id_feature() for feature in id_type_features],
            non_id_features=[feature.to_tensor() for feature in non_id_type_features or ()],
            labels=[label.to_tensor() for label in labels or ()],
            meta=_only_bytes(meta),
            requires_grad=requires_grad,
        )

    def __repr__(self) -> str:
        names = [feature.name for feature in self.data.id_features]
        return f"PersiaBatch({self.batch_size} samples, ids of {', '.join(names)})"

    def to_bytes(self) -> bytes:
        """The batch as PERSIA serialises it: what a handler gets under the key `batch`."""
        return self.data.to_bytes()

    def to_arrow(self) -> bytes:
        """The batch as an Arrow IPC stream, for satrap alone: fewer than half of the bytes, see docs/batch-format.md.

            client.infer("deepctr", batch.to_arrow())

        Raises:
            BatchError: it has more ids than an Arrow list holds.
        """
        return self.data.to_arrow()

    def _check_size(self, feature: Any) -> None:
        if feature.batch_size != self.batch_size:
            raise BatchError(
                f"{feature.batch_size} samples where the batch has {self.batch_size}", feature=feature.name
            )
        if feature.batch_size > MAX_BATCH_SIZE:
            raise BatchError(
                f"{feature.batch_size} samples; a batch has {MAX_BATCH_SIZE} at most", feature=feature.name
            )


def _check_kind(feature: object) -> None:
    if not isinstance(feature, IDTypeFeature | IDTypeFeatureWithSingleID):
        raise BatchError(
            f"an id feature is an IDTypeFeature or an IDTypeFeatureWithSingleID, not {feature!r}"
        )


def _only_bytes(meta: object) -> bytes | None:
    """PERSIA sends a batch without its meta when that is not bytes, and existing clients count on it."""
    if meta is None or isinstance(meta, bytes):
        return meta
    log.warning("the batch's meta is left out: it must be bytes, not %s", type(meta).__name__)
    return None
