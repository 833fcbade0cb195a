"""Batches of samples: bytes, PERSIA's or Arrow's, and what they say, as numpy arrays.

Which of the two formats some bytes are is told from their first bytes; wherever PERSIA's are taken Arrow's are too.
Here the native decoder's errors become satrap's; nothing above catches a `DecodeError`.
"""

from satrap.batch.arrow import ArrowBatch, is_arrow
from satrap.batch.batch import Batch
from satrap.batch.decoding import Decoded, DecodedBatch, decode
from satrap.batch.parts import MAX_SAMPLES, Bytes, IdFeature, Tensor

__all__ = [
    "MAX_SAMPLES",
    "ArrowBatch",
    "Batch",
    "Bytes",
    "Decoded",
    "DecodedBatch",
    "IdFeature",
    "Tensor",
    "decode",
    "is_arrow",
]
