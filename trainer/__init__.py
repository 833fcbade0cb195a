"""What a training job calls to publish its embeddings. `TrainCtx.track` and `dump_dense` alone import torch."""

from satrap.trainer.context import TrainCtx
from satrap.trainer.dumping import Dump, DumpProgress
from satrap.trainer.persia_checkpoint import write_persia_checkpoint

__all__ = ["Dump", "DumpProgress", "TrainCtx", "write_persia_checkpoint"]
