"""From bytes to a batch that a lookup plan takes."""

from satrap._core import DecodeError
from satrap._core.batch import DecodedBatch, decode_persia_batch
from satrap.batch.arrow import ArrowBatch, decode_arrow, is_arrow
from satrap.batch.parts import Bytes
from satrap.errors import BatchDecodeError

__all__ = ["Decoded", "DecodedBatch", "decode"]

Decoded = DecodedBatch | ArrowBatch
"""A batch that was proved consistent, of either format; both have the same attributes."""


def decode(data: Bytes) -> Decoded:
    """Decode the bytes of a batch from any contiguous buffer, which must not change after.

    That is `PersiaBatch.to_bytes()`, or an Arrow IPC stream (`PersiaBatch.to_arrow()`, docs/batch-format.md). The batch
    is proved consistent; its tensors, and an Arrow batch's ids, are read-only views into `data`, which it keeps alive.

    Raises:
        BatchDecodeError: `data` is no batch; it names the feature and, for PERSIA's, the offset.
    """
    if is_arrow(data):
        return decode_arrow(data)
    try:
        return decode_persia_batch(data)
    except DecodeError as error:
        raise BatchDecodeError(error.message, feature=error.field, offset=error.offset) from error
