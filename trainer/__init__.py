"""What a training job calls to publish its embeddings."""

from satrap.trainer.persia_checkpoint import write_persia_checkpoint

__all__ = ["write_persia_checkpoint"]
