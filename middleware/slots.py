"""Embedding config to slots: which prefix each feature's ids get, by PERSIA's rules."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satrap._core.plan import Slot, SlotTable
from satrap.config import EmbeddingConfig, SlotConfig
from satrap.errors import ConfigError

__all__ = ["ResolvedSlots", "resolve_slots"]

_U64 = 2**64

MAX_HASH_STACK_ROUNDS = 1024
"""Every id is looked up once in each round: a sane config has a few."""


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
        ConfigError: groups and slots contradict each other, or a slot's hash stack has no buckets.
    """
    groups = _group_of_slots(config, source)
    shift = 64 - config.feature_index_prefix_bit
    prefixes = {}
    for name, group in groups.items():
        prefix = (group + 1) << shift
        prefixes[name] = prefix % _U64
        if prefix >= _U64:
            warn(_overflow(name, group, config.feature_index_prefix_bit, prefixes[name]))
    slots = [_native_slot(name, slot, prefixes[name], source) for name, slot in config.slots.items()]
    return ResolvedSlots(prefixes, SlotTable(config.feature_index_prefix_bit, slots))


def _group_of_slots(config: EmbeddingConfig, source: Path | str) -> dict[str, int]:
    """The group's number by slot, in the order of `slots_config`."""
    grouped: dict[str, tuple[int, str]] = {}
    for number, (group, names) in enumerate(config.feature_groups.items()):
        for name in names:
            key = f"feature_groups.{group}"
            if name not in config.slots:
                raise ConfigError(source, key, 0, f"{name!r} is no slot of slots_config")
            if name in grouped and grouped[name][0] != number:
                raise ConfigError(
                    source, key, 0, f"{name!r} is in the group {grouped[name][1]!r} too; a slot has one group"
                )
            grouped[name] = number, group
    count = len(config.feature_groups)
    numbers = {}
    for name in config.slots:
        if name in grouped:
            numbers[name] = grouped[name][0]
        elif name in config.feature_groups:
            raise ConfigError(
                source,
                f"feature_groups.{name}",
                0,
                f"a slot that is in no group has this name too, and would be a group {name!r} of its own: rename one",
            )
        else:
            numbers[name] = count
            count += 1
    return numbers


def _native_slot(name: str, slot: SlotConfig, prefix: int, source: Path | str) -> Slot:
    stack = slot.hash_stack_config
    if stack.hash_stack_rounds > 0 and stack.embedding_size == 0:
        raise ConfigError(
            source,
            f"slots_config.{name}.hash_stack_config.embedding_size",
            0,
            "a hash stack needs at least one bucket in each round",
        )
    if stack.hash_stack_rounds > MAX_HASH_STACK_ROUNDS:
        raise ConfigError(
            source,
            f"slots_config.{name}.hash_stack_config.hash_stack_rounds",
            0,
            f"{stack.hash_stack_rounds} rounds; a hash stack has {MAX_HASH_STACK_ROUNDS} at most, and 2 or 3 as a rule",
        )
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
