"""Every kind of storage that a test can have without a server."""

import secrets

import fsspec
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from webhdfs_server import WebHdfsServer

from satrap.storage import open_storage


class ArrowLocal(ArrowFSWrapper):
    """What fsspec makes of pyarrow's HDFS, made of pyarrow's local files."""

    protocol = "arrowlocal"

    def __init__(self, **options):
        from pyarrow.fs import LocalFileSystem

        super().__init__(LocalFileSystem(), **options)


@pytest.fixture(scope="session", autouse=True)
def _arrow_local():
    fsspec.register_implementation("arrowlocal", ArrowLocal, clobber=True)


@pytest.fixture(params=["path", "memory", "local", "arrowlocal", "webhdfs"])
def storage(request, tmp_path):
    """A folder that does not exist yet: by its path, of whole objects, and of files that are renamed, three times."""
    if request.param == "path":
        yield open_storage(tmp_path / "folder")
    elif request.param == "memory":
        found = open_storage(f"memory://{secrets.token_hex(8)}/folder")
        yield found
        for entry in found.list():
            if not entry.is_folder:
                found.remove(entry.name)
    elif request.param == "webhdfs":
        server = WebHdfsServer(tmp_path)
        yield open_storage(f"webhdfs://{server.address}/folder")
        server.close()
    else:
        yield open_storage(f"{request.param}://{tmp_path}/folder")
