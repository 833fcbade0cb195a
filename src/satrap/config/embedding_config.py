"""`embedding_config.yml`: which features there are, and how their ids become embeddings. PERSIA's file, as it is."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from satrap.config import yaml12
from satrap.config.contradictions import contradictions
from satrap.config.validation import PersiaSection, Warn, validate

__all__ = ["EmbeddingConfig", "HashStackConfig", "SlotConfig", "load_embedding_config"]

U64_MAX = 2**64 - 1

Count = Annotated[int, Field(ge=0, le=U64_MAX)]


class HashStackConfig(PersiaSection):
    """Several hash rounds instead of one id space. No rounds: off."""

    hash_stack_rounds: Count
    embedding_size: Count


NO_HASH_STACK = HashStackConfig(hash_stack_rounds=0, embedding_size=0)


class SlotConfig(PersiaSection):
    """One feature."""

    dim: Annotated[int, Field(ge=1, le=4096)]
    """Floats in a row."""
    sample_fixed_size: Annotated[int, Field(ge=1, le=65_535)] = 10
    """Columns of the index of a raw feature: ids beyond it are dropped."""
    embedding_summation: bool = True
    """Sum the rows of a sample (true) or answer them one by one (false, "raw")."""
    sqrt_scaling: bool = False
    """Divide a sum by the square root of the number of ids."""
    hash_stack_config: HashStackConfig = NO_HASH_STACK
    index_prefix: Annotated[int, Field(ge=0, le=0)] = 0
    """PERSIA computes it; a file must not set it."""


class EmbeddingConfig(PersiaSection):
    """The whole file. The order of slots and groups is the file's, and matters: prefixes follow from it."""

    feature_index_prefix_bit: Annotated[int, Field(ge=1, le=63)] = 8
    """Upper bits of an id that hold its feature group."""
    slots_config: dict[str, SlotConfig]
    feature_groups: dict[str, list[str]] = Field(default_factory=dict)
    """Slots that share one id space, by group."""

    @property
    def slots(self) -> dict[str, SlotConfig]:
        """The slots by name, in the file's order."""
        return self.slots_config

    @property
    def digest(self) -> str:
        """Hexadecimal text that is the same for files that mean the same, the order of slots and groups included."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_embedding_config(path: Path | str, warn: Warn) -> EmbeddingConfig:
    """Read and check the file; `warn` gets a sentence for each unknown key.

    Raises:
        ConfigError: naming the file, the key and the line.
    """
    document = yaml12.load(Path(path), text_at=(("feature_groups", "*", "*"),))
    config = validate(EmbeddingConfig, document, warn)
    for place, reason in contradictions(config):
        raise document.error(place, reason)
    return config
