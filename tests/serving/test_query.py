"""What a caller asks of a model."""

from collections.abc import Mapping

import pytest

from satrap.serving.query import Query


@pytest.mark.parametrize(
    ("headers", "is_description"),
    [(None, False), ({}, False), ({"x-mine": "1"}, False), ({"describe": "True"}, True)],
    ids=["no headers", "none of them", "others", "describe"],
)
def test_a_header_asks_for_the_handlers_description(
    headers: Mapping[str, str] | None, is_description: bool
) -> None:
    assert Query("m", "", {}, headers=headers).is_description is is_description
