"""The table: one class of tests over the native one and a twin of dicts and numpy."""

import itertools
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap._core.table import MAX_DIM, Table, TableSpaceError

SIGNS = np.array([0, 1, 2**63, 2**64 - 1, 12345], np.uint64)


class DictTable:
    """What a table is, in the plainest words: an ordinal for every sign that was written or erased, and a row
    unless it was erased last. Tombstones are kept for ever, which a table may do too."""

    CURSOR = 1 << 40  # cursors of a scan are opaque: these are no row numbers either

    def __init__(self, dim: int, dtype: str, capacity_hint: int = 0) -> None:
        if capacity_hint >> 48:
            raise TableSpaceError("no machine has that much memory")
        self.dim, self.dtype = dim, dtype
        self._rows: dict[int, tuple[int, np.ndarray | None]] = {}

    def _present(self) -> dict[int, tuple[int, np.ndarray]]:
        return {sign: (ordinal, row) for sign, (ordinal, row) in self._rows.items() if row is not None}

    def __len__(self) -> int:
        return len(self._present())

    def lookup(self, signs, out, found=None) -> int:
        missing = 0
        for i, sign in enumerate(signs.tolist()):
            _, row = self._rows.get(sign, (0, None))
            out[i] = 0 if row is None else row
            missing += row is None
            if found is not None:
                found[i] = row is not None
        return missing

    def contains(self, signs, found) -> int:
        found[:] = [self._rows.get(sign, (0, None))[1] is not None for sign in signs.tolist()]
        return int(found.sum())

    def upsert(self, signs, rows, ordinal=0) -> int:
        written = 0
        with np.errstate(over="ignore"):
            rows = rows.astype(self.dtype)
        for sign, row in zip(signs.tolist(), rows, strict=True):
            if sign in self._rows and self._rows[sign][0] > ordinal:
                continue
            self._rows[sign] = (ordinal, row.copy())
            written += 1
        return written

    def erase(self, signs, ordinal) -> int:
        gone = 0
        for sign in signs.tolist():
            stored, row = self._rows.get(sign, (0, None))
            if stored <= ordinal:
                self._rows[sign] = (ordinal, None)
                gone += row is not None
        return gone

    def capture(self, signs):
        known = [self._rows.get(sign) for sign in signs.tolist()]
        states = [0 if one is None else 2 if one[1] is None else 1 for one in known]
        rows = [np.zeros(self.dim, self.dtype) if one is None or one[1] is None else one[1] for one in known]
        return (
            np.array(states, np.uint8),
            np.array([0 if one is None else one[0] for one in known], np.uint32),
            np.array(rows, self.dtype).reshape(len(known), self.dim),
        )

    def restore(self, signs, states, ordinals, rows) -> int:
        written = 0
        for sign, state, ordinal, row in zip(
            signs.tolist(), states.tolist(), ordinals.tolist(), rows, strict=True
        ):
            if state == 0 and sign not in self._rows:
                continue
            self._rows[sign] = (ordinal if state else 0, row.copy() if state == 1 else None)
            written += 1
        return written

    def forget_tombstones(self, horizon) -> None:
        """Nothing older will come: what is kept does no harm."""

    def scan(self, start=0, limit=65536):
        start //= self.CURSOR
        present = list(self._present().items())
        items = present[start : start + limit]
        signs = np.array([sign for sign, _ in items], np.uint64)
        rows = np.array([row for _, (_, row) in items], self.dtype).reshape(len(items), self.dim)
        ordinals = np.array([ordinal for _, (ordinal, _) in items], np.uint32)
        end = start + len(items)
        return signs, rows, ordinals, end * self.CURSOR if end < len(present) else None

    def tombstones(self, start=0, limit=65536):
        start //= self.CURSOR
        items = [(sign, ordinal) for sign, (ordinal, row) in self._rows.items() if row is None]
        page = items[start : start + limit]
        end = start + len(page)
        return (
            np.array([sign for sign, _ in page], np.uint64),
            np.array([ordinal for _, ordinal in page], np.uint32),
            end * self.CURSOR if end < len(items) else None,
        )

    def reserve(self, rows) -> None:
        """A dict grows by itself."""
        if rows >> 48:
            raise TableSpaceError("no machine has that much memory")


