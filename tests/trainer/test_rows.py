"""The trainer's rows, against a dict: also while a moment of them is held still."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap.trainer.rows import FrozenRows, Rows

DIMS = (2, 3)
dims = st.sampled_from(DIMS)
some = st.lists(st.integers(0, 15), max_size=8)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), dims, some),
        st.tuples(st.just("erase"), dims, some),
        st.tuples(st.sampled_from(["freeze", "thaw"]), dims, st.just([])),
    ),
    max_size=30,
)


def contents(frozen: FrozenRows) -> dict[tuple[int, int], list[float]]:
    return {
        (dim, sign): row.tolist()
        for dim in frozen.tables
        for signs, rows in frozen.pages(dim)
        for sign, row in zip(signs.tolist(), rows, strict=True)
    }


@given(steps)
@settings(deadline=None)
def test_rows_are_a_dict_and_a_frozen_moment_stays(steps):
    rows = Rows("float32")
    now: dict[tuple[int, int], list[float]] = {}
    frozen, then = None, {}
    for number, (what, dim, signs) in enumerate(steps):
        keys = np.array(signs, np.uint64)
        if what == "write":
            values = np.full((len(signs), dim), number, np.float32) + np.arange(len(signs))[:, None] / 16
            rows.write(dim, keys, values.astype(np.float32))
            now.update({(dim, sign): row.tolist() for sign, row in zip(signs, values, strict=True)})
        elif what == "erase":
            rows.erase(dim, keys)
            for sign in signs:
                now.pop((dim, sign), None)
        elif what == "freeze" and frozen is None:
            frozen, then = rows.freeze(), dict(now)
        elif what == "thaw":
            rows.thaw()
            frozen = None
        if frozen is not None:
            assert contents(frozen) == then
            assert frozen.count == len(then)
        assert rows.count == len(now)
        for each in DIMS:
            read, found = rows.read(each, np.arange(16, dtype=np.uint64))
            for sign in range(16):
                assert found[sign] == ((each, sign) in now)
                assert read[sign].tolist() == now.get((each, sign), [0.0] * each)
    rows.thaw()
    assert contents(rows.freeze()) == now


def test_a_moment_is_held_once():
    rows = Rows("float16")
    rows.freeze()
    with pytest.raises(RuntimeError, match="frozen already"):
        rows.freeze()


def test_many_rows_are_read_page_by_page():
    rows = Rows("float16")
    signs = np.arange(200_000, dtype=np.uint64)
    rows.reserve(4, len(signs))
    rows.write(4, signs, np.ones((len(signs), 4), np.float16))
    pages = [page for page, _ in rows.freeze().pages(4)]
    assert len(pages) > 2
    assert np.array_equal(np.sort(np.concatenate(pages)), signs)
