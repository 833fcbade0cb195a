"""What every test may ask for."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def persia_data() -> Path:
    """The folder of bytes that PERSIA's own code wrote."""
    return Path(__file__).parent / "data" / "persia"