def sign_hash(sign: int) -> int:
    """The table's hash: splitmix64's finalizer."""
    mask = 2**64 - 1
    sign = (sign ^ sign >> 30) * 0xBF58476D1CE4E5B9 & mask
    sign = (sign ^ sign >> 27) * 0x94D049BB133111EB & mask
    return sign ^ sign >> 31


def signs_of_one_bucket(n: int) -> np.ndarray:
    """Signs whose hashes begin alike below the directory's 12 bits: at home in one bucket of any segment of up
    to 2**12 buckets, whose number of slots is 7."""
    same = (sign for sign in range(2**63, 2**64) if sign_hash(sign) >> 40 & 0xFFF == 0xABC)
    return np.fromiter(itertools.islice(same, n), np.uint64, n)


ONE_BUCKET = signs_of_one_bucket(40)


def rows_of(signs: np.ndarray, dim: int) -> np.ndarray:
    return np.random.default_rng(len(signs) + dim).standard_normal((len(signs), dim)).astype(np.float32)


def everything(table) -> dict[int, tuple[int, bytes]]:
    contents = {}
    at = 0
    while at is not None:
        signs, rows, ordinals, at = table.scan(at, 3)
        for sign, row, ordinal in zip(signs.tolist(), rows, ordinals.tolist(), strict=True):
            assert sign not in contents
            contents[sign] = (ordinal, row.tobytes())
    return contents


def all_tombstones(table) -> dict[int, int]:
    found = {}
    at = 0
    while at is not None:
        signs, ordinals, at = table.tombstones(at, 3)
        found |= dict(zip(signs.tolist(), ordinals.tolist(), strict=True))
    return found


