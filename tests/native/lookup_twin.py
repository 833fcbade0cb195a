"""PERSIA's lookup rules in plain Python and numpy, written from its format description: the native plan's twin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

U64 = 2**64 - 1
K = 0x9AE16A3B2F90404F
M = K + 16


def farmhash64_of(sign: int) -> int:
    def ror(value: int, bits: int) -> int:
        return (value >> bits | value << (64 - bits)) & U64

    a = (sign + K) & U64
    c = (ror(sign, 37) * M + a) & U64
    d = ((ror(a, 25) + sign) * M) & U64
    u = ((c ^ d) * M) & U64
    u ^= u >> 47
    w = ((d ^ u) * M) & U64
    w ^= w >> 47
    return (w * M) & U64


def farmhash64(ids: np.ndarray) -> np.ndarray:
    return np.array([farmhash64_of(sign) for sign in ids.tolist()], np.uint64)


def add_prefix(ids: np.ndarray, prefix: int, bits: int) -> np.ndarray:
    if not 1 <= bits <= 63:
        raise ValueError("bits must be 1 to 63")
    if prefix == 0:
        return ids.copy()
    spacing = 2 ** (64 - bits) - 1
    return np.array([(sign % spacing + prefix) & U64 for sign in ids.tolist()], np.uint64)


def hash_stack(ids: np.ndarray, rounds: int, embedding_size: int) -> np.ndarray:
    if embedding_size == 0:
        raise ValueError("embedding_size must be 1 or more")
    buckets = np.empty((rounds, len(ids)), np.uint64)
    hashes = ids
    for round_ in range(rounds):
        hashes = farmhash64(hashes)
        for i, value in enumerate(hashes.tolist()):
            buckets[round_, i] = (value % embedding_size + round_ * embedding_size) & U64
    return buckets


def dedup(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return ids[np.sort(first)], rank[inverse]


def split_by_shard(signs: np.ndarray, replica_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if replica_size == 0:
        raise ValueError("replica_size must be 1 or more")
    shards = farmhash64(signs) % np.uint64(replica_size)
    order = np.argsort(shards, kind="stable").astype(np.uint64)
    starts = np.searchsorted(shards[order], np.arange(replica_size + 1)).astype(np.uint64)
    return signs[order], order, starts


@dataclass
class SlotRule:
    """A slot's part of the embedding config, with its prefix."""

    dim: int
    summation: bool = True
    sqrt_scaling: bool = False
    sample_fixed_size: int = 10
    hash_stack_rounds: int = 0
    embedding_size: int = 0
    prefix: int = 0


@dataclass
class Item:
    """PERSIA's SingleSignInFeatureBatch: a sign and where it is; `ordinal` is the id that it came from."""

    sign: int
    positions: list[tuple[int, int]]
    ordinal: int


Feature = tuple[str, np.ndarray, np.ndarray]
RowsOf = Callable[[int, int], np.ndarray]
"""(sign, dim) -> f32[dim]."""


def look_up(
    features: Sequence[Feature], rules: dict[str, SlotRule], bits: int, replica_size: int, rows_of: RowsOf
) -> tuple[dict[tuple[int, int], set[int]], list[tuple]]:
    """({(shard, dim): signs}, tensors in the form of Plan.assemble) for the features of one batch."""
    asked: dict[tuple[int, int], set[int]] = {}
    tensors = []
    for name, values, offsets in features:
        rule = rules[name]
        ids = items_of(values, offsets)
        rounds = [[prefixed(item, rule, bits) for item in stacked] for stacked in stack(ids, rule)]
        for item in (item for stacked in rounds for item in stacked):
            shard = farmhash64_of(item.sign) % replica_size
            asked.setdefault((shard, rule.dim), set()).add(item.sign)
        make = summed if rule.summation else raw
        tensors.append((name, rule.dim, *make(rounds, rule, offsets, replica_size, rows_of)))
    return asked, tensors


def items_of(values: np.ndarray, offsets: np.ndarray) -> list[Item]:
    items: dict[int, Item] = {}
    for sample in range(len(offsets) - 1):
        for column, sign in enumerate(values[offsets[sample] : offsets[sample + 1]].tolist()):
            item = items.setdefault(sign, Item(sign, [], len(items)))
            item.positions.append((sample, column % 65536))
    return list(items.values())


def stack(items: list[Item], rule: SlotRule) -> list[list[Item]]:
    if rule.hash_stack_rounds == 0:
        return [items]
    rounds: list[list[Item]] = [[] for _ in range(rule.hash_stack_rounds)]
    for item in items:
        value = item.sign
        for round_, stacked in enumerate(rounds):
            value = farmhash64_of(value)
            bucket = (value % rule.embedding_size + round_ * rule.embedding_size) & U64
            stacked.append(Item(bucket, item.positions, item.ordinal))
    return rounds


def prefixed(item: Item, rule: SlotRule, bits: int) -> Item:
    if rule.prefix == 0:
        return item
    spacing = 2 ** (64 - bits) - 1
    return Item((item.sign % spacing + rule.prefix) & U64, item.positions, item.ordinal)


def summed(rounds, rule: SlotRule, offsets, replica_size: int, rows_of: RowsOf) -> tuple[np.ndarray]:
    samples = len(offsets) - 1
    sums = np.zeros((samples, rule.dim), np.float32)
    for item in (item for stacked in rounds for item in stacked):
        for sample, _ in item.positions:
            sums[sample] += rows_of(item.sign, rule.dim)
    if rule.sqrt_scaling:
        counts = np.diff(offsets.astype(np.int64)) * len(rounds)
        sums *= (np.float32(1) / np.sqrt(np.maximum(counts, 1).astype(np.float32)))[:, None]
    with np.errstate(over="ignore"):
        return (sums.astype(np.float16),)


def raw(rounds, rule: SlotRule, offsets, replica_size: int, rows_of: RowsOf) -> tuple:
    samples, columns = len(offsets) - 1, rule.sample_fixed_size
    values = np.zeros((len(rounds[0]) + 1, rule.dim), np.float32)
    index = np.zeros((samples, columns), np.int64)
    sample_id_num = np.zeros(samples, np.uint64)
    owners: dict[int, int] = {}
    for entry, item in enumerate(rounds[0]):
        if rule.hash_stack_rounds == 0 and owners.setdefault(item.sign, entry) != entry:
            continue  # PERSIA's modulus made it equal to an earlier id
        signs = [(farmhash64_of(stacked[entry].sign) % replica_size, r) for r, stacked in enumerate(rounds)]
        last = max(signs)[1]  # what PERSIA writes last: by replica, then by round
        values[entry + 1] = rows_of(rounds[last][entry].sign, rule.dim)
        for sample, column in item.positions:
            if sample_id_num[sample] < columns and column < columns:
                index[sample, column] = entry + 1
                sample_id_num[sample] += np.uint64(1)
    if rule.sqrt_scaling and rule.hash_stack_rounds > 1:
        values *= np.float32(1) / np.sqrt(np.float32(rule.hash_stack_rounds))
    with np.errstate(over="ignore"):
        return values.astype(np.float16), index, sample_id_num, columns
