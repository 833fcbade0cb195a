"""PERSIA's own worker, bit for bit: its requests, its answers, for every golden case."""

import struct

import numpy as np
from lookup_twin import SlotRule, look_up

from satrap.batch import Batch, decode
from satrap.middleware import MiddlewareClient, RawEmbedding, SumEmbedding
from satrap.middleware.assemble import Embeddings
from satrap.middleware.plan import make_plan
from satrap.middleware.slots import resolve_slots

FLOAT32 = 1


class Bytes:
    """PERSIA's serialisation, as far as its worker's answers need it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def array(self, dtype: str, n: int) -> np.ndarray:
        array = np.frombuffer(self.data, dtype, n, self.at)
        self.at += array.nbytes
        return array

    def vector(self, dtype: str) -> np.ndarray:
        return self.array(dtype, self.scalar("I"))

    def string(self) -> str:
        return self.vector("u1").tobytes().decode()

    def matrix(self, dtype: str) -> np.ndarray:
        assert self.scalar("I") == 2
        shape = self.scalar("Q"), self.scalar("Q")
        return self.vector(dtype).reshape(shape)


def worker_response(data: bytes) -> list[SumEmbedding | RawEmbedding]:
    read = Bytes(data)
    assert read.scalar("B") == 1  # Ok
    features = []
    for _ in range(read.scalar("I")):
        tag, name, values = read.scalar("I"), read.string(), read.matrix("<f2")
        if tag == 1:
            features.append(SumEmbedding(name, values.shape[1], values))
        else:
            index, sample_id_num = read.vector("<i8"), read.vector("<u8")
            columns = len(index) // len(sample_id_num)
            features.append(
                RawEmbedding(
                    name, values.shape[1], values, index.reshape(-1, columns), sample_id_num, columns
                )
            )
    return features


def shard_requests(case) -> list[set[tuple[int, int]]]:
    """(sign, dim) pairs that PERSIA's worker asked of each shard."""
    requests = []
    for shard in range(case.replica_size):
        read = Bytes((case.folder / f"ps_request_r{shard}.bin").read_bytes())
        pairs = read.array("<u8", 2 * read.scalar("I")).reshape(-1, 2)
        requests.append({(sign, dim) for sign, dim in pairs.tolist()})
    return requests


def plan_of(case, data: bytes):
    return make_plan(
        resolve_slots(case.config, lambda warning: None).table, [decode(data)], case.replica_size
    )


def assembled(case, plan):
    row = case.rows()
    rows = [
        (FLOAT32, b"".join(row(sign, dim).tobytes() for sign in np.frombuffer(signs, np.uint64).tolist()))
        for _, dim, signs in plan.groups()
    ]
    return Embeddings.from_tensors(plan.assemble(rows)[0], is_stale=False)


def test_prefixes(golden):
    prefixes = resolve_slots(golden.config, lambda warning: None).prefixes
    assert prefixes == {name: slot["prefix"] for name, slot in golden.said["slots"].items()}


def test_each_shard_is_asked_what_persia_asked(golden):
    asked = [set() for _ in range(golden.replica_size)]
    for shard, dim, signs in plan_of(golden, golden.batch).groups():
        asked[shard] |= {(sign, dim) for sign in np.frombuffer(signs, np.uint64).tolist()}
    assert asked == shard_requests(golden)


def test_tensors_of_the_table(golden, assert_golden):
    assert_golden(golden, assembled(golden, plan_of(golden, golden.batch)))


def test_workers_bytes(golden):
    """What the worker was sent and what it answered, both in its own bytes."""
    ids_part = struct.pack("<I", 1) + (golden.folder / "worker_request.bin").read_bytes()
    batch = struct.pack("<I", 0) + ids_part + struct.pack("<IBB", 0, 0, 0)
    mine = assembled(golden, plan_of(golden, batch))
    theirs = worker_response((golden.folder / "worker_response.bin").read_bytes())
    assert len(mine) == len(theirs)
    for embedding, expected in zip(mine, theirs, strict=True):
        assert type(embedding) is type(expected)
        assert (embedding.name, embedding.dim) == (expected.name, expected.dim)
        if isinstance(expected, SumEmbedding):
            np.testing.assert_array_equal(embedding.values.view("u2"), expected.values.view("u2"))
        else:
            assert embedding.sample_fixed_size == expected.sample_fixed_size
            np.testing.assert_array_equal(embedding.sample_id_num, expected.sample_id_num)
            np.testing.assert_array_equal(
                embedding.values[embedding.index].view("u2"), expected.values[expected.index].view("u2")
            )