class TableTests:
    make: Callable

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("dim", [1, 2, 3, 7, 16, 31, MAX_DIM])
    def test_rows_come_back_as_they_were_cast(self, dim, dtype):
        table = self.make(dim, dtype)
        rows = rows_of(SIGNS, dim)
        assert table.upsert(SIGNS, rows) == len(SIGNS)
        out, found = np.ones((len(SIGNS), dim), dtype), np.empty(len(SIGNS), np.uint8)
        assert table.lookup(SIGNS, out, found) == 0
        assert out.tobytes() == rows.astype(dtype).tobytes()
        assert found.all() and len(table) == len(SIGNS)

    def test_missing_rows_are_zeros_and_counted(self):
        table = self.make(4, "float32")
        table.upsert(SIGNS[:2], rows_of(SIGNS[:2], 4))
        out, found = np.ones((5, 4), np.float32), np.empty(5, np.uint8)
        assert table.lookup(SIGNS, out, found) == 3
        assert found.tolist() == [1, 1, 0, 0, 0]
        assert (out[2:] == 0).all() and (out[:2] != 0).all()
        assert table.contains(SIGNS, found) == 2
        assert found.tolist() == [1, 1, 0, 0, 0]

    def test_duplicates_in_one_batch(self):
        table = self.make(1, "float32")
        signs = np.array([7, 7, 8, 7], np.uint64)
        assert table.upsert(signs, np.array([[1], [2], [3], [4]], np.float32)) == 4
        out = np.empty((4, 1), np.float32)
        assert table.lookup(signs, out) == 0
        assert out.ravel().tolist() == [4, 4, 3, 4]

    def test_older_never_overwrites_and_equal_does(self):
        table = self.make(1, "float32")
        sign, out = SIGNS[:1], np.empty((1, 1), np.float32)
        for ordinal, value, expected in ((5, 1, 1), (4, 2, 1), (5, 3, 3), (2**32 - 1, 4, 4), (5, 5, 4)):
            table.upsert(sign, np.array([[value]], np.float32), ordinal)
            table.lookup(sign, out)
            assert out[0, 0] == expected
        assert table.erase(sign, 2**32 - 2) == 0
        assert table.erase(sign, 2**32 - 1) == 1 and table.erase(sign, 2**32 - 1) == 0
        assert len(table) == 0

    def test_a_tombstone_remembers_its_ordinal(self):
        table = self.make(1, "float32")
        one, out, found = np.ones((1, 1), np.float32), np.empty((2, 1), np.float32), np.empty(2, np.uint8)
        table.upsert(SIGNS[:1], one, 3)
        assert table.erase(SIGNS[:2], 5) == 1  # the second one was never there, and is remembered as well
        assert len(table) == 0 and everything(table) == {}
        assert all_tombstones(table) == dict.fromkeys(SIGNS[:2].tolist(), 5)
        assert table.lookup(SIGNS[:2], out, found) == 2 and not found.any() and not out.any()
        for sign in (SIGNS[:1], SIGNS[1:2]):
            assert table.upsert(sign, one, 4) == 0
            assert table.erase(sign, 4) == 0
            assert table.upsert(sign, one, 5) == 1
            assert table.erase(sign, 7) == 1
            assert table.upsert(sign, one, 6) == 0 and table.upsert(sign, one, 8) == 1
        assert len(table) == 2 and {ordinal for ordinal, _ in everything(table).values()} == {8}

    def test_the_order_of_operations_does_not_matter(self):
        """Their ordinals do: a replay, or packets that overtake each other, end in the same table."""
        operations = [
            (kind, sign, ordinal)
            for ordinal, (kind, sign) in enumerate(
                itertools.product(["upsert", "erase", "upsert"], SIGNS.tolist())
            )
        ]
        random, ends = np.random.default_rng(7), []
        for _ in range(20):
            table = self.make(2, "float32")
            for kind, sign, ordinal in random.permutation(np.array(operations, object)).tolist():
                signs = np.array([sign], np.uint64)
                if kind == "upsert":
                    table.upsert(signs, np.full((1, 2), ordinal, np.float32), ordinal)
                else:
                    table.erase(signs, ordinal)
            ends.append(everything(table))
        assert len(ends[0]) == len(SIGNS) and all(end == ends[0] for end in ends)

    def test_capture_tells_rows_tombstones_and_what_was_never_there(self):
        table = self.make(3, "float16")
        rows = rows_of(SIGNS, 3)
        table.upsert(SIGNS[:3], rows[:3], 7)
        table.erase(SIGNS[2:4], 9)
        states, ordinals, got = table.capture(SIGNS)
        assert (states.dtype, ordinals.dtype, got.dtype) == (np.uint8, np.uint32, np.float16)
        assert states.tolist() == [1, 1, 2, 2, 0] and ordinals.tolist() == [7, 7, 9, 9, 0]
        assert got[:2].tobytes() == rows[:2].astype(np.float16).tobytes() and not got[2:].any()
        states, _, got = table.capture(SIGNS[:0])
        assert len(states) == 0 and got.shape == (0, 3)

    def test_restore_takes_an_update_back(self):
        """Whatever the ordinals; and what comes again later finds the table as it was."""
        table = self.make(2, "float32")
        rows = rows_of(SIGNS, 2)
        table.upsert(SIGNS[:3], rows[:3], 7)
        table.erase(SIGNS[2:4], 9)
        before, captured = everything(table), table.capture(SIGNS)
        for update in (lambda: table.upsert(SIGNS, rows + 1, 20), lambda: table.erase(SIGNS, 21)):
            update()
            for _ in range(2):  # again: as after a crash
                assert table.restore(SIGNS, *captured) == 5
                assert everything(table) == before and len(table) == 2
            again = table.capture(SIGNS)
            assert again[0].tolist() == [1, 1, 2, 2, 2] and again[1].tolist() == [7, 7, 9, 9, 0]
        assert table.upsert(SIGNS, rows + 2, 8) == 3  # 2 rows of 7, and the one that was absent
        assert table.upsert(SIGNS[4:], rows[4:], 0) == 0  # its ordinal is 8 now

    def test_restore_makes_rows_and_tombstones(self):
        """In a table that knows nothing of them: each of its own ordinal, absent ones not at all."""
        table = self.make(1, "float32")
        states, ordinals = np.array([1, 2, 0, 1, 2], np.uint8), np.array([5, 6, 0, 2**32 - 1, 0], np.uint32)
        rows = np.arange(5, dtype=np.float32)[:, None]
        assert table.restore(SIGNS, states, ordinals, rows) == 4
        assert {sign: ordinal for sign, (ordinal, _) in everything(table).items()} == {
            int(SIGNS[0]): 5,
            int(SIGNS[3]): 2**32 - 1,
        }
        assert table.capture(SIGNS)[0].tolist() == [1, 2, 0, 1, 2]
        assert table.upsert(SIGNS[1:2], rows[:1], 5) == 0 and table.upsert(SIGNS[1:2], rows[:1], 6) == 1

    def test_restore_of_a_sign_twice(self):
        table = self.make(1, "float32")
        signs, rows = np.array([7, 7, 7], np.uint64), np.array([[1], [2], [3]], np.float32)
        assert table.restore(signs, np.array([1, 2, 1], np.uint8), np.array([9, 8, 1], np.uint32), rows) == 3
        assert everything(table) == {7: (1, rows[2].tobytes())}

    def test_signs_of_one_bucket(self):
        """They go on in the next ones, and are found, erased and revived there."""
        table = self.make(2, "float32")
        rows = rows_of(ONE_BUCKET, 2)
        for i in range(len(ONE_BUCKET)):
            assert table.upsert(ONE_BUCKET[i : i + 1], rows[i : i + 1], 1) == 1
        out, found = np.empty_like(rows), np.empty(len(rows), np.uint8)
        assert table.lookup(ONE_BUCKET, out, found) == 0 and out.tobytes() == rows.tobytes()
        assert table.erase(ONE_BUCKET[::2].copy(), 2) == 20
        assert table.lookup(ONE_BUCKET, out, found) == 20 and found.tolist() == [0, 1] * 20
        assert (out[1::2] == rows[1::2]).all() and not out[::2].any()
        assert table.upsert(ONE_BUCKET, rows, 1) == 20 and table.upsert(ONE_BUCKET, rows, 2) == 40
        assert table.lookup(ONE_BUCKET, out) == 0 and out.tobytes() == rows.tobytes()

    def test_more_rows_than_memory(self):
        with pytest.raises(TableSpaceError):
            self.make(4, "float32", 2**62)
        table = self.make(4, "float32")
        table.upsert(SIGNS, rows_of(SIGNS, 4))
        with pytest.raises(MemoryError):  # which a TableSpaceError is
            table.reserve(2**60)
        assert table.lookup(SIGNS, np.empty((5, 4), np.float32)) == 0

    def test_float16_rounds_as_numpy_does(self):
        special = [
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            65504,
            65519.99,
            65520,
            1e30,
            6e-8,
            2.9e-8,
            2.98e-8,
            6.1e-5,
            2049,
        ]
        bits = np.arange(0, 2**32, 65537 * 3, dtype=np.uint64).astype(np.uint32)
        values = np.concatenate([np.array(special, np.float32), bits.view(np.float32)])
        table = self.make(1, "float16")
        signs = np.arange(len(values), dtype=np.uint64)
        with np.errstate(over="ignore"):
            table.upsert(signs, values[:, None])
            expected = values.astype(np.float16)
        out = np.empty((len(values), 1), np.float16)
        table.lookup(signs, out)
        assert out.tobytes() == expected.tobytes()

    def test_float16_rows_go_in_as_they_are(self):
        table = self.make(2, "float16")
        rows = np.array([[0x7C01, 0x8001]], np.uint16).view(np.float16)  # a signalling NaN, a denormal
        table.upsert(SIGNS[:1], rows)
        out = np.empty((1, 2), np.float16)
        table.lookup(SIGNS[:1], out)
        assert out.tobytes() == rows.tobytes()

    def test_nothing_asked_nothing_done(self):
        table = self.make(3, "float32", 1000)
        none = np.empty(0, np.uint64)
        assert table.lookup(none, np.empty((0, 3), np.float32)) == 0
        assert table.upsert(none, np.empty((0, 3), np.float32)) == 0
        assert table.erase(none, 1) == 0
        assert everything(table) == {}


