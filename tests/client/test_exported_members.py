"""`__all__` says what there is, sorted, and nothing that is not there."""

import types

import satrap.client


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(satrap.client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(satrap.client.__all__) == public
    assert satrap.client.__all__ == sorted(satrap.client.__all__)
