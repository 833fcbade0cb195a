"""Kernels over ids."""

import numpy
import numpy.typing


def farmhash64(ids: numpy.typing.NDArray[numpy.uint64]) -> numpy.typing.NDArray[numpy.uint64]:
    """
    farmhash64 of each id's 8 little-endian bytes: u64[n] -> u64[n]. The GIL is released.
    """

def add_prefix(ids: numpy.typing.NDArray[numpy.uint64], prefix: int, bits: int) -> numpy.typing.NDArray[numpy.uint64]:
    """
    Ids in the space of their feature group: id % (2^(64-bits) - 1) + prefix; a prefix of 0 changes nothing. u64[n] -> u64[n].

    Raises ValueError for bits outside 1 to 63. The GIL is released.
    """

def hash_stack(ids: numpy.typing.NDArray[numpy.uint64], rounds: int, embedding_size: int) -> numpy.typing.NDArray[numpy.uint64]:
    """
    Buckets of a hash stack: u64[n] -> u64[rounds, n].

    Raises ValueError for an embedding_size of 0. The GIL is released.
    """

def dedup(ids: numpy.typing.NDArray[numpy.uint64]) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32]]:
    """
    (distinct u64[m] in order of first occurrence, inverse u32[n]): distinct[inverse] is `ids`. The GIL is released.
    """

def split_by_shard(signs: numpy.typing.NDArray[numpy.uint64], replica_size: int) -> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint64]]:
    """
    (signs u64[n] by shard, order u64[n], starts u64[replica_size + 1]): shard s owns signs[starts[s]:starts[s + 1]], and signs[i] was the order[i]-th given. The shard of a sign is farmhash64(sign) % replica_size.

    Raises ValueError for a replica_size of 0. The GIL is released.
    """