class TestDictTable(TableTests):
    make = DictTable


class TestTable(TableTests):
    make = Table

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["upsert", "upsert", "erase", "reserve", "forget", "capture", "restore"]),
                st.lists(
                    st.integers(0, 40) | st.sampled_from([2**64 - 1, 2**63, *ONE_BUCKET.tolist()]),
                    max_size=30,
                ),
                st.integers(0, 5),
            ),
            max_size=30,
        ),
        st.sampled_from([(3, "float32"), (3, "float16"), (MAX_DIM, "float16")]),
    )
    @settings(deadline=None, max_examples=100)
    def test_same_as_its_twin(self, operations, shape):
        dim, dtype = shape
        table, twin = Table(dim, dtype), DictTable(dim, dtype)
        horizon, captured = 0, (np.empty(0, np.uint64), *twin.capture(np.empty(0, np.uint64)))
        for step, (operation, signs, ordinal) in enumerate(operations):
            signs, ordinal = np.array(signs, np.uint64), max(ordinal, horizon)
            if operation == "upsert":
                rows = rows_of(signs, dim) + np.float32(step)
                assert table.upsert(signs, rows, ordinal) == twin.upsert(signs, rows, ordinal)
            elif operation == "erase":
                assert table.erase(signs, ordinal) == twin.erase(signs, ordinal)
            elif operation == "forget":
                horizon = ordinal
                table.forget_tombstones(horizon)
            elif operation == "capture":
                captured = (signs, *twin.capture(signs))
                if horizon == 0:  # else a tombstone may be gone
                    for array, twins in zip(table.capture(signs), captured[1:], strict=True):
                        assert array.dtype == twins.dtype and array.tobytes() == twins.tobytes()
            elif operation == "restore":
                written = twin.restore(*captured)
                assert table.restore(*captured) == written or horizon > 0
            else:
                table.reserve(len(signs) * 10)
            assert len(table) == len(twin)
            found, twins = np.empty(len(signs), np.uint8), np.empty(len(signs), np.uint8)
            assert table.contains(signs, found) == twin.contains(signs, twins)
            assert found.tolist() == twins.tolist()
        assert everything(table) == everything(twin)
        known = all_tombstones(twin)
        if horizon == 0:
            assert all_tombstones(table) == known
        else:
            assert all_tombstones(table).items() <= known.items()

    def test_memory_at_a_usual_size(self):
        rows = 1_000_000
        table = Table(16, "float32", rows)
        signs = np.random.default_rng(5).integers(0, 2**64 - 1, rows, np.uint64)
        table.upsert(signs, np.zeros((rows, 16), np.float32))
        assert table.bytes <= 1.30 * len(table) * (8 + 64)

    def test_unaligned_arrays(self):
        table = Table(2, "float32")
        table.upsert(SIGNS, rows_of(SIGNS, 2))
        signs = np.frombuffer(b"x" + SIGNS.tobytes(), np.uint8)[1:].view(np.uint64)
        out = np.empty((5, 2), np.float32)
        assert not signs.flags.aligned
        assert table.lookup(signs, out) == 0
        assert out.tobytes() == rows_of(SIGNS, 2).tobytes()

    def test_readers_beside_a_writer_in_python(self):
        table = Table(8, "float32")
        signs = np.arange(500, dtype=np.uint64)
        table.upsert(signs, np.zeros((500, 8), np.float32))
        done, torn = threading.Event(), []

        def read() -> None:
            out = np.empty((500, 8), np.float32)
            while not done.is_set():
                if table.lookup(signs, out) or (out != out[:, :1]).any():
                    torn.append(out.copy())

        reader = threading.Thread(target=read)
        reader.start()
        for version in range(1, 300):
            table.upsert(signs, np.full((500, 8), version, np.float32), version)
            table.upsert(signs + np.uint64(1000 * version), np.zeros((500, 8), np.float32))  # grows
        done.set()
        reader.join()
        assert not torn


