"""Names of files that are being written."""

import pytest

from satrap.storage.temporary import is_temporary, name_behind, temporary_name


@pytest.mark.parametrize("name", ["manifest.json", ".hidden", "00000000000000000007-w.dim16.arrow"])
def test_the_name_behind_a_temporary_one(name: str) -> None:
    first, second = temporary_name(name), temporary_name(name)
    assert first != second
    assert is_temporary(first)
    assert name_behind(first) == name_behind(second) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "name",
        ".name",
        "name.0123456789abcdef",
        ".name.0123456789ABCDEF",
        ".name.0123456789abcde",
        "..0123456789abcdef",
    ],
)
def test_other_names_have_none_behind_them(name: str) -> None:
    assert name_behind(name) is None