def assert_same_rows(mine, theirs):
    """Equal bit for bit; raw rows may be numbered in another order."""
    assert [embedding.name for embedding in mine] == [embedding.name for embedding in theirs]
    for one, other in zip(mine, theirs, strict=True):
        if isinstance(one, RawEmbedding):
            np.testing.assert_array_equal(one.sample_id_num, other.sample_id_num)
            np.testing.assert_array_equal(
                one.values[one.index].view("u2"), other.values[other.index].view("u2")
            )
        else:
            np.testing.assert_array_equal(one.values.view("u2"), other.values.view("u2"))


def test_the_same_batch_as_arrow(golden):
    arrow = Batch.from_bytes(golden.batch).to_arrow()
    assert_same_rows(
        assembled(golden, plan_of(golden, arrow)), assembled(golden, plan_of(golden, golden.batch))
    )


def test_twin_agrees(golden, assert_golden):
    """The twin that the native plan is compared with elsewhere is right about PERSIA itself."""
    decoded = decode(golden.batch)
    features = [decoded.id_feature(i) for i in range(len(decoded.feature_names))]
    rules = {
        name: SlotRule(
            dim=slot["dim"],
            summation=slot["sum"],
            sqrt_scaling=slot["sqrt"],
            sample_fixed_size=slot["fixed"],
            hash_stack_rounds=slot["rounds"],
            embedding_size=slot["hs_size"],
            prefix=slot["prefix"],
        )
        for name, slot in golden.said["slots"].items()
    }
    bits = golden.config.feature_index_prefix_bit
    _, tensors = look_up(features, rules, bits, golden.replica_size, golden.rows())
    mine = Embeddings.from_tensors(tensors, is_stale=False)
    for i, embedding in enumerate(mine):
        expected = golden.expected[f"f{i}_emb_f16"]
        if isinstance(embedding, RawEmbedding):  # row numbers are by order of occurrence here
            index = golden.expected[f"f{i}_index"].reshape(embedding.index.shape)
            np.testing.assert_array_equal(embedding.values[embedding.index], expected[index])
        else:
            np.testing.assert_array_equal(embedding.values, expected)


def test_real_shards(golden, shards, open_middleware, assert_golden):
    middleware = open_middleware(golden.config, shards(golden.folder / "ckpt", golden.replica_size))
    middleware.wait_ready(10)
    for _ in range(5):  # by gRPC first, then as local shards
        assert_golden(golden, middleware.lookup(golden.batch))


def test_middleware_server(golden, shards, middleware_server, assert_golden):
    server = middleware_server(golden.config, shards(golden.folder / "ckpt", golden.replica_size))
    client = MiddlewareClient([server.address])
    try:
        client.wait_ready(10)
        assert_golden(golden, client.lookup(golden.batch))
        assert_golden(golden, client.lookup(decode(golden.batch)))
        arrow = Batch.from_bytes(golden.batch).to_arrow()
        for batch in (arrow, decode(arrow)):
            assert_same_rows(client.lookup(batch), client.lookup(golden.batch))
        first, second = client.lookup_many([golden.batch, golden.batch])
        assert_golden(golden, first)
        assert_golden(golden, second)
    finally:
        client.close()


def test_float16_rows(two_shards, shards, open_middleware, assert_golden):
    """The golden rows are exact in float16, so a server that keeps them so answers the same."""
    addresses = shards(two_shards.folder / "ckpt", 2, row_dtype="float16")
    assert_golden(two_shards, open_middleware(two_shards.config, addresses).lookup(two_shards.batch))
