"""Embedding config to slots: which prefix each feature's ids get, by PERSIA's rules."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satrap._core.plan import Slot, SlotTable
from satrap.config import EmbeddingConfig, SlotConfig, contradictions
from satrap.errors import ConfigError

__all__ = ["ResolvedSlots", "resolve_slots"]

_U64 = 2**64


@dataclass(frozen=True)
class ResolvedSlots:
    """Every slot's index prefix, and the native table that plans are made with."""

    prefixes: dict[str, int]
    table: SlotTable


def resolve_slots(
    config: EmbeddingConfig, warn: Callable[[str], None], source: Path | str = "embedding config"
) -> ResolvedSlots:
    """Number the feature groups and give each slot its group's prefix.

    Groups come in the order of `feature_groups`, then every slot that is in none of them as a group of its own,
    in the order of `slots_config`. Group i (from 0) has the prefix `(i + 1) << (64 - feature_index_prefix_bit)`.
    PERSIA loses the bits above 64, which checkpoints then have in their ids; so do we, and `warn` hears of it.

    Raises:
        ConfigError: the config contradicts itself, see `satrap.config.contradictions`; a config that was read from a
            file has been checked, with the line.
    """
    for place, reason in contradictions(config):
        raise ConfigError(source, ".".join(place), 0, reason)
    groups = _group_of_slots(config)
    shift = 64 - config.feature_index_prefix_bit
    prefixes = {}
    for name, group in groups.items():
        prefix = (group + 1) << shift
        prefixes[name] = prefix % _U64
        if prefix >= _U64:
            warn(_overflow(name, group, config.feature_index_prefix_bit, prefixes[name]))
    slots = [_native_slot(name, slot, prefixes[name]) for name, slot in config.slots.items()]
    return ResolvedSlots(prefixes, SlotTable(config.feature_index_prefix_bit, slots))


def _group_of_slots(config: EmbeddingConfig) -> dict[str, int]:
    """The group's number by slot, in the order of `slots_config`; the config has no contradictions."""
    grouped = {name: number for number, names in enumerate(config.feature_groups.values()) for name in names}
    alone = (name for name in config.slots if name not in grouped)
    grouped.update((name, number) for number, name in enumerate(alone, len(config.feature_groups)))
    return {name: grouped[name] for name in config.slots}


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


def _overflow(name: str, group: int, bits: int, prefix: int) -> str:
    effect = (
        "its ids get no prefix" if prefix == 0 else f"its ids share the prefix {prefix:#x} with another group"
    )
    return (
        f"slot {name!r} is in feature group {group + 1}, more than feature_index_prefix_bit: {bits} can number: "
        f"as in PERSIA the number loses its upper bits, and {effect}. The checkpoint has its ids so; for a new "
        "training set feature_index_prefix_bit higher"
    )
