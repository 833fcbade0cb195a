"""The fused plan against its twin: which signs are asked of which shard, and what becomes of the rows."""

import batch_twin
import lookup_twin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookup_twin import SlotRule

from satrap._core import DecodeError
from satrap._core.batch import decode_persia_batch
from satrap._core.plan import Plan, Slot, SlotTable

FLOAT32, FLOAT16 = 1, 2


def slot_table(rules: dict[str, SlotRule], bits: int = 8) -> SlotTable:
    return SlotTable(bits, [Slot(name=name, **vars(rule)) for name, rule in rules.items()])


def rows_of(sign: int, dim: int) -> np.ndarray:
    """A row that says which sign it belongs to, in multiples of 1/64 so that sums are exact."""
    return ((sign * np.arange(1, dim + 1, dtype=np.uint64)) % np.uint64(997)).astype(np.float32) / 64


def answer(plan: Plan, dtype: int = FLOAT32) -> list[list[tuple]]:
    """Play the shards."""
    rows = []
    for _, dim, packed in plan.groups():
        found = [rows_of(sign, dim) for sign in np.frombuffer(packed, np.uint64).tolist()]
        rows.append((dtype, np.array(found, np.float32 if dtype == FLOAT32 else np.float16).tobytes()))
    return plan.assemble(rows)


def asked(plan: Plan) -> dict[tuple[int, int], list[int]]:
    signs = {(shard, dim): np.frombuffer(packed, np.uint64).tolist() for shard, dim, packed in plan.groups()}
    assert len(signs) == len(plan.groups())
    return signs


def csr(name: str, *samples: list[int]) -> tuple[str, np.ndarray, np.ndarray]:
    values = np.array([sign for ids in samples for sign in ids], np.uint64)
    return name, values, np.cumsum([0, *map(len, samples)]).astype(np.uint32)


def assert_same(mine: list[tuple], twin: list[tuple]) -> None:
    assert len(mine) == len(twin)
    for out, expected in zip(mine, twin, strict=True):
        assert out[:2] == expected[:2]
        for part, expected_part in zip(out[2:], expected[2:], strict=True):
            np.testing.assert_array_equal(part, expected_part)
            if isinstance(expected_part, np.ndarray):
                assert part.dtype == expected_part.dtype
                assert part.shape == expected_part.shape


class TestSigns:
    def test_a_sign_is_asked_once_for_all_features_and_batches_of_its_dim(self):
        rules = {
            "a": SlotRule(4, prefix=1 << 56),
            "b": SlotRule(4, prefix=1 << 56),
            "c": SlotRule(8, prefix=1 << 56),
        }
        first = [csr("a", [5, 5, 6], [6]), csr("b", [5, 7], [5]), csr("c", [5], [])]
        plan = Plan(slot_table(rules), [first, [csr("a", [7])]], 1)
        base = 1 << 56
        assert asked(plan) == {(0, 4): [base + 5, base + 6, base + 7], (0, 8): [base + 5]}

    def test_signs_go_to_the_shard_of_their_hash(self):
        plan = Plan(slot_table({"a": SlotRule(4)}), [[csr("a", list(range(500)))]], 3)
        groups = asked(plan)
        assert [shard for shard, _ in groups] == [0, 1, 2]
        for (shard, _), signs in groups.items():
            assert {lookup_twin.farmhash64_of(sign) % 3 for sign in signs} == {shard}
        assert sum(map(len, groups.values())) == 500

    def test_shard_without_signs_is_not_asked(self):
        plan = Plan(slot_table({"a": SlotRule(4)}), [[csr("a", [1])]], 50)
        assert list(asked(plan)) == [(lookup_twin.farmhash64_of(1) % 50, 4)]

    def test_nothing_asked_of_batches_without_ids(self):
        plan = Plan(slot_table({"a": SlotRule(4)}), [[], [csr("a", [], [])]], 2)
        assert plan.groups() == []
        (nothing, ((name, dim, values),)) = plan.assemble([])
        assert nothing == []
        assert (name, dim, values.shape) == ("a", 4, (2, 4))
        assert not values.any()

    def test_no_batches(self):
        plan = Plan(slot_table({}), [], 2)
        assert plan.groups() == []
        assert plan.assemble([]) == []


