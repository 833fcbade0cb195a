"""A sign has one dim in PERSIA."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from satrap._core.table import Table
from satrap.embedding_server.updates.packet import PacketPart
from satrap.embedding_server.updates.persia_dims import with_one_dim_per_sign


def part(dim: int, signs: list[int], value: float = 1.0) -> PacketPart:
    return PacketPart(dim, np.array(signs, np.uint64), np.full((len(signs), dim), value, np.float32))


def write(tables: dict[int, Table], packet: PacketPart, ordinal: int) -> None:
    for piece in with_one_dim_per_sign([packet], tables, ordinal):
        if piece.rows is None:
            tables[piece.dim].erase(piece.signs, ordinal)
        else:
            tables[piece.dim].upsert(piece.signs, piece.rows, ordinal)


def present(table: Table) -> dict[int, tuple[int, float]]:
    signs, rows, ordinals, _ = table.scan()
    return {
        sign: (ordinal, float(row[0]))
        for sign, row, ordinal in zip(signs.tolist(), rows, ordinals.tolist(), strict=True)
    }


def test_nothing_changes_as_a_rule():
    tables = {dim: Table(dim, "float32") for dim in (2, 4)}
    packet = part(2, [1, 2, 3])
    assert with_one_dim_per_sign([packet], tables, 5) == [packet]
    assert with_one_dim_per_sign([packet], {}, 5) == [packet]
    assert with_one_dim_per_sign([part(2, [])], tables, 5)[1:] == []


def test_another_dim_replaces_the_row():
    tables = {dim: Table(dim, "float32") for dim in (2, 4)}
    write(tables, part(4, [1, 2, 3], 4.0), 5)
    pieces = with_one_dim_per_sign([part(2, [2, 9, 2], 2.0)], tables, 6)
    assert [(piece.dim, piece.signs.tolist(), piece.rows is None) for piece in pieces] == [
        (2, [2, 9, 2], False),
        (4, [2], True),
    ]
    write(tables, part(2, [2, 9, 2], 2.0), 6)
    assert present(tables[4]) == {1: (5, 4.0), 3: (5, 4.0)} and present(tables[2]) == {
        2: (6, 2.0),
        9: (6, 2.0),
    }


def test_an_older_row_of_another_dim_does_not_come_back():
    tables = {dim: Table(dim, "float32") for dim in (2, 4)}
    write(tables, part(4, [1, 2], 4.0), 9)
    assert with_one_dim_per_sign([part(2, [1, 2])], tables, 8) == []
    write(tables, part(2, [1, 3], 2.0), 8)
    assert present(tables[4]).keys() == {1, 2} and present(tables[2]).keys() == {3}


@given(
    st.lists(
        st.tuples(st.sampled_from([2, 3, 4]), st.lists(st.integers(1, 5), max_size=4), st.integers(1, 9)),
        max_size=12,
    )
)
@settings(deadline=None, max_examples=60)
def test_as_one_table_would(packets):
    """In any order of arrival: a sign has the row of its greatest ordinal, of equal ones the last, whatever the dim."""
    tables = {dim: Table(dim, "float32") for dim in (2, 3, 4)}
    one: dict[int, tuple[int, int, float]] = {}
    for number, (dim, signs, ordinal) in enumerate(packets):
        write(tables, part(dim, signs, float(number)), ordinal)
        for sign in signs:
            if ordinal >= one.get(sign, (0, 0, 0.0))[1]:
                one[sign] = (dim, ordinal, float(number))
    found = {sign: (dim, *row) for dim, table in tables.items() for sign, row in present(table).items()}
    assert found == one and sum(len(table) for table in tables.values()) == len(one)
