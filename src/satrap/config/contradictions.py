"""What types cannot say about an embedding config: groups and slots that do not go together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from satrap.config.embedding_config import EmbeddingConfig

__all__ = ["contradictions"]

MAX_HASH_STACK_ROUNDS = 1024
"""Every id is looked up once in each round: a sane config has a few."""


def contradictions(config: "EmbeddingConfig") -> Iterator[tuple[tuple[str, ...], str]]:
    """Each contradiction: the keys that lead to it, and what is wrong with it."""
    yield from _of_groups(config)
    for name, slot in config.slots.items():
        stack = slot.hash_stack_config
        place = ("slots_config", name, "hash_stack_config")
        if stack.hash_stack_rounds > 0 and stack.embedding_size == 0:
            yield (*place, "embedding_size"), "a hash stack needs at least one bucket in each round"
        if stack.hash_stack_rounds > MAX_HASH_STACK_ROUNDS:
            yield (
                (*place, "hash_stack_rounds"),
                f"{stack.hash_stack_rounds} rounds; a hash stack has {MAX_HASH_STACK_ROUNDS} at most, and 2 or 3 "
                "as a rule",
            )


def _of_groups(config: "EmbeddingConfig") -> Iterator[tuple[tuple[str, ...], str]]:
    group_of: dict[str, str] = {}
    for group, names in config.feature_groups.items():
        place = ("feature_groups", group)
        for name in names:
            if name not in config.slots:
                yield place, f"{name!r} is no slot of slots_config"
            elif group_of.setdefault(name, group) != group:
                yield place, f"{name!r} is in the group {group_of[name]!r} too; a slot has one group"
    for name in config.slots:
        if name in config.feature_groups and name not in group_of:
            yield (
                ("feature_groups", name),
                f"a slot that is in no group has this name too, and would be a group {name!r} of its own: rename one",
            )
