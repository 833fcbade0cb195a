"""Every kind of storage that a test can have without a server."""

import secrets

import pytest

from satrap.storage import open_storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    """A folder that does not exist yet."""
    if request.param == "local":
        yield open_storage(tmp_path / "folder")
        return
    found = open_storage(f"memory://{secrets.token_hex(8)}/folder")
    yield found
    for entry in found.list():
        if not entry.is_folder:
            found.remove(entry.name)
