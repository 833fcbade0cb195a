"""Prefixes: PERSIA's numbering of feature groups, its silent overflow, and configs that contradict themselves."""

from pathlib import Path

import pytest

from satrap.config import load_embedding_config
from satrap.errors import ConfigError
from satrap.middleware.slots import resolve_slots


def resolve(tmp_path: Path, text: str) -> tuple[dict[str, int], list[str]]:
    path = tmp_path / "embedding_config.yml"
    path.write_text(text)
    warnings: list[str] = []
    resolved = resolve_slots(load_embedding_config(path, pytest.fail), warnings.append, path)
    for name in resolved.prefixes:
        assert name in resolved.table
    return resolved.prefixes, warnings


def test_groups_first_then_slots_in_the_files_order(tmp_path):
    prefixes, warnings = resolve(
        tmp_path,
        """
        slots_config: {z: {dim: 4}, b: {dim: 4}, a: {dim: 8}, c: {dim: 4}, "on": {dim: 4}}
        feature_groups: {second: [a], first: [z, "on"]}
        """,
    )
    assert prefixes == {"a": 1 << 56, "z": 2 << 56, "on": 2 << 56, "b": 3 << 56, "c": 4 << 56}
    assert warnings == []


def test_prefix_bits(tmp_path):
    prefixes, _ = resolve(tmp_path, "feature_index_prefix_bit: 40\nslots_config: {a: {dim: 4}, b: {dim: 4}}")
    assert prefixes == {"a": 1 << 24, "b": 2 << 24}


def test_prefix_that_overflows_is_truncated_with_a_warning(tmp_path):
    slots = ", ".join(f"s{i}: {{dim: 4}}" for i in range(6))
    prefixes, warnings = resolve(tmp_path, f"feature_index_prefix_bit: 2\nslots_config: {{{slots}}}")
    assert prefixes == {"s0": 1 << 62, "s1": 2 << 62, "s2": 3 << 62, "s3": 0, "s4": 1 << 62, "s5": 2 << 62}
    assert len(warnings) == 3
    assert "'s3'" in warnings[0]
    assert "no prefix" in warnings[0]
    assert "'s4'" in warnings[1]
    assert "0x4000000000000000" in warnings[1]


def test_slot_in_a_group_twice_is_in_it_once(tmp_path):
    prefixes, _ = resolve(tmp_path, "slots_config: {a: {dim: 4}}\nfeature_groups: {g: [a, a]}")
    assert prefixes == {"a": 1 << 56}


def test_group_may_be_named_like_a_slot_that_is_in_a_group(tmp_path):
    prefixes, _ = resolve(tmp_path, "slots_config: {a: {dim: 4}, b: {dim: 4}}\nfeature_groups: {a: [a, b]}")
    assert prefixes == {"a": 1 << 56, "b": 1 << 56}


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("slots_config: {a: {dim: 4}}\nfeature_groups: {g: [a, x]}", "feature_groups.g", "'x' is no slot"),
        ("slots_config: {a: {dim: 4}}\nfeature_groups: {a: []}", "feature_groups.a", "rename one"),
        (
            "slots_config: {a: {dim: 4}}\nfeature_groups: {g: [a], h: [a]}",
            "feature_groups.h",
            "is in the group 'g' too",
        ),
        (
            "slots_config: {a: {dim: 4, hash_stack_config: {hash_stack_rounds: 2, embedding_size: 0}}}",
            "slots_config.a.hash_stack_config.embedding_size",
            "at least one bucket",
        ),
        (
            "slots_config: {a: {dim: 4, hash_stack_config: {hash_stack_rounds: 1025, embedding_size: 9}}}",
            "slots_config.a.hash_stack_config.hash_stack_rounds",
            "1025 rounds",
        ),
    ],
)
def test_config_that_contradicts_itself(tmp_path, text, key, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        resolve(tmp_path, text)
    assert caught.value.key == key
    assert caught.value.path == tmp_path / "embedding_config.yml"