class TestRefused:
    def test_unknown_feature(self):
        with pytest.raises(KeyError) as caught:
            Plan(slot_table({"a": SlotRule(4)}), [[csr("b", [1])]], 1)
        assert caught.value.args == ("b",)

    def test_unknown_feature_of_decoded_batch(self):
        data = batch_twin.batch(batch_twin.ids([batch_twin.feature("né", [[1]])]))
        with pytest.raises(KeyError) as caught:
            Plan(slot_table({"a": SlotRule(4)}), [decode_persia_batch(data)], 1)
        assert caught.value.args == ("né",)

    @pytest.mark.parametrize("offsets", [[], [1], [0, 2, 1, 3], [0, 2], [0, 4]], ids=str)
    def test_offsets_that_are_none(self, offsets):
        feature = ("a", np.arange(3, dtype=np.uint64), np.array(offsets, np.uint32))
        for rule in (SlotRule(4), SlotRule(4, summation=False)):
            with pytest.raises(DecodeError, match="offsets") as caught:
                Plan(slot_table({"a": rule}), [[feature]], 1)
            assert caught.value.field == "a"

    def test_no_shards(self):
        with pytest.raises(ValueError, match="replica_size"):
            Plan(slot_table({}), [], 0)

    def test_rows_of_the_wrong_size(self):
        plan = Plan(slot_table({"a": SlotRule(4)}), [[csr("a", [1, 2])]], 1)
        for rows in [(FLOAT32, bytes(31)), (FLOAT16, bytes(32)), (FLOAT32, b"")]:
            with pytest.raises(ValueError, match="shard 0 answered"):
                plan.assemble([rows])

    def test_rows_of_the_wrong_number_or_dtype(self):
        plan = Plan(slot_table({"a": SlotRule(4)}), [[csr("a", [1, 2])]], 1)
        with pytest.raises(ValueError, match="0 groups of rows for 1"):
            plan.assemble([])
        with pytest.raises(ValueError, match="dtype 3"):
            plan.assemble([(3, bytes(32))])

    @pytest.mark.parametrize(
        ("slot", "match"),
        [
            ({"dim": 0}, "dim"),
            ({"dim": 4, "sample_fixed_size": 0}, "sample_fixed_size"),
            ({"dim": 4, "hash_stack_rounds": 1}, "embedding_size"),
            ({"dim": 4, "hash_stack_rounds": 2**63, "embedding_size": 9}, "1024 rounds at most"),
        ],
    )
    def test_slots_that_cannot_be(self, slot, match):
        with pytest.raises(ValueError, match=f"slot a: .*{match}"):
            SlotTable(8, [Slot(name="a", **slot)])

    def test_slot_given_twice(self):
        with pytest.raises(ValueError, match="twice"):
            SlotTable(8, [Slot(name="a", dim=4), Slot(name="a", dim=8)])

    @pytest.mark.parametrize("bits", [0, 64])
    def test_prefix_bits_out_of_range(self, bits):
        with pytest.raises(ValueError, match="prefix_bits"):
            SlotTable(bits, [])


def check(features: list, rules: dict[str, SlotRule], bits: int = 8, shards: int = 2) -> list[tuple]:
    """The same features as arrays and as a batch's bytes, against the twin; returns the tensors."""
    signs, expected = lookup_twin.look_up(features, rules, bits, shards, rows_of)
    slots = slot_table(rules, bits)
    flat = Plan(slots, [features], shards)
    decoded = Plan(slots, [decode_persia_batch(batch_twin.encode(features))], shards)
    for plan in (flat, decoded):
        groups = asked(plan)
        assert {group: set(of_group) for group, of_group in groups.items()} == signs
        assert all(len(set(of_group)) == len(of_group) for of_group in groups.values())
        assert_same(answer(plan)[0], expected)
        assert_same(answer(plan, FLOAT16)[0], expected)  # the rows are exact in float16
    return expected


