"""Batches to a plan: which signs each shard is asked for."""

from collections.abc import Sequence

from satrap._core import DecodeError
from satrap._core.plan import Plan, SlotTable
from satrap.batch import ArrowBatch, Decoded, IdFeature
from satrap.errors import BatchError, UnknownFeatureError, UnsupportedBatchError

__all__ = ["PlanInput", "make_plan"]

PlanInput = Decoded | Sequence[IdFeature]


def make_plan(slots: SlotTable, batches: Sequence[PlanInput], replica_size: int) -> Plan:
    """One plan for all batches: a sign is asked once, however many samples and batches have it.

    Raises:
        UnknownFeatureError: a feature has no slot.
        UnsupportedBatchError: a batch wants gradients, or its ids are elsewhere.
        BatchError: offsets are no offsets, or there are too many ids.
    """
    try:
        return Plan(slots, [_native(batch) for batch in batches], replica_size)
    except KeyError as error:
        name = str(error.args[0])
        raise UnknownFeatureError("the embedding config has no slot of that name", feature=name) from error
    except DecodeError as error:
        raise BatchError(error.message, feature=error.field) from error
    except ValueError as error:
        raise BatchError(str(error)) from error


def _native(batch: PlanInput) -> object:
    if not isinstance(batch, Decoded):
        return [(feature.name, feature.values, feature.offsets) for feature in batch]
    if batch.requires_grad:
        raise UnsupportedBatchError(
            "it wants gradients, which inference does not keep: build it with requires_grad=False"
        )
    if batch.ids_kind == "remote":
        assert batch.remote is not None
        raise UnsupportedBatchError(
            f"its ids are kept by the training worker at {batch.remote[0]}: send a batch that holds its ids"
        )
    return batch.id_features() if isinstance(batch, ArrowBatch) else batch