class TestBadArguments:
    @pytest.mark.parametrize("dim", [0, MAX_DIM + 1])
    def test_dim_out_of_range(self, dim):
        with pytest.raises(ValueError, match=f"dim must be 1 to {MAX_DIM}, not {dim}"):
            Table(dim, "float32")

    def test_dtype_unknown(self):
        with pytest.raises(ValueError, match="dtype must be 'float32' or 'float16', not 'int8'"):
            Table(4, "int8")

    def test_out_of_another_dtype_or_shape(self):
        table = Table(4, "float16")
        with pytest.raises(ValueError, match="out must be float16"):
            table.lookup(SIGNS, np.empty((5, 4), np.float32))
        with pytest.raises(ValueError, match=r"out must have the shape \[5, 4\], not \[5, 3\]"):
            table.lookup(SIGNS, np.empty((5, 3), np.float16))
        with pytest.raises(ValueError, match="found must have one byte for each of 5 signs, not 4"):
            table.lookup(SIGNS, np.empty((5, 4), np.float16), np.empty(4, np.uint8))

    def test_float16_rows_into_a_float32_table(self):
        with pytest.raises(ValueError, match="takes float32 rows only"):
            Table(2, "float32").upsert(SIGNS, np.zeros((5, 2), np.float16))

    def test_nothing_is_converted_silently(self):
        table = Table(2, "float32")
        with pytest.raises(TypeError):
            table.lookup(SIGNS.astype(np.int64), np.empty((5, 2), np.float32))
        with pytest.raises(TypeError):
            table.lookup(SIGNS, np.empty((5, 4), np.float32)[:, ::2])
        with pytest.raises(ValueError, match="rows must be float32 or float16"):
            table.upsert(SIGNS, np.zeros((5, 2)))

    def test_out_must_be_writable(self):
        out = np.empty((5, 2), np.float32)
        out.flags.writeable = False
        with pytest.raises((TypeError, ValueError, BufferError)):
            Table(2, "float32").lookup(SIGNS, out)

    @pytest.mark.parametrize("ordinal", [-1, 2**32])
    def test_ordinal_out_of_range(self, ordinal):
        with pytest.raises(TypeError):
            Table(2, "float32").upsert(SIGNS, np.zeros((5, 2), np.float32), ordinal)
        with pytest.raises(TypeError):
            Table(2, "float32").erase(SIGNS, ordinal)

    def test_what_restore_refuses_changes_nothing(self):
        table = Table(2, "float32")
        table.upsert(SIGNS, rows_of(SIGNS, 2), 5)
        before = everything(table)
        states, ordinals, rows = table.capture(SIGNS)
        for bad, message in (
            ((states[:4], ordinals, rows), "states must have one for each of 5 signs, not 4"),
            ((states, ordinals[:4], rows), "ordinals must have one for each of 5 signs, not 4"),
            ((states, ordinals, rows[:4]), r"rows must have the shape \[5, 2\]"),
            ((states, ordinals, rows.astype(np.float16)), "rows must be float32, as the table is"),
            ((states + np.uint8(2), ordinals, rows), "a state is 0"),
        ):
            with pytest.raises(ValueError, match=message):
                table.restore(SIGNS, *bad)
        with pytest.raises(TypeError):
            table.restore(SIGNS, states.astype(np.int64), ordinals, rows)
        assert everything(table) == before

    def test_an_erasure_needs_an_ordinal(self):
        with pytest.raises(TypeError):
            Table(2, "float32").erase(SIGNS)
