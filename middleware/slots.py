"""Embedding config to slots: what the native plan knows of each feature."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satrap._core.plan import Slot, SlotTable
from satrap.config import EmbeddingConfig, SlotConfig, index_prefixes

__all__ = ["ResolvedSlots", "resolve_slots"]


@dataclass(frozen=True)
class ResolvedSlots:
    """Every slot's index prefix, and the native table that plans are made with."""

    prefixes: dict[str, int]
    table: SlotTable


def resolve_slots(
    config: EmbeddingConfig, warn: Callable[[str], None], source: Path | str = "embedding config"
) -> ResolvedSlots:
    """Give each slot its group's prefix (`satrap.config.index_prefixes`); `warn` hears of those that overflow.

    Raises:
        ConfigError: the config contradicts itself.
    """
    prefixes = index_prefixes(config, warn, source)
    slots = [_native_slot(name, slot, prefixes[name]) for name, slot in config.slots.items()]
    return ResolvedSlots(prefixes, SlotTable(config.feature_index_prefix_bit, slots))


def _native_slot(name: str, slot: SlotConfig, prefix: int) -> Slot:
    stack = slot.hash_stack_config
    return Slot(
        name=name,
        dim=slot.dim,
        summation=slot.embedding_summation,
        sqrt_scaling=slot.sqrt_scaling,
        sample_fixed_size=slot.sample_fixed_size,
        hash_stack_rounds=stack.hash_stack_rounds,
        embedding_size=stack.embedding_size,
        prefix=prefix,
    )
