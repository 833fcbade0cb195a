"""Which prefix each feature's ids get, by PERSIA's rules: what trainer and middleware have to agree on."""

from collections.abc import Callable
from pathlib import Path

from satrap.config.contradictions import contradictions
from satrap.config.embedding_config import EmbeddingConfig
from satrap.errors import ConfigError

__all__ = ["index_prefixes"]

_U64 = 2**64


def index_prefixes(
    config: EmbeddingConfig, warn: Callable[[str], None], source: Path | str = "embedding config"
) -> dict[str, int]:
    """Number the feature groups and give each slot its group's prefix, in the order of `slots_config`.

    Groups come in the order of `feature_groups`, then every slot that is in none of them as a group of its own,
    in the order of `slots_config`. Group i (from 0) has the prefix `(i + 1) << (64 - feature_index_prefix_bit)`.
    PERSIA loses the bits above 64, which checkpoints then have in their ids; so do we, and `warn` hears of it.

    Raises:
        ConfigError: the config contradicts itself, see `satrap.config.contradictions`; a config that was read from a
            file has been checked, with the line.
    """
    for place, reason in contradictions(config):
        raise ConfigError(source, ".".join(place), 0, reason)
    shift = 64 - config.feature_index_prefix_bit
    prefixes = {}
    for name, group in _group_of_slots(config).items():
        prefix = (group + 1) << shift
        prefixes[name] = prefix % _U64
        if prefix >= _U64:
            warn(_overflow(name, group, config.feature_index_prefix_bit, prefixes[name]))
    return prefixes


def _group_of_slots(config: EmbeddingConfig) -> dict[str, int]:
    """The group's number by slot, in the order of `slots_config`; the config has no contradictions."""
    grouped = {name: number for number, names in enumerate(config.feature_groups.values()) for name in names}
    alone = (name for name in config.slots if name not in grouped)
    grouped.update((name, number) for number, name in enumerate(alone, len(config.feature_groups)))
    return {name: grouped[name] for name in config.slots}


def _overflow(name: str, group: int, bits: int, prefix: int) -> str:
    effect = (
        "its ids get no prefix" if prefix == 0 else f"its ids share the prefix {prefix:#x} with another group"
    )
    return (
        f"slot {name!r} is in feature group {group + 1}, more than feature_index_prefix_bit: {bits} can number: "
        f"as in PERSIA the number loses its upper bits, and {effect}. The checkpoint has its ids so; for a new "
        "training set feature_index_prefix_bit higher"
    )
