"""Ids to signs: the same as a lookup's, and nothing else is taken."""

import json

import numpy as np
import pytest

from satrap._core.plan import Plan
from satrap.config import EmbeddingConfig
from satrap.errors import InvalidInputError, UnknownFeatureError
from satrap.middleware.slots import resolve_slots
from satrap.trainer.signs import feature_signs, find_feature, rows_of

CONFIG = EmbeddingConfig.model_validate(
    {
        "feature_index_prefix_bit": 8,
        "slots_config": {
            "user": {"dim": 4},
            "tags": {"dim": 8, "embedding_summation": False},
            "wide": {"dim": 4, "hash_stack_config": {"hash_stack_rounds": 2, "embedding_size": 50}},
        },
        "feature_groups": {"shared": ["tags"]},
    }
)
FEATURES = feature_signs(CONFIG, pytest.fail)
IDS = np.array([0, 1, 7, 2**40, 2**56 - 1, 2**63 + 5, 2**64 - 1], np.uint64)


def looked_up(name: str, ids: np.ndarray) -> set[int]:
    """The signs that the middleware asks for."""
    offsets = np.arange(len(ids) + 1, dtype=np.uint32)
    plan = Plan(resolve_slots(CONFIG, pytest.fail).table, [[(name, ids, offsets)]], 1)
    return {int(sign) for _, _, signs in plan.groups() for sign in np.frombuffer(signs, np.uint64)}


@pytest.mark.parametrize("name", ["user", "tags"])
def test_signs_are_those_that_a_lookup_asks_for(name):
    signs = FEATURES[name].signs(IDS)
    assert signs.dtype == np.uint64
    assert set(signs.tolist()) == looked_up(name, IDS)


def test_buckets_of_a_hash_stack_are_those_that_a_lookup_asks_for():
    wide = FEATURES["wide"]
    buckets = wide.bucket_numbers(IDS)
    assert buckets.shape == (2, len(IDS))
    assert set(wide.signs(buckets).tolist()) == looked_up("wide", IDS)


def test_an_id_where_a_bucket_is_needed_is_refused():
    with pytest.raises(InvalidInputError, match=r"buckets 0 to 99, and 100 is none.*buckets\('wide', ids\)"):
        FEATURES["wide"].signs([3, 100])


def test_buckets_of_a_feature_without_a_hash_stack():
    with pytest.raises(InvalidInputError, match="no hash stack"):
        FEATURES["user"].bucket_numbers([1])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint64"])
def test_whole_numbers_of_any_kind_and_shape(dtype):
    ids = np.array([[1, 2], [3, 4]], dtype)
    assert FEATURES["user"].signs(ids).tolist() == [(1 << 56) * 2 + i for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("empty", [[], np.empty(0, np.float32)])
def test_no_ids(empty):
    assert FEATURES["user"].signs(empty).shape == (0,)


@pytest.mark.parametrize("ids", [[1.5], ["a"], [True], [None]])
def test_ids_that_are_no_whole_numbers(ids):
    with pytest.raises(InvalidInputError, match="feature 'user' must be whole numbers"):
        FEATURES["user"].signs(ids)


def test_a_list_of_small_and_very_large_ids_stays_exact():
    assert FEATURES["wide"].bucket_numbers([2**63 + 1, 5]).tolist() == (
        FEATURES["wide"].bucket_numbers(np.array([2**63 + 1, 5], np.uint64)).tolist()
    )


@pytest.mark.parametrize("ids", [[2**64], [-(2**63) - 1], [2**63, -1]])
def test_ids_beyond_64_bits(ids):
    with pytest.raises(InvalidInputError, match=r"0 to 2\^64 - 1"):
        FEATURES["user"].signs(ids)


def test_negative_ids():
    with pytest.raises(InvalidInputError, match=r"not be negative, but one is -7.*view"):
        FEATURES["user"].signs(np.array([3, -7]))


def test_an_unknown_feature_names_those_there_are():
    with pytest.raises(UnknownFeatureError, match=r"usr.*tags, user, wide"):
        find_feature(FEATURES, "usr")


def test_rows():
    rows = rows_of(FEATURES["user"], [[1.0, 2.0, 3.0, 4.0]], 1, "float32")
    assert rows.dtype == np.float32
    assert json.dumps(rows.tolist()) == "[[1.0, 2.0, 3.0, 4.0]]"
    assert rows_of(FEATURES["user"], np.ones((2, 8))[:, ::2], 2, "float16").flags.c_contiguous


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 4), np.float32), r"must be \[1, 4\].*not \[2, 4\]"),
        (np.ones((1, 5), np.float32), r"must be \[1, 4\].*not \[1, 5\]"),
        (np.ones(4, np.float32), r"not \[4\]"),
        (np.ones((1, 4), np.int64), "must be floats, not int64"),
        ([[1, np.nan, 1, 1]], "vector 0 of feature 'user' is not finite"),
        ([[1, np.inf, 1, 1]], "diverged"),
        ([[1, 1e300, 1, 1]], "not finite as float32"),
    ],
)
def test_vectors_that_are_refused(vectors, message):
    with pytest.raises(InvalidInputError, match=message):
        rows_of(FEATURES["user"], vectors, 1, "float32")


def test_a_float_too_large_for_float16():
    with pytest.raises(InvalidInputError, match=r"not finite as float16.*row_dtype"):
        rows_of(FEATURES["user"], [[1, 1e5, 1, 1]], 1, "float16")