class TestPersiasQuirks:
    def test_ids_that_the_modulus_makes_equal_in_a_raw_feature(self):
        top = 2**56 - 1  # meets 0 under a prefix of 8 bits
        tensor = check(
            [csr("a", [0, 3, top], [top])], {"a": SlotRule(4, summation=False, prefix=1 << 56)}, shards=1
        )
        _, _, values, index, sample_id_num, _ = tensor[0]
        assert index[:, :3].tolist() == [[1, 2, 0], [0, 0, 0]]
        assert sample_id_num.tolist() == [2, 0]
        assert not values[3].any()

    def test_ids_that_the_modulus_makes_equal_are_all_summed(self):
        check([csr("a", [0, 2**56 - 1])], {"a": SlotRule(4, prefix=1 << 56)})

    def test_raw_columns_beyond_sample_fixed_size_are_dropped(self):
        rules = {"a": SlotRule(4, summation=False, sample_fixed_size=2)}
        _, _, values, index, sample_id_num, _ = check([csr("a", [5, 6, 7], [7], [])], rules)[0]
        assert index.tolist() == [[1, 2], [3, 0], [0, 0]]
        assert sample_id_num.tolist() == [2, 1, 0]
        assert len(values) == 4

    def test_raw_duplicates_share_a_row(self):
        rules = {"a": SlotRule(4, summation=False, sample_fixed_size=5)}
        assert check([csr("a", [5, 5, 6], [6])], rules)[0][3].tolist() == [[1, 1, 2, 0, 0], [2, 0, 0, 0, 0]]

    def test_raw_with_rounds_has_the_row_that_is_written_last(self):
        rule = SlotRule(4, summation=False, hash_stack_rounds=3, embedding_size=10**6, prefix=1 << 56)
        for shards in (1, 2, 5):
            check([csr("a", [1, 2, 3, 4], [3, 9])], {"a": rule}, shards=shards)

    def test_raw_with_colliding_buckets_has_a_row_for_each_id(self):
        rule = SlotRule(4, summation=False, hash_stack_rounds=1, embedding_size=1, sample_fixed_size=3)
        values, index = check([csr("a", [1, 2, 3])], {"a": rule})[0][2:4]
        assert index.tolist() == [[1, 2, 3]]
        assert (values[1] == values[2]).all()

    def test_sqrt_scaling_counts_rounds_too(self):
        rule = SlotRule(4, sqrt_scaling=True, hash_stack_rounds=2, embedding_size=100)
        check([csr("a", [1, 2], [], [3, 3])], {"a": rule})

    def test_sqrt_scaling_of_raw_needs_rounds(self):
        rules = {
            "a": SlotRule(4, summation=False, sqrt_scaling=True),
            "b": SlotRule(4, summation=False, sqrt_scaling=True, hash_stack_rounds=1, embedding_size=10**6),
            "c": SlotRule(4, summation=False, sqrt_scaling=True, hash_stack_rounds=4, embedding_size=10**6),
        }
        check([csr(name, [1, 2], [3]) for name in rules], rules)

    def test_shards_that_store_rows_differently(self):
        rules = {"a": SlotRule(16), "b": SlotRule(16, summation=False)}
        features = [csr(name, list(range(40)), [3, 3]) for name in rules]
        plan = Plan(slot_table(rules), [features], 3)
        rows = []
        for shard, dim, packed in plan.groups():
            dtype, kind = ((FLOAT32, np.float32), (FLOAT16, np.float16))[shard % 2]
            found = [rows_of(sign, dim) for sign in np.frombuffer(packed, np.uint64).tolist()]
            rows.append((dtype, np.array(found, kind).tobytes()))
        assert_same(plan.assemble(rows)[0], lookup_twin.look_up(features, rules, 8, 3, rows_of)[1])

    def test_feature_twice_in_a_batch(self):
        check([csr("a", [1, 2]), csr("a", [2, 3])], {"a": SlotRule(4)})


slot_rules = st.builds(
    SlotRule,
    dim=st.sampled_from([1, 3, 8, 16, 24, 32]),
    summation=st.booleans(),
    sqrt_scaling=st.booleans(),
    sample_fixed_size=st.integers(1, 4),
    hash_stack_rounds=st.integers(0, 3),
    embedding_size=st.sampled_from([1, 7, 10**6]),
    prefix=st.sampled_from([0, 1 << 56, 2 << 56, 2**64 - 5]),
)
some_ids = st.integers(0, 12) | st.integers(0, 2**64 - 1) | st.sampled_from([2**56 - 1, 2**56, 2**60 - 1])
feature_samples = st.lists(st.lists(some_ids, max_size=5), min_size=2, max_size=2)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(slot_rules, feature_samples), max_size=4),
    st.sampled_from([1, 4, 8, 20, 62]),
    st.integers(1, 4),
)
def test_any_batch_equals_the_twin(chosen, bits, shards):
    rules = {f"f{i}": rule for i, (rule, _) in enumerate(chosen)}
    features = [csr(f"f{i}", *samples) for i, (_, samples) in enumerate(chosen)]
    check(features, rules, bits, shards)


@settings(deadline=None)
@given(st.lists(feature_samples, min_size=1, max_size=4), st.integers(1, 3))
def test_batches_of_a_request_are_answered_as_if_alone(batches, shards):
    rules = {"a": SlotRule(4, prefix=1 << 56), "b": SlotRule(4, summation=False, prefix=1 << 56)}
    features = [[csr("a", *samples), csr("b", *samples)] for samples in batches]
    together = answer(Plan(slot_table(rules), features, shards))
    for mine, alone in zip(together, features, strict=True):
        assert_same(mine, lookup_twin.look_up(alone, rules, 8, shards, rows_of)[1])
